"""What fusing and scoring say of a pair: nothing of a right one, a line a fault of a wrong one."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from data.grids import Image, sample
from data.phantom.cohort import write_cohort
from data.quality import doubts_table, remarks_on_values, say_doubts
from data.subjects import find_subjects
from data.volume import read_pair
from tests.helpers.golden import SHARED

RIGHT = sorted((SHARED / "data").glob("pairs*"))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A right pair: a synthetic head at 3 mm."""
    root = tmp_path_factory.mktemp("quality") / "data"
    write_cohort(root, subjects=1, voxel_mm=3)
    (subject,) = find_subjects(root).subjects
    return read_pair(subject.mri, subject.pet)


def moved(volume, *mm):
    """The volume moved by so many mm along the world's axes."""
    shift = np.eye(4)
    shift[:3, 3] = mm
    image = Image(volume.array, volume.affine)
    return replace(volume, array=sample(image, volume.array.shape, volume.affine, shift))


def test_a_right_pair_is_passed_over_in_silence(head, capsys):
    assert say_doubts("one", *head) == []
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not RIGHT, reason="needs the pairs of ../shared")
@pytest.mark.parametrize("root", RIGHT, ids=lambda root: root.name)
def test_right_pairs_of_other_origin_are_passed_over_in_silence(root):
    for subject in find_subjects(root).subjects:
        assert say_doubts(subject.name, *read_pair(subject.mri, subject.pet)) == []


@pytest.mark.parametrize(
    ("mm", "end"),
    [
        ((10, 0, 0), "left"),
        ((-10, 0, 0), "right"),
        ((0, 10, 0), "back"),
        ((0, -10, 0), "front"),
        ((0, 0, 10), "bottom"),
        ((0, 0, -10), "top"),
        ((6, 6, 6), ""),
    ],
)
def test_a_shift_of_ten_mm_is_told_with_its_way_back(head, capsys, mm, end):
    mri, pet = head
    (doubt,) = say_doubts("one", mri, moved(pet, *mm))
    assert doubt.startswith("the PET fits better moved by ") and f"mm to the {end}" in doubt
    assert capsys.readouterr().err == f"notice: one: {doubt}\n"


@pytest.mark.parametrize("axis", [1, 2])
def test_a_pet_upside_down_or_back_to_front(head, axis):
    mri, pet = head
    (doubt,) = say_doubts("one", mri, replace(pet, array=np.flip(pet.array, axis).copy()))
    assert doubt.startswith(
        "the PET fits better turned over" if axis == 1 else "the PET fits better"
    )


@pytest.mark.parametrize(
    ("axis", "words"),
    [(0, "from left to right"), (1, "from back to front"), (2, "from bottom to top")],
)
def test_a_pet_of_half_the_head(head, axis, words):
    mri, pet = head
    half = pet.array.copy()
    filled = np.flatnonzero((mri.array > 0).any(axis=tuple({0, 1, 2} - {axis})))
    end = [slice(None)] * 3
    end[axis] = slice(int(filled.mean()), None)
    half[tuple(end)] = 0
    doubts = say_doubts("one", mri, replace(pet, array=half))
    assert any("covers only" in doubt and words in doubt for doubt in doubts)


def test_hot_voxels(head):
    mri, pet = head
    hot = pet.array.copy()
    hot[hot.shape[0] // 2, 20, 20] = 50 * hot.max()
    (doubt,) = say_doubts("one", mri, replace(pet, array=hot))
    assert doubt.startswith("PET: voxels up to ") and "(1 of them)" in doubt


def test_stray_voxels_and_ripple_of_the_mri(head, capsys):
    mri, pet = head
    stray = mri.array.copy()
    stray[0, 0, 0] = stray[-1, -1, -1] = 1
    (doubt,) = say_doubts("one", replace(mri, array=stray), pet)
    assert doubt == "MRI: 2 voxels above 0 lie apart from the head: stray, no part of it"
    assert capsys.readouterr().err == f"notice: {mri.path}: {doubt.removeprefix('MRI: ')}\n"
    rippled = ndimage.shift(mri.array, 0.5, order=3)
    (doubt,) = say_doubts("one", replace(mri, array=rippled), pet)
    assert "of the voxels are below 0" in doubt and "ripple" in doubt
    assert remarks_on_values("PET", rippled, mri.voxel_mm) == []
    assert remarks_on_values("MRI", np.maximum(rippled, 0) + 1, mri.voxel_mm) == []


def test_noise_of_the_air_is_no_stray_voxel(head):
    mri, _ = head
    noise = np.random.default_rng(0).normal(0, 0.03, (2, *mri.array.shape)) * mri.array.max()
    noisy = np.hypot(mri.array + noise[0], noise[1])
    assert remarks_on_values("MRI", noisy, mri.voxel_mm) == []


def test_a_voxel_size_in_cm(head):
    mri, pet = head
    affine = mri.affine.copy()
    affine[:3] /= 10
    small = [replace(volume, affine=affine) for volume in (mri, pet)]
    (doubt,) = say_doubts("one", *small)
    assert "no head's" in doubt and "voxel size" in doubt


def test_the_table_at_the_end_of_a_batch():
    text = doubts_table({"a": [], "long name": ["one", "two"], "b": []})
    assert text.splitlines() == [
        "long name  one",
        "long name  two",
        "nothing speaks against 2 of 3 pairs",
    ]
