"""Small smooth slices and volumes, and methods with a known answer, for the losses."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn


def matches(ours: torch.Tensor, golden: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.tolist() == pytest.approx(golden.tolist(), rel=tolerance)


def volumes(*size: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(3, batch, 1, *size, generator=generator)
    fused, mri, pet = torch.from_numpy(ndimage.gaussian_filter(noise.numpy(), (0, 0, 0, 1, 1, 1)))
    mri, pet = 3 * mri - 1, 3 * pet - 1
    return 0.5 * mri + 0.3 * pet + 0.3 * fused, mri, pet


def slices(*shape: int, seed: int = 5) -> torch.Tensor:
    noise = np.random.default_rng(seed).uniform(size=(*shape[:1], 1, *shape[1:]))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 1, 1))).float()


class FixedOutput(nn.Module):
    """A method whose result is given."""

    multiple = 2

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        return self.output

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        return self.output


class Blend(nn.Module):
    """A method with one weight; slices must be multiples of 4."""

    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.7))

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        return self.share * mri + (1 - self.share) * pet

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[-2] % 4 == image.shape[-1] % 4 == 0
        return self.share * image
