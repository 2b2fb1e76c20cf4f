"""Blurs, random fields and movements, against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.synthesis.fields import blur, moved, rotation, smooth_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_blur_is_scipys_inside():
    rng = np.random.default_rng(0)
    volume = np.zeros((40, 40, 40))
    volume[14:26, 14:26, 14:26] = rng.normal(size=(12, 12, 12))
    sigmas = (1.5, 0.0, 2.5)
    ours = blur(torch.from_numpy(volume), sigmas).numpy()
    theirs = ndimage.gaussian_filter(volume, sigmas, mode="constant", truncate=8)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_blur_keeps_a_constant_up_to_the_border():
    constant = torch.full((9, 8, 7), 3.0)
    torch.testing.assert_close(blur(constant, (2, 3, 4)), constant)


@pytest.mark.parametrize("spacing", [3.0, 8.0, 500.0])
def test_smooth_noise_has_a_spread_of_about_1(spacing):
    like = torch.empty(0)
    drawn = [smooth_noise((32, 32, 32), spacing, generator(seed), like) for seed in range(40)]
    values = torch.stack(drawn)
    assert values.shape == (40, 32, 32, 32)
    assert abs(values.mean()) < 0.2 and 0.7 < values.std() < 1.4


def test_rotation_is_one():
    turn = rotation((0.1, -0.2, 0.3))
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(turn) == pytest.approx(1)


def test_moved_shifts_and_turns_about_the_middle():
    volume = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(24,) * 3), 3)
    turn, shift = rotation((0.05, 0.1, -0.15)), torch.tensor([1.5, -2.0, 0.5])
    ours = moved(torch.from_numpy(volume).float(), shift.double(), turn).numpy()
    middle = np.full(3, 11.5)
    offset = middle + shift.numpy() - turn.numpy() @ middle
    theirs = ndimage.affine_transform(volume, turn.numpy(), offset, order=1, mode="nearest")
    inside = (slice(6, -6),) * 3
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-5)


def test_smooth_noise_is_trilinear_between_what_is_drawn():
    shape, spacing = (20, 33, 7), 6.0
    ours = smooth_noise(shape, spacing, generator(3), torch.empty(0))
    drawn = torch.randn((5, 7, 3), generator=generator(3))
    places = np.meshgrid(
        *(np.linspace(0, known - 1, side) for known, side in zip((5, 7, 3), shape, strict=True)),
        indexing="ij",
    )
    theirs = ndimage.map_coordinates(drawn.double().numpy(), places, order=1) * (27 / 8) ** 0.5
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
