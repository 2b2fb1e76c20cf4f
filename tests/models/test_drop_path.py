"""Stochastic depth: which branches stay, what they are scaled by, and that MONAI draws the same."""

import pytest
import torch
from monai.networks.layers import DropPath as Reference

from models.drop_path import DropPath


def test_a_branch_is_dropped_whole_or_scaled_to_keep_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(4000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1, :1]).all()
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_evaluation_and_no_rate_change_nothing(rate):
    branch = torch.rand(3, 2)
    assert torch.equal(DropPath(rate).eval()(branch), branch)
    assert torch.equal(DropPath(0.0).train()(branch), branch)


def test_a_seed_draws_as_it_does_in_monai():
    branch = torch.rand(64, 2, 3, dtype=torch.float64)
    results = []
    for layer in (DropPath(0.3), Reference(0.3)):
        torch.manual_seed(5)
        results.append(layer.train()(branch))
    torch.testing.assert_close(*results, rtol=1e-12, atol=0)
