"""Fusing a pair by a network whose result is known, at both resolutions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.volume import read_pair
from inference.fuse import fuse_pair, run_network, score_rows, score_table
from inference.trained import TrainedModel
from metrics import score
from models import build_model
from models.fusion_layer import gate
from tests.helpers.golden import shared_file


class WeightedMean(torch.nn.Module):
    """A network whose result is known: 0.7 MRI + 0.3 PET, through stream maps as DC2Fusion."""

    def stream_maps(self, mri, pet):
        return torch.cat((0.7 * mri, 0.3 * pet), dim=1)

    @staticmethod
    def fuse_maps(f1, f2):
        return f1 + f2

    @staticmethod
    def gated(fused, mri, pet):
        return fused

    def forward(self, mri, pet):
        return self.fuse_maps(*self.stream_maps(mri, pet).split(1, dim=1))


def known(size: int) -> TrainedModel:
    return TrainedModel(WeightedMean(), "paper", size, None, "")


@pytest.fixture
def small_windows(monkeypatch):
    """Windows as small as the training's size, so that small volumes need several."""
    monkeypatch.setattr("inference.fuse.LEAST_WINDOW", 1)


def scaled(array: np.ndarray) -> np.ndarray:
    return (array - array.min()) / np.ptp(array)


def test_native_resolution_is_exact_for_a_voxelwise_network_in_one_or_many_windows(
    pair, small_windows
):
    mri, pet = read_pair(*pair)
    expected = 0.7 * scaled(mri.array) + 0.3 * scaled(pet.array)
    for size in (64, 16, 12):
        fusion = fuse_pair(known(size), mri, pet, torch.device("cpu"), "native")
        np.testing.assert_allclose(fusion.fused, np.where(mri.array > 0, expected, 0), atol=1e-5)


def test_published_resolution_interpolates_back_to_the_same_place(write_nifti):
    array = np.zeros((30, 36, 28), np.float32)
    array[3:27, 4:32, 3:25] = 100
    array[6:12, 20:30, 15:20] = 400
    array = ndimage.gaussian_filter(array, 1.5) * (ndimage.uniform_filter(array, 3) > 0)
    files = [
        write_nifti(name, array, np.diag([4.0, 4, 4, 1]), "PSR") for name in ("m.nii", "p.nii")
    ]
    mri, pet = read_pair(*files)
    fusion = fuse_pair(known(128), mri, pet, torch.device("cpu"), "published")
    inner = ndimage.binary_erosion(mri.array > 0, iterations=2)
    assert abs(fusion.fused - scaled(array))[inner].max() < 0.12
    assert abs(fusion.fused - scaled(array))[inner].mean() < 0.01


class TestOddInputs:
    """Inputs that went wrong elsewhere; each fuses like the clean head that it was made from."""

    @staticmethod
    def fuse(mri: str, pet: str, resolution: str) -> np.ndarray:
        pair = read_pair(*(shared_file("data", "odd", f"{name}.nii.gz") for name in (mri, pet)))
        return fuse_pair(known(64), *pair, torch.device("cpu"), resolution).fused

    @pytest.mark.parametrize("resolution", ["native", "published"])
    def test_stray_voxels_in_the_corners(self, resolution):
        clean = self.fuse("base_mri", "base_pet", resolution)
        padded = self.fuse("two_stray_voxels_mri", "pet_for_padded_mri", resolution)
        np.testing.assert_allclose(padded[14:-14, 14:-14, 14:-14], clean, atol=1e-6)

    @pytest.mark.parametrize("resolution", ["native", "published"])
    def test_one_hot_voxel_in_the_pet(self, resolution, capsys):
        clean = self.fuse("base_mri", "base_pet", resolution)
        assert "notice" not in capsys.readouterr().err
        hot = self.fuse("base_mri", "pet_one_hot_voxel", resolution)
        assert "pet_one_hot_voxel.nii.gz: voxels up to" in capsys.readouterr().err
        inside = clean > 0
        assert np.abs(hot - clean)[inside].mean() < 0.05
        assert np.corrcoef(hot[inside], clean[inside])[0, 1] > 0.99


def test_the_released_recipe_keeps_its_scale_and_says_so(pair, capsys):
    mri, pet = read_pair(*pair)
    hot = pet.array.copy()
    hot[9, 9, 9] = 200 * hot.max()
    released = TrainedModel(WeightedMean(), "released", 64, None, "")
    fusion = fuse_pair(released, mri, replace(pet, array=hot), torch.device("cpu"), "native")
    assert "as released" in capsys.readouterr().err
    expected = 0.7 * scaled(mri.array) + 0.3 * scaled(hot)
    np.testing.assert_allclose(fusion.fused, np.where(mri.array > 0, expected, 0), atol=1e-5)


def test_the_printed_scores_are_those_of_the_whole_volume(pair):
    fusion = fuse_pair(known(64), *read_pair(*pair), torch.device("cpu"))
    lines = score_table(score_rows(fusion)).splitlines()
    expected = score(fusion.fused, fusion.mri, fusion.pet, names=("psnr", "ssim", "nmi"))
    cells = [f"{expected[f'{s}_mri']:.3f} / {expected[f'{s}_pet']:.3f}" for s in ("psnr", "nmi")]
    assert all(cell in lines[1] for cell in cells)
    assert "inf / " in lines[3]  # a copy of the MRI


@pytest.mark.parametrize(("fusion", "left_out"), [("average", True), ("l1-norm", False)])
def test_windows_beside_the_head_are_left_out_where_the_fusion_layer_can_do_without(
    fusion, left_out
):
    torch.manual_seed(0)
    model = build_model("dc2fusion", embed_dim=24, depths=(1,), fusion=fusion).eval()
    volumes = torch.rand(2, 1, 1, 40, 36, 32)
    head = np.zeros((40, 36, 32), bool)
    head[2:30, 2:12, 3:14] = True
    computed = []

    def inputs(part):
        computed.append(part)
        return [volume[0, 0][part][None, None] for volume in volumes]

    with torch.inference_mode():
        whole = run_network(model, 16, head.shape, inputs)
        windows = len(computed)
        seen = run_network(model, 16, head.shape, inputs, head)
    assert (len(computed) - windows < windows) == left_out
    assert torch.equal(seen[0, 0][head], whole[0, 0][head])


def test_windows_are_blended_before_the_gate_of_the_whole_volume(pair, small_windows):
    mri, pet = read_pair(*pair)

    class Gated(WeightedMean):
        gated = staticmethod(lambda fused, mri, pet: fused * gate(mri, pet))

    windows = TrainedModel(Gated(), "paper", 9, None, "")
    fused = fuse_pair(windows, mri, pet, torch.device("cpu")).fused
    sources = [torch.from_numpy(scaled(volume.array))[None, None] for volume in (mri, pet)]
    expected = (0.7 * sources[0] + 0.3 * sources[1]) * gate(*sources)
    np.testing.assert_allclose(fused, np.where(mri.array > 0, expected[0, 0].numpy(), 0), atol=1e-5)
