"""Fusion in a Laplacian pyramid, in three dimensions: the classical method without learning.

Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Transactions on
Communications 31(4), 532-540, 1983; choosing the coefficient of larger magnitude for fusion follows
Burt, "The Pyramid as a Structure for Efficient Computation", in Multiresolution Image Processing
and Analysis, Springer, 1984.
"""

import torch
from torch import nn

GAUSSIAN = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class Laplacian(nn.Module):
    """3-D Laplacian pyramid fusion.

    Both volumes are split into detail maps, each the difference between a Gaussian level and the
    next one expanded again, and a coarsest level. Of two detail values the one of larger magnitude
    is taken (their mean where the magnitudes are equal), of the coarsest level the mean. The result
    does not depend on the order of the volumes.

    Args:
        levels: number of detail maps, at least 1. A side of 1 or 2 voxels is not halved any more;
            where no side can be, the pyramid ends.

    Raises:
        ValueError: for `levels` below 1.
    """

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"a Laplacian pyramid needs at least 1 level, received {levels}")
        self.levels = levels

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """Fuse MRI and PET, (B, 1, D, H, W) in [0, 1], any size -> the same shape and range."""
        details_mri, coarse_mri = decompose(mri, self.levels)
        details_pet, coarse_pet = decompose(pet, self.levels)
        details = [_larger(*pair) for pair in zip(details_mri, details_pet, strict=True)]
        return compose(details, (coarse_mri + coarse_pet) / 2).clamp(0, 1)


def decompose(volume: torch.Tensor, levels: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Split (..., D, H, W): at most `levels` detail maps, finest first, and the coarsest level."""
    details = []
    for _ in range(levels):
        if max(volume.shape[-3:]) <= 2:
            break
        coarser = _reduce(volume)
        details.append(volume - _expand(coarser, volume.shape[-3:]))
        volume = coarser
    return details, volume


def compose(details: list[torch.Tensor], coarsest: torch.Tensor) -> torch.Tensor:
    """The inverse of `decompose`."""
    volume = coarsest
    for detail in reversed(details):
        volume = detail + _expand(volume, detail.shape[-3:])
    return volume


def _larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    difference = a.abs() - b.abs()
    return torch.where(difference > 0, a, torch.where(difference < 0, b, (a + b) / 2))


def _reduce(volume: torch.Tensor) -> torch.Tensor:
    """Gaussian filter along each axis, then every second voxel, the first included."""
    return _along_axes(volume, [_reduction(side, volume) for side in volume.shape[-3:]])


def _expand(volume: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Spread over a grid of `shape`, every second voxel filled, the Gaussian in between."""
    return _along_axes(volume, [_expansion(side, volume) for side in shape])


def _along_axes(volume: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    # Most of the matrices is 0, but the library's dense products are five times as quick on a
    # volume of 128^3 as convolutions of one channel.
    for axis, matrix in zip((-3, -2, -1), matrices, strict=True):
        volume = (volume.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
    return volume


def _taps(side: int, like: torch.Tensor) -> torch.Tensor:
    """(side, ceil(side / 2)): Gaussian weight between voxels and those of the next level."""
    distance = torch.arange(side).unsqueeze(1) - torch.arange(0, side, 2)
    taps = torch.tensor((*GAUSSIAN, 0.0), dtype=like.dtype, device=like.device)
    return taps[torch.where(distance.abs() <= 2, distance + 2, len(GAUSSIAN))]


def _reduction(side: int, like: torch.Tensor) -> torch.Tensor:
    """(ceil(side / 2), side), rows that sum to 1: at the border what lies inside takes over."""
    if side <= 2:
        return torch.eye(side, dtype=like.dtype, device=like.device)
    taps = _taps(side, like).mT
    return taps / taps.sum(dim=1, keepdim=True)


def _expansion(side: int, like: torch.Tensor) -> torch.Tensor:
    """(side, ceil(side / 2)), rows sum to 1."""
    if side <= 2:
        return torch.eye(side, dtype=like.dtype, device=like.device)
    taps = _taps(side, like)
    return taps / taps.sum(dim=1, keepdim=True)
