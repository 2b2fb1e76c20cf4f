"""Fusing a pair by a network whose result is known, at both resolutions."""

import numpy as np
import torch
from scipy import ndimage

from data.volume import read_pair
from inference.fuse import fuse_pair
from inference.trained import TrainedModel


class WeightedMean(torch.nn.Module):
    """A network whose result is known: 0.7 MRI + 0.3 PET, through stream maps as DC2Fusion."""

    def stream_maps(self, mri, pet):
        return torch.cat((0.7 * mri, 0.3 * pet), dim=1)

    @staticmethod
    def fuse_maps(f1, f2):
        return f1 + f2

    def forward(self, mri, pet):
        return self.fuse_maps(*self.stream_maps(mri, pet).split(1, dim=1))


def known(size: int) -> TrainedModel:
    return TrainedModel(WeightedMean(), "paper", size, None, "")


def scaled(array: np.ndarray) -> np.ndarray:
    return (array - array.min()) / np.ptp(array)


def test_native_resolution_is_exact_for_a_voxelwise_network_in_one_or_many_windows(pair):
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
