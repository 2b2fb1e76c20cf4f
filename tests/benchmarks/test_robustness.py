"""Changed inputs: each is changed as its name says, and the average has 100 % on all of them."""

import re

import numpy as np
import pytest
from PIL import Image as Picture

from benchmarks import robustness
from data.subjects import find_subjects
from inference.trained import TrainedModel
from models import build_model


@pytest.fixture
def images() -> tuple[robustness.Image, robustness.Image]:
    """MRI and PET of 2 mm voxels, a bright box each."""
    volumes = np.zeros((2, 24, 26, 30), np.float32)
    volumes[0, 4:20, 4:22, 5:25] = 0.8
    volumes[1, 6:18, 6:20, 7:23] = 0.6
    affine = np.diag([2.0, 2, 2, 1])
    return (volumes[0], affine), (volumes[1], affine)


def centre_of(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centre of mass in mm."""
    places = np.argwhere(array > 0)
    return affine[:3, :3] @ np.average(places, axis=0, weights=array[array > 0]) + affine[:3, 3]


def test_a_table_and_a_picture(monkeypatch, synthetic_cohort, tmp_path, capsys):
    model = build_model("average")
    model.stream_maps = None
    trained = TrainedModel(model, "paper", 64, "x", "a test", objective="salient-composite:1:1")
    monkeypatch.setattr(robustness, "load_model", lambda path: trained)
    monkeypatch.setattr(
        "benchmarks.balances.run_network", lambda model, size, shape, inputs: model(*inputs(()))
    )
    subject = find_subjects(synthetic_cohort).subjects[0]
    changes = ["as it is", "SPECT-like PET", "3 mm misaligned"]
    flags = ["--mri", subject.mri, "--pet", subject.pet, "--steps", 15, "--out", tmp_path]
    robustness.main([str(flag) for flag in [*flags, "--changes", *changes]])
    text = (tmp_path / "robustness.md").read_text()
    assert capsys.readouterr().out == text
    rows = re.findall(r"^\| (.+) \| 100 % \| 100 % \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    names, ssim, of_average = zip(*rows, strict=True)
    assert list(names) == changes
    assert ssim == of_average and len(set(ssim)) == len(changes)
    with Picture.open(tmp_path / "robustness.png") as picture:
        assert picture.size == (1000, 430)  # two changes beside each other, two rows


@pytest.mark.parametrize("name", ["6 mm slices", "3 mm voxels"])
def test_sampled_anew_but_not_moved(images, name):
    (mri, affine), (pet, of_pet) = robustness.CHANGES[name](*images)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    assert list(sides) == ([2, 2, 6] if name == "6 mm slices" else [3, 3, 3])
    for before, after in zip(images, ((mri, affine), (pet, of_pet)), strict=True):
        np.testing.assert_allclose(centre_of(*after), centre_of(*before), atol=0.5)


@pytest.mark.parametrize("side_mm", [2, 4])
def test_small_voxels_are_those_of_the_middle(images, side_mm):
    images = [(array, np.diag([side_mm, side_mm, side_mm, 1.0])) for array, _ in images]
    for before, (array, affine) in zip(images, robustness.of_voxels(0.7)(*images), strict=True):
        assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx([0.7] * 3)
        sides = (np.array(before[0].shape) - 1) * side_mm
        np.testing.assert_allclose(
            np.array(array.shape) * 0.7, np.minimum(sides, 80 - side_mm), atol=0.8
        )
        np.testing.assert_allclose(centre_of(array, affine), centre_of(*before), atol=1.5)


def test_moved_by_three_millimetres(images):
    mri, pet = robustness.misaligned(*images)
    assert mri is images[0]
    assert list(centre_of(*pet) - centre_of(*images[1])) == pytest.approx([3, 0, 0])


def test_one_voxel_alone_is_hot(images):
    _, (pet, _) = robustness.hot_voxel(*images)
    assert (pet != images[1][0]).sum() == 1 and pet.max() == 200
    assert images[1][0].max() < 1
