"""Blurs, smooth random fields and random deformations, on the device of the crop.

Volumes are (D, H, W) float32; sizes are in voxels of the crop unless said otherwise.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in standard deviations


def blur(volume: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Gaussian blur along each axis, by one matrix product each; what lies outside does not count.

    Args:
        volume: (D, H, W).
        sigmas: standard deviation along each axis in voxels, 0 for none.
    """
    for axis, sigma in enumerate(sigmas):
        if sigma > 0.05:
            volume = _weighted(volume, axis, _gaussian(volume.shape[axis], sigma, volume))
    return volume


def _gaussian(side: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """(side, side): column j holds the weights of position j, which sum to 1."""
    position = torch.arange(side, device=like.device, dtype=like.dtype)
    distance = position[:, None] - position[None, :]
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    return weights / weights.sum(dim=0, keepdim=True)


def _weighted(volume: torch.Tensor, axis: int, weights: torch.Tensor) -> torch.Tensor:
    """Sums along an axis: (i, j) `weights` take its i positions to j.

    `tensordot` would copy the volume before and after, which takes as long as the product itself.
    """
    if axis == volume.ndim - 1:
        return volume @ weights
    shape = list(volume.shape)
    shape[axis] = weights.shape[1]
    return (weights.T @ volume.flatten(axis + 1)).view(shape)


def noise(shape: Sequence[int], generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """White normal noise, drawn on the CPU so that it is the same on every device."""
    return torch.randn(tuple(shape), generator=generator).to(like.device)


def smooth_noise(
    shape: Sequence[int], spacing: float, generator: torch.Generator, like: torch.Tensor
) -> torch.Tensor:
    """A smooth normal field, standard deviation about 1, its features `spacing` voxels wide."""
    coarse = [max(2, math.ceil(side / spacing) + 1) for side in shape]
    if coarse == [*shape]:
        return noise(shape, generator, like)
    # interpolating between independent values leaves 8/27 of their variance on average
    field = noise(coarse, generator, like) * (27 / 8) ** 0.5
    for axis, side in enumerate(shape):
        # trilinear, but an axis at a time and the largest product last: a tenth of the time
        index = torch.arange(coarse[axis], device=like.device, dtype=field.dtype)
        place = torch.linspace(0, coarse[axis] - 1, side, device=like.device, dtype=field.dtype)
        field = _weighted(field, axis, (1 - (index[:, None] - place).abs()).clamp(min=0))
    return field


def rotation(angles: Sequence[float]) -> torch.Tensor:
    """(3, 3) rotation by angles in radians about the three axes, one after the other."""
    turned = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(angles):
        i, j = (other for other in range(3) if other != axis)
        turn = torch.eye(3, dtype=torch.float64)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        turned = turn @ turned
    return turned


def grid_points(size: int, step: Sequence[float], device: torch.device) -> torch.Tensor:
    """(3, size, size, size) points around 0, `step` (3,) apart along each axis."""
    axis = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    along = [axis * float(apart) for apart in step]
    return torch.stack(torch.meshgrid(*along, indexing="ij"))


def moved(volume: torch.Tensor, shift: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """A volume moved rigidly about its centre, trilinear, continued beyond its border.

    Args:
        volume: (D, H, W), cubic.
        shift: (3,) in voxels.
        turn: (3, 3) rotation.
    """
    # affine_grid counts (width, height, depth), in halves of a side
    matrix = torch.cat([turn, (2 * shift / volume.shape[0])[:, None]], dim=1)
    matrix = matrix.flip(0)[:, [2, 1, 0, 3]].to(volume.device, torch.float32)
    grid = F.affine_grid(matrix[None], (1, 1, *volume.shape), align_corners=False)
    sampled = F.grid_sample(volume[None, None], grid, padding_mode="border", align_corners=False)
    return sampled[0, 0]
