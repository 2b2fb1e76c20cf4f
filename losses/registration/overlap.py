"""Overlap of label maps, for training on labels: free of contrast, since it sees no intensities.

Hoffmann et al., "SynthMorph: learning contrast-invariant registration without acquired images",
IEEE Transactions on Medical Imaging 41(3), 2022.
"""

import torch

from losses.precision import at_least_float32

_EPS = 1e-5


def soft_dice_loss(warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """1 - mean over samples and classes of 2 sum(ab) / (sum a^2 + sum b^2 + 1e-5), in [0, 1].

    A class that neither has counts as not overlapping: leave it out.

    Args:
        warped: (B, classes, D, H, W), one-hot maps warped trilinearly.
        fixed: same shape, one-hot.
    """
    with torch.autocast(warped.device.type, enabled=False):
        a, b = at_least_float32(warped), at_least_float32(fixed)
        voxels = (2, 3, 4)
        common = 2 * (a * b).sum(dim=voxels)  # B, classes
        total = a.square().sum(dim=voxels) + b.square().sum(dim=voxels)
        return 1 - (common / (total + _EPS)).mean()
