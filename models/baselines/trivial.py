"""Fusions without a network: the rows that every table needs, because some scores reward them.

All take MRI and PET, (B, 1, D, H, W) in [0, 1], and return the fused volume of the same shape and
range.
"""

import torch
from torch import nn


class Mix(nn.Module):
    """w1 MRI + w2 PET with the weights scaled to sum 1.

    Args:
        weights: of MRI and of PET, not negative, not both 0. (1, 0) is a copy of the MRI, (1, 1)
            the average.

    Raises:
        ValueError: for weights that are negative, not finite, or both 0.
    """

    def __init__(self, weights: tuple[float, float] = (2, 1)) -> None:
        super().__init__()
        w1, w2 = weights
        if not (0 <= w1 < float("inf") and 0 <= w2 < float("inf") and w1 + w2 > 0):
            raise ValueError(f"mix needs two weights of at least 0, not both 0; received {weights}")
        self.mri_share = w1 / (w1 + w2)

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """The weighted mean of the volumes, (B, 1, D, H, W)."""
        return self.mri_share * mri + (1 - self.mri_share) * pet


class Maximum(nn.Module):
    """The larger of MRI and PET at each voxel."""

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """max(mri, pet), (B, 1, D, H, W)."""
        return torch.maximum(mri, pet)
