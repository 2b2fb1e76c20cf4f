"""The prior of TransMorph-diff, against its formulas in NumPy; goldens: test_transmorph.py."""

import numpy as np
import pytest
import torch

from losses.registration.prior import neighbours_inside, variance_term, velocity_prior
from tests.helpers.golden import golden_tensors


def fields() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    shape = (2, 3, 4, 5, 6)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def neighbours(*sides: int) -> np.ndarray:
    counts = np.zeros(sides)
    for place in np.ndindex(*sides):
        for axis in range(3):
            counts[place] += (place[axis] > 0) + (place[axis] < sides[axis] - 1)
    return counts


def test_variance_term_counts_the_neighbours_inside():
    _, log_variance, _ = fields()
    s = log_variance.numpy()
    expected = (10 * neighbours(4, 5, 6) * np.exp(s) - s).mean()
    assert variance_term(log_variance).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_prior_follows_its_formula(variant):
    mean, log_variance, integrated = fields()
    if variant == "paper":
        squares = [np.square(np.diff(mean.numpy(), axis=axis)).mean() for axis in (2, 3, 4)]
        rough = 0.5 * np.mean(squares)
    else:
        slopes = [np.gradient(integrated.numpy()[:, a], axis=a + 1) for a in range(3)]
        rough = 0.5 * np.sum(np.square(slopes), axis=0).mean()
    expected = 1.5 * (variance_term(log_variance).item() + 10 * rough)
    value = velocity_prior(mean, log_variance, integrated, variant)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="unknown variant 'mine'"):
        velocity_prior(*fields(), variant="mine")


def test_golden_neighbours():
    degree = golden_tensors("transmorph/transmorph_diff_released_E24_32x64x32.npz")["degree"]
    corner = neighbours_inside(torch.zeros(16, 32, 16))[:3, :3, :3]
    assert torch.equal(corner, degree.to(corner))
