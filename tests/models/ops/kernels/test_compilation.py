"""Every kernel compiles for a GPU, present or not: the interpreter also runs what does not."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.helpers.golden import ROOT

KERNELS = {
    *(f"depthwise.{name}" for name in ("_convolve", "_correlate")),
    *(f"sampling.{name}" for name in ("_forward", "_gather", "_slope")),
    *(f"attention.{name}" for name in ("_forward", "_backward")),
    *(f"norm_gelu.{name}" for name in ("_forward", "_backward")),
}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_compile_and_keep_their_sums_in_registers(tmp_path):
    command = [sys.executable, "-m", "benchmarks.registers", "--tokens", "4", "--embed-dim", "24"]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    ended = subprocess.run(
        [*command, "--dtypes", "bfloat16"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    rows = [
        line.strip("| ").split(" | ") for line in ended.stdout.splitlines() if line.startswith("| ")
    ][1:]
    assert {row[0] for row in rows} == KERNELS
    assert all(int(row[4]) == 0 for row in rows), rows
