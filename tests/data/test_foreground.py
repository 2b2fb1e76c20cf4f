"""The foreground is a head, and white is no single voxel; both as released where that is asked."""

import numpy as np
import pytest
from scipy import ndimage

from data.foreground import above_zero, box_of, foreground, head, hot_limit, without_hot_voxels
from data.settings import RECIPES
from data.volume import read_volume


@pytest.fixture
def mri() -> np.ndarray:
    """(40, 44, 36) float32: an ellipsoid with a fissure and a dark ventricle, 0 around it."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (40, 44, 36)), indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    values = 300 + 100 * grid[0] + 50 * np.cos(9 * grid[1])
    values[(radius < 0.2) | (abs(grid[0]) < 0.03)] = 0
    return np.where(radius < 0.9, values, 0).astype(np.float32)


def test_a_clean_head_is_what_is_above_zero(mri):
    filled = ndimage.binary_fill_holes(mri > 0)
    assert filled.sum() > (mri > 0).sum()
    np.testing.assert_array_equal(above_zero(mri), filled)
    np.testing.assert_array_equal(head(mri), filled)


def test_foreground_fills_cavities_but_not_the_outside():
    mri = np.zeros((7, 7, 7))
    mri[1:6, 1:6, 1:6] = 1
    mri[3, 3, 3] = 0
    for recipe in RECIPES.values():
        inside = foreground(mri, recipe)
        assert inside[3, 3, 3] and not inside[0, 0, 0]
        assert inside.sum() == 125


def test_stray_voxels_and_a_small_part_are_none_of_it(mri):
    dirty = mri.copy()
    dirty[0, 0, 0] = dirty[-1, -1, -1] = 400
    dirty[:3, :3, -4:] = 200
    np.testing.assert_array_equal(head(dirty), head(mri))
    assert box_of(above_zero(dirty)) == tuple(slice(0, side) for side in mri.shape)


def test_a_large_part_is_kept(mri):
    cut = mri.copy()
    cut[16:19] = 0  # 40 % and 60 %
    np.testing.assert_array_equal(head(cut)[:14], head(mri)[:14])


def test_noise_around_the_head_is_none_of_it(mri):
    noise = np.random.default_rng(0).uniform(0, 8, mri.shape)
    np.testing.assert_array_equal(head(np.where(mri > 0, mri, noise)), head(mri))


def test_ripple_of_a_resampling_moves_the_box_by_a_voxel_at_most(mri):
    wide = np.pad(mri, 12)
    ripple = ndimage.shift(wide, (0.5, 0.5, 0.5), order=3, mode="constant", prefilter=True)
    assert any(side.stop - side.start > 50 for side in box_of(above_zero(ripple)))
    for found, expected in zip(box_of(head(ripple)), box_of(head(wide)), strict=True):
        assert abs(found.start - expected.start) <= 1
        assert 0 <= found.stop - expected.stop <= 2  # it was moved by half a voxel


def test_one_hot_voxel_does_not_hide_the_head(mri):
    hot = mri.copy()
    hot[20, 20, 20] = 200 * mri.max()
    np.testing.assert_array_equal(head(hot), head(mri))


def test_without_anything_above_zero_there_is_no_head(mri):
    assert not head(-mri).any()
    assert hot_limit(-mri) is None


def test_the_released_recipe_takes_every_voxel_above_zero(mri):
    dirty = mri.copy()
    dirty[0, 0, 0] = 1
    assert foreground(dirty, RECIPES["released"])[0, 0, 0]
    assert not foreground(dirty, RECIPES["paper"])[0, 0, 0]


@pytest.fixture
def hot_pair(mri, head_affine, write_nifti):
    """A clean MRI, and a PET with one voxel at 200 times its maximum."""
    pet = ndimage.gaussian_filter(mri, 1)
    pet[20, 20, 20] = 200 * pet.max()
    files = [write_nifti("mri.nii", mri, head_affine), write_nifti("pet.nii", pet, head_affine)]
    return tuple(read_volume(path) for path in files)


def test_a_hot_voxel_is_clipped_and_said(hot_pair, mri, capsys):
    clipped = without_hot_voxels(hot_pair, clip=True)
    notices = capsys.readouterr().err.splitlines()
    assert len(notices) == 1
    assert "pet.nii: voxels up to 2" in notices[0] and "99.9th percentile" in notices[0]
    assert clipped[0] is hot_pair[0]
    smooth = ndimage.gaussian_filter(mri, 1)
    assert 0.9 * smooth.max() < clipped[1].array.max() <= smooth.max()
    changed = clipped[1].array != hot_pair[1].array
    assert changed[20, 20, 20] and changed.mean() < 0.001


def test_as_released_it_is_only_said(hot_pair, capsys):
    kept = without_hot_voxels(hot_pair, clip=False)
    assert kept[1] is hot_pair[1]
    assert "as released" in capsys.readouterr().err
