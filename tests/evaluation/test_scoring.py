"""A subject as it is scored: odd inputs come to the network like the clean ones they are made of.

Training reads a pair by the same functions, so that both are held here beside each other.
"""

import numpy as np
import pytest
import torch

from data.dataset import PairDataset
from data.settings import Preprocessing
from data.subjects import Subject
from evaluation.methods import trivial_method
from evaluation.scoring import Case, Settings
from tests.helpers.golden import shared_file

CLEAN = ("base_mri", "base_pet")


def subject(mri: str, pet: str) -> Subject:
    files = [shared_file("data", "odd", f"{name}.nii.gz") for name in (mri, pet)]
    return Subject("odd", *files, group="odd")


def evaluated(names: tuple[str, str]) -> list[np.ndarray]:
    return [volume[0, 0].numpy() for volume in Case(subject(*names), Settings(size=48)).inputs]


def trained(names: tuple[str, str]) -> list[np.ndarray]:
    item = PairDataset([subject(*names)], Preprocessing("paper", 48))[0, 0]
    return [item[key][0].numpy() for key in ("mri", "pet")]


@pytest.mark.parametrize("read", [evaluated, trained])
def test_stray_voxels_change_nothing(read, capsys):
    odd = read(("two_stray_voxels_mri", "pet_for_padded_mri"))
    if read is trained:  # scoring says it with the other doubts about a pair
        assert "two_stray_voxels_mri.nii.gz: 2 voxels above 0 lie" in capsys.readouterr().err
    for found, expected in zip(odd, read(CLEAN), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("read", [evaluated, trained])
def test_a_hot_voxel_leaves_the_head_visible(read, capsys):
    mri, pet = read(("base_mri", "pet_one_hot_voxel"))
    assert "pet_one_hot_voxel.nii.gz: voxels up to" in capsys.readouterr().err
    clean_mri, clean_pet = read(CLEAN)
    np.testing.assert_array_equal(mri, clean_mri)
    assert 0.8 < pet[clean_pet > 0.2].mean() / clean_pet[clean_pet > 0.2].mean() < 1.3


def test_a_fusion_without_a_network_at_native_voxels_is_the_same_too():
    settings = Settings(size=48, grid="native")
    average, device = trivial_method("average"), torch.device("cpu")
    odd = Case(subject("two_stray_voxels_mri", "pet_for_padded_mri"), settings)
    clean = Case(subject(*CLEAN), settings).fuse(average, ["native"], device)["native"]
    padded = odd.fuse(average, ["native"], device)["native"][14:-14, 14:-14, 14:-14]
    np.testing.assert_allclose(padded.numpy(), clean.numpy(), atol=1e-5)
