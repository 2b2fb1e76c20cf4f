"""Excess by balance: the average has 100 %, refining comes nearer, and wrong runs are refused."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks import balances
from inference.trained import TrainedModel
from models import build_model
from utils.errors import InputError


class AnyBalance(TrainedModel):
    """The average, as if it had been trained for every balance."""

    def turned_to(self, balance: float) -> TrainedModel:
        return replace(self, objective=f"salient-composite:{3 * balance}:{3 * (1 - balance)}")


def average(kind: type[TrainedModel]) -> TrainedModel:
    model = build_model("average")
    model.stream_maps = None
    return kind(model, "paper", 64, "x", "a test", objective="salient-composite:1:1")


def test_the_average_is_at_one_hundred(monkeypatch, synthetic_cohort, tmp_path, capsys):
    monkeypatch.setattr(balances, "load_model", lambda path: average(AnyBalance))
    one = SimpleNamespace(subjects=balances.find_subjects(synthetic_cohort).subjects[:1])
    monkeypatch.setattr(balances, "find_subjects", lambda root: one)
    monkeypatch.setattr(balances, "run_network", lambda model, size, shape, fuse: model(*fuse(())))
    flags = ["--data", synthetic_cohort, "--balances", 0.3, 0.6, "--size", 32]
    flags += ["--steps", 25, "--refine", 15, "--out", tmp_path]
    balances.main([str(flag) for flag in flags])
    text = (tmp_path / "balances.md").read_text()
    assert capsys.readouterr().out == text
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", text, re.M))
    cells = {
        name: [float(cell) for cell in row.split(" | ")]
        for name, row in rows.items()
        if "," in name
    }
    assert len(cells) == 4 and "Mean 100.0 %, largest 100.0 %." in text
    for name, values in cells.items():
        if "refined" in name:
            assert all(0 < value < 90 for value in values)
        else:
            assert values == [100, 100]
    known = json.loads((tmp_path / "optima.json").read_text())
    assert len(known) == 4
    (tmp_path / "optima.json").write_text(json.dumps(dict.fromkeys(known, 0.0)))
    balances.main([str(flag) for flag in flags])
    assert (tmp_path / "balances.md").read_text() != text  # the file's, not found again
    assert json.loads((tmp_path / "optima.json").read_text()) == dict.fromkeys(known, 0.0)


def test_a_run_for_one_balance_is_refused(monkeypatch, synthetic_cohort, tmp_path):
    monkeypatch.setattr(balances, "load_model", lambda path: average(TrainedModel))
    with pytest.raises(InputError, match="trained for one balance"):
        balances.main(["--data", str(synthetic_cohort), "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
