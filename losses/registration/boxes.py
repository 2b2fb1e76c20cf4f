"""Means over boxes, as local correlation and MIND take them."""

import torch
from torch.nn import functional as F


def box_mean(volume: torch.Tensor, window: int, padding: int) -> torch.Tensor:
    """Means over boxes of `window` voxels a side; zeros outside count as voxels.

    Args:
        volume: (B, C, D, H, W).
        window: odd.
        padding: zeros added to both ends of each axis; window // 2 keeps the sides.
    """
    for axis in range(3):
        kernel, zeros = [1, 1, 1], [0, 0, 0]
        kernel[axis], zeros[axis] = window, padding
        volume = F.avg_pool3d(volume, kernel, stride=1, padding=zeros)
    return volume
