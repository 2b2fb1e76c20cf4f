"""Pairs of heads from label maps: the same for the same key, labels of what the images show."""

import pytest
import torch
from torch.utils.data import DataLoader

from data.synthesis.anatomy import read_label_maps
from data.synthesis.heads import SyntheticHeads
from data.synthesis.tissues import NUMBERS
from data.template_space import Space

SPACE = Space(32, 6.0)


@pytest.fixture(scope="module")
def heads(label_maps):
    return SyntheticHeads(read_label_maps(label_maps), SPACE, 6, 1)


def test_a_key_decides_a_pair_whatever_the_number_of_workers(heads):
    keys = [(0, index) for index in range(3)]
    loaded = list(DataLoader(heads, batch_size=1, sampler=keys, num_workers=1))
    for key, batch in zip(keys, loaded, strict=True):
        item = heads[key]
        for name in ("moving", "fixed", "moving_labels", "fixed_labels"):
            assert torch.equal(batch[name][0], item[name])
            assert item[name].shape == (1, *SPACE.shape) and item[name].dtype == torch.float32
    assert not torch.equal(heads[0, 0]["moving"], heads[1, 0]["moving"])


def test_the_two_heads_differ_and_lie_as_affine_registration_leaves_them(heads):
    overlap = []
    for index in range(6):
        item = heads[0, index]
        assert 0 <= item["moving"].min() and item["moving"].max() <= 1
        brain = [item[f"{name}_labels"] == NUMBERS["white matter"] for name in ("moving", "fixed")]
        assert not torch.equal(*brain)
        overlap.append((2 * (brain[0] & brain[1]).sum() / (brain[0].sum() + brain[1].sum())).item())
    assert 0.5 < sum(overlap) / 6 < 0.97


def test_contrasts_are_drawn_for_each_of_the_two(heads):
    """What is brighter than what in one says little about the other."""
    agree = []
    for index in range(20):
        item = heads[3, index]
        brighter = []
        for name in ("moving", "fixed"):
            image, labels = item[name], item[f"{name}_labels"]
            means = [image[labels == NUMBERS[t]].mean() for t in ("white matter", "cortex")]
            brighter.append(bool(means[0] > means[1]))
        agree.append(brighter[0] == brighter[1])
    assert 2 < sum(agree) < 20
