"""DILRAN's loss: golden values, and Sobel edges against SciPy's."""

import pytest
from scipy import ndimage

from losses import build_slice_objective
from losses.baselines.dilran import sobel_loss
from tests.helpers.images import FixedOutput, matches, slices


def test_loss_matches_golden(expected, pictures):
    pet, _, fused = pictures
    method = FixedOutput(fused)
    total, terms = build_slice_objective("dilran")(method, pet)
    matches(terms["mse"], expected["dilran_mse"])
    matches(terms["sobel"], expected["dilran_sobel"])
    matches(total, expected["dilran_mse"] + 0.2 * expected["dilran_sobel"])


def test_sobel_equals_scipy():
    output, target = slices(1, 20, 17), slices(1, 20, 17, seed=6)
    expected = 0
    for axis in (0, 1):
        edges = [
            abs(ndimage.sobel(v[0, 0].double().numpy(), axis)[1:-1, 1:-1]) for v in (output, target)
        ]
        expected += ((edges[0] - edges[1]) ** 2).mean()
    assert sobel_loss(output, target).item() == pytest.approx(expected, rel=1e-5)
