"""Fusions without a network, voxel by voxel."""

import pytest
import torch

from models import build_model


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("copy-mri", {}, lambda m, p: m),
        ("average", {}, lambda m, p: (m + p) / 2),
        ("mix", {}, lambda m, p: (2 * m + p) / 3),
        ("mix", {"weights": (0.9, 0.1)}, lambda m, p: 0.9 * m + 0.1 * p),
        ("maximum", {}, torch.maximum),
    ],
)
def test_trivial_fusion(name, options, expected):
    mri, pet = torch.rand(2, 2, 1, 3, 4, 5)
    assert torch.allclose(build_model(name, **options)(mri, pet), expected(mri, pet))


@pytest.mark.parametrize("weights", [(0, 0), (-1, 2), (float("nan"), 1)])
def test_weights_that_make_no_mean_are_refused(weights):
    with pytest.raises(ValueError, match="two weights"):
        build_model("mix", weights=weights)
