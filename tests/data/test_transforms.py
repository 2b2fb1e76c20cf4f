"""Preprocessing: the published steps in their order, augmentation, and the way back."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Resized, SpatialPadd
from scipy import ndimage

from data.settings import RECIPES, Preprocessing
from data.transforms import (
    KEYS,
    ToCube,
    augmentation,
    deterministic,
    rescale,
    to_item,
    to_native,
)
from data.volume import read_volume


@pytest.fixture
def volume(write_nifti):
    """Function (array, voxel_mm) -> Volume."""

    def make(array: np.ndarray, voxel_mm=(1.0, 1.0, 1.0), axcodes: str = "RAS"):
        affine = np.diag([*voxel_mm, 1.0])
        return read_volume(write_nifti("volume.nii.gz", array.astype(np.float32), affine, axcodes))

    return make


def block_head() -> np.ndarray:
    """(30, 40, 26) with a bright block off the centre of a grey box, 0 outside."""
    array = np.zeros((30, 40, 26))
    array[3:27, 4:38, 2:24] = 0.2
    array[6:12, 20:30, 15:20] = 1.0
    return array


def test_published_steps_equal_their_arithmetic(volume):
    """224 voxels at 1 mm resized by area to 56 are means over 4x4x4 blocks of the padded box."""
    array = np.random.default_rng(0).uniform(0.1, 1, (48, 50, 46))
    padded_head = np.pad(array, ((2, 1), (3, 2), (0, 4)))
    head = volume(padded_head)
    prepared = deterministic(Preprocessing("released", 56), head.voxel_mm)(to_item(head, head))
    box = np.pad(array, [((224 - n) // 2, 224 - n - (224 - n) // 2) for n in array.shape])
    expected = box.reshape(56, 4, 56, 4, 56, 4).mean(axis=(1, 3, 5))
    for key in KEYS:
        np.testing.assert_allclose(prepared[key][0].numpy(), expected, atol=1e-6)


def test_pet_is_cropped_to_the_mri_foreground(volume):
    mri = block_head()
    pet = np.ones_like(mri)
    item = to_item(volume(mri), volume(pet + mri))
    cropped = deterministic(Preprocessing("paper", 56), (1, 1, 1)).transforms[0](item)
    assert cropped["pet"].shape == cropped["mri"].shape == (1, 24, 34, 22)


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.0, 2.0, 4.0)])
def test_paper_recipe_gives_heads_one_scale_whatever_the_voxels(volume, voxel_mm):
    """A cube of 48 mm fills 48/224 of the side."""
    shape = [int(48 / side) for side in voxel_mm]
    head = volume(np.pad(np.random.default_rng(0).uniform(0.5, 1, shape), 2), voxel_mm)
    prepared = deterministic(Preprocessing("paper", 56), head.voxel_mm)(to_item(head, head))
    inside = prepared["mri"][0].numpy() > 0.25
    extent = [np.ptp(np.nonzero(inside)[axis]) + 1 for axis in range(3)]
    assert extent == [12, 12, 12]


@pytest.mark.parametrize("recipe", RECIPES)
def test_inverse_brings_values_back_to_their_place(volume, recipe):
    array = ndimage.gaussian_filter(block_head(), 1.5)
    array[array < 0.02] = 0
    head = volume(array, (3.0, 3.0, 3.0))
    steps = deterministic(Preprocessing(recipe, 112), head.voxel_mm)
    prepared = steps(to_item(head, head))
    native = to_native(prepared["mri"], prepared, steps)
    assert native.shape == array.shape and native.dtype == np.float32
    inner = ndimage.binary_erosion(array > 0, iterations=2)
    tolerance = 0.06 if recipe == "paper" else 0.2  # 224 voxels of 3 mm leave 6 mm voxels
    assert abs(native - array)[inner].max() < tolerance
    shift = np.subtract(ndimage.center_of_mass(native), ndimage.center_of_mass(array))
    assert abs(shift).max() < 0.05


def test_inverse_is_zero_outside_the_cropped_box(volume):
    head = volume(block_head())
    steps = deterministic(Preprocessing("paper", 56), head.voxel_mm)
    prepared = steps(to_item(head, head))
    native = to_native(torch.ones(1, 56, 56, 56), prepared, steps)
    assert (native[3:27, 4:38, 2:24] == 1).all()
    assert native.sum() == 24 * 34 * 22


@pytest.mark.parametrize(
    ("shape", "box", "size"),
    [
        ((41, 50, 33), (64, 80, 30), 24),
        ((30, 20, 31), (30, 41, 29), 37),
        ((12, 13, 9),) * 2 + (40,),
    ],
)
def test_padding_and_shrinking_in_one_step_is_monais_one_after_the_other(shape, box, size):
    affine = torch.diag(torch.tensor([1.5, 1, 2, 1], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-3.0, 4, 5])
    item = {"mri": MetaTensor(torch.rand(1, *shape), affine=affine)}
    reference = Compose(
        [SpatialPadd("mri", box), Resized("mri", (size,) * 3, mode=["area"], dtype=torch.float64)]
    )(item)["mri"]
    cube = ToCube(["mri"], box, size)(item)["mri"]
    torch.testing.assert_close(cube.as_tensor(), reference.as_tensor().float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(cube.affine, reference.affine)


def test_the_smallest_voxels_take_no_more_memory(volume):
    """Padded to 224 mm this head would have 11 thousand million voxels."""
    array = np.pad(np.random.default_rng(0).uniform(0.5, 1, (10, 12, 11)), 2)
    head = volume(array, (0.1, 0.1, 0.1))
    steps = deterministic(Preprocessing("paper", 32), head.voxel_mm)
    prepared = steps(to_item(head, head))
    assert to_native(prepared["mri"], prepared, steps).shape == array.shape
    volume_mm3 = 0.1**3 * float(array.sum())
    cube_mm3 = (224 / 32) ** 3 * float(prepared["mri"].sum())
    assert cube_mm3 == pytest.approx(volume_mm3, rel=0.05)


def draws(recipe: str, seeds: range) -> list[dict]:
    steps = augmentation(RECIPES[recipe])
    array = torch.from_numpy(ndimage.gaussian_filter(block_head(), 1).astype(np.float32))[None]
    results = []
    for seed in seeds:
        steps.set_random_state(seed=seed)
        results.append(steps({key: array.clone() for key in KEYS}))
    return results


def test_augmentation_repeats_with_its_seed_and_changes_with_it():
    first, again = draws("paper", range(12)), draws("paper", range(12))
    assert all(
        torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True) for key in KEYS
    )
    assert len({float(item["mri"].sum()) for item in first}) > 6


def test_pet_is_only_rotated_and_together_with_the_mri():
    original = ndimage.gaussian_filter(block_head(), 1).astype(np.float32)
    unrotated = [
        item
        for item in draws("paper", range(40))
        if np.array_equal(item["pet"][0].numpy(), original)
    ]
    assert 20 <= len(unrotated) <= 36  # p = 0.9^3 = 0.73
    assert any(not np.array_equal(item["mri"][0].numpy(), original) for item in unrotated)


def test_noise_shifts_the_mri_in_the_released_recipe_only():
    """[R7]: the mean over many draws of the added noise."""
    background = {}
    for recipe in RECIPES:
        corners = [float(item["mri"][0, 0, 0, 0]) for item in draws(recipe, range(60))]
        background[recipe] = np.mean(corners)
    assert abs(background["paper"]) < 0.05
    assert 0.15 < background["released"] < 0.35  # p 0.5 times mean 0.5


def test_released_rotation_is_always_the_same_angle():
    """Rotations about one axis only, by the range as the released code gives it."""
    angles = {}
    for recipe in RECIPES:
        rotation = augmentation(RECIPES[recipe]).transforms[0].rand_rotate
        found = set()
        for seed in range(40):
            rotation.set_random_state(seed=seed)
            rotation.randomize()
            found.add(round(float(rotation.x), 6))
        angles[recipe] = found
    assert angles["released"] == {0.2}
    assert len(angles["paper"]) > 30 and min(angles["paper"]) < -0.1


def test_rescale_brings_each_volume_to_the_unit_range():
    item = rescale()({"mri": torch.rand(1, 4, 4, 4) * 900 - 20, "pet": torch.rand(1, 4, 4, 4) + 3})
    for key in KEYS:
        assert float(item[key].min()) == 0 and float(item[key].max()) == pytest.approx(1)
