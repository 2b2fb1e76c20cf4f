"""benchmarks.kernels runs and names a kernel that disagrees; its figures are not tested."""

import sys

import pytest

from benchmarks import kernels as benchmark
from models.ops.kernels import tiles


@pytest.fixture
def rows(monkeypatch, capsys, device):
    """Function (*flags) -> the cells of the table's rows."""
    monkeypatch.setattr(benchmark, "copy_bandwidth", lambda _: 1e10)
    monkeypatch.setattr(tiles, "DEPTHWISE_WEIGHT_PARTS", 1)

    def run(*flags) -> list[list[str]]:
        common = [
            "--device",
            str(device),
            "--size",
            "8",
            "--embed-dim",
            "24",
            "--levels",
            "1",
            "--repeats",
            "1",
        ]
        monkeypatch.setattr(sys, "argv", ["kernels", *common, "--dtypes", "float32", *flags])
        benchmark.main()
        lines = capsys.readouterr().out.splitlines()
        return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]

    return run


def test_all_kernels_are_measured(rows):
    table = rows()
    names = [
        "7x7x7 blend",
        "3x3x3 depthwise",
        "sampling",
        "attention",
        "LayerNorm, GELU, Linear to 3",
    ]
    assert [row[0] for row in table] == names
    for row in table:
        assert float(row[3]) < 1e-4
        assert len(row) == 14 and row[-1].endswith("%")


def test_a_kernel_that_disagrees_is_not_timed(rows, monkeypatch):
    monkeypatch.setitem(benchmark.TOLERANCE, "float32", -1.0)
    (row,) = rows("--kernels", "norm_gelu")
    assert row[3].endswith("disagrees**")
    assert not any(row[4:])
