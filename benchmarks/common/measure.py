"""What the benchmarks share: the machine in words, timing, peak memory, a pair, a process apart."""

import argparse
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import monai
import torch
from torch.nn import functional as F

from data.phantom.cohort import subject_seed
from data.phantom.head import make_subject

HEAD_MM = 256  # a little more than the box of a synthetic head
RAISED = re.compile(r"[\w.]*(Error|Exception)\b")  # the line of a traceback that says what it was


def machine(device: torch.device) -> str:
    """Device, threads, versions and date, for the head of a table of results."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    versions = (
        f"torch {torch.__version__}, MONAI {monai.__version__}, Python {platform.python_version()}"
    )
    return f"{name}{threads}; {versions}; {time.strftime('%Y-%m-%d')}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds(
    function: Callable[[], object], device: torch.device, repeats: int = 3, warm_up: int = 1
) -> float:
    """The shortest of `repeats` runs, after `warm_up` runs that do not count."""
    times = []
    for _ in range(warm_up + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[warm_up:])


def parse_device(text: str) -> torch.device:
    """argparse type: a device that is there."""
    device = torch.device(text)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("there is no CUDA device")
    return device


def synthetic_head(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """MRI and PET of a synthetic head, (1, 1, size, size, size) in [0, 1]."""
    head = make_subject(subject_seed(0, 0), min(8, max(1, HEAD_MM / size)))
    pair = [torch.from_numpy(array.astype("float32"))[None, None] for array in (head.mri, head.pet)]
    pair = [F.interpolate(volume, size=(size, size, size), mode="trilinear") for volume in pair]
    return tuple((volume - volume.min()) / (volume.max() - volume.min()) for volume in pair)


def run_module(module: str, *arguments: str) -> str:
    """What `python -m module` prints, in a process of its own.

    Its standard error is passed on.

    Raises:
        RuntimeError: it failed. The message holds its exception, or else the last line of its
            standard error.
    """
    command = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    sys.stderr.write(ended.stderr)
    if ended.returncode:
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        reasons = [line for line in lines if RAISED.match(line)] or lines or ["without a word"]
        raise RuntimeError(f"{module} ended with status {ended.returncode}: {reasons[-1]}")
    return ended.stdout
