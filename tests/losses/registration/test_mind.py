"""MIND-SSC, against SciPy's filters and the arrays of the released code."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from losses.registration.mind import descriptor, mind_loss, neighbour_pairs
from tests.helpers.golden import golden_tensors, relative_error
from tests.helpers.images import volumes
from tests.helpers.transmorph import formula_pair, strided

RELEASED_ORDER = (6, 8, 1, 11, 2, 10, 0, 7, 9, 4, 5, 3)  # the release's channel c is our pair


def images() -> tuple[torch.Tensor, torch.Tensor]:
    first, second, _ = volumes(9, 10, 12, batch=2)
    return first.double(), second.double()


def descriptor_by_scipy(image: np.ndarray) -> np.ndarray:
    """(B, D, H, W) -> (B, 12, D, H, W)."""
    neighbours = [(0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1)]
    distances = []
    for volume in image:
        moved = []
        for neighbour in neighbours:
            by = [2 * (1 - n) for n in neighbour]
            moved.append(ndimage.shift(volume, by, order=0, mode="nearest"))
        sums = []
        for a in range(6):
            for b in range(a):
                if (
                    sum((i - j) ** 2 for i, j in zip(neighbours[a], neighbours[b], strict=True))
                    == 2
                ):
                    squares = (moved[a] - moved[b]) ** 2
                    sums.append(ndimage.uniform_filter(squares, 5, mode="nearest"))
        distances.append(sums)
    distances = np.array(distances)
    distances -= distances.min(axis=1, keepdims=True)
    variance = distances.mean(axis=1, keepdims=True)
    variance = variance.clip(0.001 * variance.mean(), 1000 * variance.mean())
    return np.exp(-distances / variance)


def test_descriptor_equals_scipy():
    first, _ = images()
    expected = descriptor_by_scipy(first[:, 0].numpy())
    np.testing.assert_allclose(descriptor(first), expected, atol=1e-9)


def test_loss_is_their_mean_squared_difference():
    first, second = images()
    difference = descriptor_by_scipy(first[:, 0].numpy()) - descriptor_by_scipy(
        second[:, 0].numpy()
    )
    assert mind_loss(first, second).item() == pytest.approx(np.mean(difference**2), rel=1e-9)


def test_contrast_does_not_matter_and_constant_images_have_a_value():
    first, _ = images()
    assert mind_loss(2 - 3 * first, first).item() == pytest.approx(0, abs=1e-12)
    constant = torch.full_like(first, 0.4).requires_grad_()
    loss = mind_loss(constant, first)
    loss.backward()
    assert loss.isfinite() and constant.grad.isfinite().all()
    assert torch.equal(descriptor(constant), torch.ones(2, 12, 9, 10, 12, dtype=torch.float64))


def test_golden_descriptor_and_loss():
    arrays = golden_tensors("transmorph/transmorph_losses_24x20x28.npz")
    moving, fixed = formula_pair(24, 20, 28, batch=2)
    assert len(neighbour_pairs()) == 12
    ours = descriptor(moving.double())[:, list(RELEASED_ORDER)]
    assert relative_error(strided(ours, arrays["mind_moving"]), arrays["mind_moving"]) < 1e-6
    loss = mind_loss(moving.double(), fixed.double())
    assert relative_error(loss, arrays["loss_mind"]) < 1e-6
    assert relative_error(mind_loss(moving, fixed), arrays["loss_mind"]) < 1e-5
