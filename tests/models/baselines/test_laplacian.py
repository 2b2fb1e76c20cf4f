"""The 3-D Laplacian pyramid against filters of SciPy, and what a fusion of its detail promises."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from models.baselines.laplacian import Laplacian, compose, decompose

TAPS = np.array([1, 4, 6, 4, 1]) / 16


def volumes(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    mri, pet = torch.rand(2, *shape, generator=generator, dtype=dtype)
    return mri, pet


def smooth(array: np.ndarray, axis: int) -> np.ndarray:
    return correlate1d(array, TAPS, axis=axis, mode="constant")


def reduce(volume: np.ndarray) -> np.ndarray:
    """Smoothed and thinned, at the border divided by the weight that lies inside."""
    for axis, side in enumerate(volume.shape):
        if side > 2:
            volume = smooth(volume, axis) / smooth(np.ones_like(volume), axis)
            volume = np.take(volume, range(0, side, 2), axis)
    return volume


def expand(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros between the voxels, smoothed, divided by the weight of the filled voxels."""
    for axis, side in enumerate(shape):
        if side > 2:
            spread = np.zeros([*volume.shape[:axis], side, *volume.shape[axis + 1 :]])
            filled = np.zeros_like(spread)
            every_second = tuple(
                slice(None, None, 2) if i == axis else slice(None) for i in range(3)
            )
            spread[every_second], filled[every_second] = volume, 1
            volume = smooth(spread, axis) / smooth(filled, axis)
    return volume


def reference(mri: np.ndarray, pet: np.ndarray, levels: int) -> np.ndarray:
    if levels == 0 or max(mri.shape) <= 2:
        return (mri + pet) / 2
    coarse = reduce(mri), reduce(pet)
    detail_mri, detail_pet = (
        v - expand(c, v.shape) for v, c in zip((mri, pet), coarse, strict=True)
    )
    detail = np.where(np.abs(detail_mri) > np.abs(detail_pet), detail_mri, detail_pet)
    return detail + expand(reference(*coarse, levels - 1), mri.shape)


@pytest.mark.parametrize(
    ("shape", "levels"), [((16, 16, 16), 4), ((13, 8, 21), 3), ((2, 9, 5), 4), ((40, 3, 2), 9)]
)
def test_fusion_follows_its_definition(shape, levels):
    mri, pet = volumes(1, 1, *shape)
    expected = reference(mri[0, 0].numpy(), pet[0, 0].numpy(), levels).clip(0, 1)
    np.testing.assert_allclose(Laplacian(levels)(mri, pet)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 7), (17, 12, 5), (1, 6, 6), (32, 32, 32)])
def test_a_volume_fused_with_itself_comes_back(shape):
    mri, _ = volumes(2, 1, *shape, dtype=torch.float32)
    assert torch.allclose(Laplacian()(mri, mri), mri, rtol=0, atol=1e-6)


def test_pyramid_has_the_expected_levels_and_is_inverted():
    volume, _ = volumes(1, 1, 40, 9, 2)
    details, coarsest = decompose(volume, 3)
    assert [tuple(detail.shape[2:]) for detail in details] == [(40, 9, 2), (20, 5, 2), (10, 3, 2)]
    assert tuple(coarsest.shape[2:]) == (5, 2, 2)
    assert torch.allclose(compose(details, coarsest), volume, rtol=0, atol=1e-12)


def test_detail_of_a_constant_volume_is_zero_up_to_the_border():
    details, coarsest = decompose(torch.full((1, 1, 15, 8, 6), 0.7, dtype=torch.float64), 4)
    assert all(detail.abs().max() < 1e-12 for detail in details)
    assert torch.allclose(coarsest, torch.full_like(coarsest, 0.7))


def test_order_of_the_volumes_is_free_even_where_the_detail_is_equal_and_opposite():
    mri, pet = volumes(1, 1, 12, 10, 14, dtype=torch.float32)
    for other in (pet, 1 - mri):
        assert torch.equal(Laplacian()(mri, other), Laplacian()(other, mri))


def test_detail_of_both_volumes_survives():
    """An edge in one volume, where the other is flat, keeps its height; the mean would halve it."""
    mri = torch.full((1, 1, 32, 32, 32), 0.3)
    pet = mri.clone()
    mri[..., 8, 8, 8] += 0.4
    pet[..., 24, 24, 24] += 0.4
    fused = Laplacian(2)(mri, pet)
    assert fused[..., 8, 8, 8].item() > 0.3 + 0.9 * 0.4
    assert fused[..., 24, 24, 24].item() > 0.3 + 0.9 * 0.4


def test_batch_gives_what_its_volumes_give_one_by_one():
    mri, pet = volumes(3, 1, 9, 10, 11, dtype=torch.float32)
    singly = torch.cat(
        [Laplacian()(*pair) for pair in zip(mri.split(1), pet.split(1), strict=True)]
    )
    assert torch.allclose(Laplacian()(mri, pet), singly, rtol=0, atol=1e-6)


def test_result_stays_in_range():
    mri = (volumes(1, 1, 20, 20, 20)[0] > 0.5).float()
    fused = Laplacian()(mri, 1 - mri)
    assert fused.min() >= 0 and fused.max() <= 1


def test_gradients_are_finite_and_reach_both_volumes():
    mri, pet = (v.requires_grad_() for v in volumes(1, 1, 9, 8, 7, dtype=torch.float32))
    Laplacian()(mri, pet).square().sum().backward()
    for volume in (mri, pet):
        assert volume.grad.isfinite().all() and volume.grad.any()


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match="at least 1 level, received 0"):
        Laplacian(0)
