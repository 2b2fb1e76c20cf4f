"""Displacement fields: images and labels pulled through them, two in a row, integration.

A displacement u is (B, 3, D, H, W) in voxels, channel c along axis c, and lives on the grid of its
result: result(p) = source(p + u(p)), zero outside the source.
"""

import torch
from torch.nn import functional as F

STEPS = 7  # of scaling and squaring: the velocity is cut into 2^7 parts
MODES = ("bilinear", "nearest")  # PyTorch's name of the trilinear mode in 3-D too


def warp(source: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """The source at every voxel's own place plus its displacement; zero outside.

    Not differentiable by the displacement where the mode is "nearest". Positions are computed
    outside autocast: half precision knows no fraction of a voxel far from the origin.

    Args:
        source: (B, C, D, H, W), floating.
        displacement: (B, 3, D, H, W), float32 or wider; its grid may have other sides.
        mode: "bilinear" (trilinear here) or "nearest".

    Returns:
        (B, C, D, H, W) on the displacement's grid, in its type.

    Raises:
        ValueError: for an unknown mode, or a side of one voxel.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}, choose from {', '.join(MODES)}")
    sides = source.shape[2:]
    if min(sides) < 2:
        raise ValueError(f"no side may have less than 2 voxels to warp, received {tuple(sides)}")
    with torch.autocast(source.device.type, enabled=False):
        positions = []
        for axis, side in enumerate(sides):
            place = _indices(displacement, axis) + displacement[:, axis]  # B, D, H, W
            positions.append(2 * (place / (side - 1) - 0.5))
        grid = torch.stack(positions[::-1], dim=-1)  # B, D, H, W, 3: the last axis comes first
        return F.grid_sample(
            source.to(grid.dtype), grid, mode, padding_mode="zeros", align_corners=True
        )


def warp_labels(
    labels: torch.Tensor, displacement: torch.Tensor, classes: int | None = None
) -> torch.Tensor:
    """Labels warped as one-hot maps, trilinearly; each voxel takes the class that has most of it.

    Smoother borders than with the nearest label. Outside the source is class 0.

    Args:
        labels: (B, 1, D, H, W), whole numbers from 0.
        displacement: (B, 3, D, H, W).
        classes: how many there are, 0 among them; None for what the labels have.

    Returns:
        (B, 1, D, H, W), int64.
    """
    count = int(labels.max()) + 1 if classes is None else classes
    most = warp((labels == 0).to(displacement.dtype), displacement)
    chosen = torch.zeros_like(most, dtype=torch.int64)
    for label in range(1, count):
        share = warp((labels == label).to(displacement.dtype), displacement)
        wins = share > most
        most = torch.where(wins, share, most)
        chosen = torch.where(wins, label, chosen)
    return chosen


def compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The one displacement that does what warping by `first` and then by `second` does.

    u(p) = u2(p) + u1(p + u2(p)); both (B, 3, D, H, W), the result on the grid of `second`.
    """
    return second + warp(first, second)


def integrate(velocity: torch.Tensor, scaled: bool = True) -> torch.Tensor:
    """The displacement at time 1 of a constant velocity field, by scaling and squaring.

    Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006:
    1/128 of the velocity, composed with itself seven times.

    Args:
        velocity: (B, 3, D, H, W) in voxels.
        scaled: whether to begin with 1/128 of it. [T10] the released code begins with all of it, so
            that the result is that of 128 times the velocity.

    Returns:
        (B, 3, D, H, W) in voxels.
    """
    displacement = velocity / 2**STEPS if scaled else velocity
    for _ in range(STEPS):
        displacement = compose(displacement, displacement)
    return displacement


def _indices(displacement: torch.Tensor, axis: int) -> torch.Tensor:
    """0, 1, .. along an axis of D, H, W, of shape (D, 1, 1), (1, H, 1) or (1, 1, W)."""
    side = displacement.shape[2 + axis]
    shape = [1, 1, 1]
    shape[axis] = side
    indices = torch.arange(side, device=displacement.device, dtype=displacement.dtype)
    return indices.view(shape)
