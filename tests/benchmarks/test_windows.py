"""Windows of native inference: a voxelwise network gives the same in all of them, at its price."""

import re

import pytest
import torch

from benchmarks.windows import __main__ as windows
from benchmarks.windows.__main__ import Window
from inference.trained import TrainedModel


class Maximum(torch.nn.Module):
    """A network whose voxels depend on nothing around them, as stream maps."""

    encoder = ()

    def stream_maps(self, mri, pet):
        return torch.cat((mri, pet), dim=1)

    @staticmethod
    def fuse_maps(f1, f2):
        return torch.maximum(f1, f2)

    @staticmethod
    def gated(fused, mri, pet):
        return fused

    def forward(self, mri, pet):
        return torch.maximum(mri, pet)


def test_a_table_for_each_pair(monkeypatch, synthetic_cohort, capsys):
    known = TrainedModel(Maximum(), "paper", 64, "x", "", objective="salient-composite:1:1")
    monkeypatch.setattr(windows, "load_model", lambda path: known)
    flags = ["--data", str(synthetic_cohort), "--windows", "0", "24:8", "24:2"]
    windows.main(flags)
    out = capsys.readouterr().out
    tables = out.split("a head of ")[1:]
    assert len(tables) == len(windows.find_subjects(synthetic_cohort).subjects)
    for table in tables:
        sides = [int(side) for side in re.match(r"(\d+)x(\d+)x(\d+)", table).groups()]
        average = float(re.search(r"average (\d\.\d+)", table).group(1))
        rows = re.findall(r"^\| (.+) \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|$", table, re.M)
        kinds, computed, losses = zip(*rows, strict=True)
        assert kinds == ("the whole head", "24^3, 8 shared", "24^3, 2 shared")
        assert float(computed[0]) == 1 < float(computed[2]) < float(computed[1])
        assert min(sides) > 24  # so that there are several windows along every axis
        assert len(set(losses)) == 1 and float(losses[0]) != average


def test_what_neighbours_share():
    assert Window.parse("64:8") == (64, 8)
    assert Window.parse("0").shared == 0
    for wrong in ("64:64", "64:-1", "-8", "wide"):
        with pytest.raises(ValueError):
            Window.parse(wrong)
