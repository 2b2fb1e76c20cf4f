"""What the page of a fused pair shows: files in their own units, and the balances of a network."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.volume import read_pair
from inference.fuse import Job, fuse_pair, score_rows
from inference.outputs import Outputs
from inference.page.fusion import BALANCES, fuse_balances, page_of
from inference.trained import TrainedModel
from tests.inference.test_fuse import WeightedMean
from utils.colour import colour_map


class Turned(nn.Module):
    """A weighted mean by the balance that it is turned to."""

    def __init__(self) -> None:
        super().__init__()
        self.balance, self.default_balance = nn.Identity(), 0.6

    def forward(self, mri, pet):
        return self.default_balance * mri + (1 - self.default_balance) * pet


def network(model: nn.Module) -> TrainedModel:
    return TrainedModel(
        model, "paper", 64, Path("run/last.pt"), "run/last.pt: a mean", objective="o:1:1"
    )


def fused(model: TrainedModel, pair):
    return fuse_pair(model, *pair, torch.device("cpu"))


def test_sources_keep_the_units_of_their_files(pair):
    volumes = read_pair(*pair)
    model = network(WeightedMean())
    fusion = fused(model, volumes)
    page = page_of("one", fusion, volumes, model, score_rows(fusion), None)
    for layer, volume, scaled in zip(
        (page.mri, page.pet), volumes, (fusion.mri, fusion.pet), strict=True
    ):
        assert layer.array is volume.array
        low, high = layer.window
        shown = np.clip((volume.array - low) / (high - low), 0, 1)
        np.testing.assert_allclose(shown, scaled, atol=1e-5)  # the colours of page and picture
    assert page.balances is None and len(page.fused) == 1
    assert page.scores[1][0] == "fused" and page.notes[-1] == "Network: last.pt, a mean"


def test_a_network_for_any_balance_is_fused_at_several_and_left_as_it_was(pair):
    volumes = read_pair(*pair)
    model = network(Turned())
    own = fused(model, volumes)
    balanced = fuse_balances(model, lambda to: fused(to, volumes), own)
    assert list(balanced) == sorted({*BALANCES, 0.6})
    assert balanced[0.6] is own.fused and model.model.default_balance == 0.6
    inside = own.foreground
    for share, volume in balanced.items():
        expected = share * own.mri + (1 - share) * own.pet
        np.testing.assert_allclose(volume[inside], expected[inside], atol=1e-5)
    page = page_of("one", own, volumes, model, score_rows(own), balanced)
    assert page.balance == 0.6 and page.balances == list(balanced)
    assert fuse_balances(network(WeightedMean()), None, own) is None


def test_the_page_is_written_beside_the_volume(pair, tmp_path):
    volumes = read_pair(*pair)
    model = network(WeightedMean())
    fusion = fused(model, volumes)
    outputs = Outputs(colour_map("viridis"), with_page=True)
    job = Job("sub-01 <b>", *pair, tmp_path / "out.nii.gz")
    page = page_of(job.subject, fusion, volumes, model, [], None)
    path = outputs.write(job, fusion, volumes[0], {}, page)[-1]
    assert path == tmp_path / "out.html" == outputs.files(job)["page"]
    text = path.read_text("utf-8")
    about = json.loads(re.search(r'id="about">(.*?)</script>', text)[1])
    assert about["title"] == "sub-01 <b>" and about["maps"][0]["name"] == "viridis"
