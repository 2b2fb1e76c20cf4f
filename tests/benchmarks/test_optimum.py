"""The table of optima: what is in its cells, and wrong flags."""

import csv
from types import SimpleNamespace

import pytest

from benchmarks import optimum
from models import build_model


@pytest.fixture
def measured(monkeypatch, synthetic_cohort, tmp_path) -> dict[str, dict[str, str]]:
    """{row: columns} of one subject, with a copy of the MRI in a network's place."""
    copy = SimpleNamespace(model=build_model("copy-mri"))
    monkeypatch.setattr(optimum, "load_model", lambda path, size: copy)
    flags = ["--data", synthetic_cohort, "--subjects", "synthetic-002", "--size", 44]
    flags += ["--steps", 30, "--draws", 1, "--runs", "net=some/run", "--out", tmp_path / "out"]
    optimum.run(optimum.build_parser().parse_args([str(flag) for flag in flags]))
    with open(tmp_path / "out" / "optimum.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["pair"] for row in rows} == {"synthetic-002"}
    text = (tmp_path / "out" / "optimum.md").read_text()
    assert "### synthetic-002" in text and "### mean of 1 pairs" in text
    return {row["row"]: row for row in rows}


def test_cells(measured):
    labels = [f"optimum of {name}" for name in optimum.DEFAULTS]
    assert list(measured) == ["average", "laplacian", *labels, "net"]
    for name in optimum.DEFAULTS:
        excess = {row: float(columns[f"excess {name}"]) for row, columns in measured.items()}
        assert excess["average"] == 1
        assert excess[f"optimum of {name}"] == 0
        assert min(excess.values()) > -1e-6
    for row, transfers in (("average", (0.5, 0.5)), ("net", (1, 0))):
        found = [float(measured[row][f"T_{source}"]) for source in ("mri", "pet")]
        assert found == pytest.approx(transfers, abs=1e-5)
    assert float(measured["net"]["SSIM MRI"]) == pytest.approx(1)
    both = [float(measured["average"][f"SSIM {source}"]) for source in ("MRI", "PET")]
    assert float(measured["average"]["SSIM"]) == pytest.approx(sum(both) / 2)
