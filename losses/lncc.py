"""Local normalised cross-correlation, the structural term of the released objective."""

import torch
from torch.nn import functional as F

from losses.precision import at_least_float32

BOX = 27  # voxels of a box of 3x3x3
SMALLEST_VARIANCE = 1e-5  # of a box's 27-voxel sums


def lncc_losses(fused: torch.Tensor, *sources: torch.Tensor) -> list[torch.Tensor]:
    """Minus the mean squared local correlation with each source.

    Boxes of 3x3x3 voxels, zero-padded border, variances (27-voxel sums) of at least 1e-5. About -1
    where fused and source are related linearly in every box, 0 where they are unrelated; lower is
    better. Flat boxes count as 0, so an empty background pulls the value towards 0. MONAI's
    `LocalNormalizedCrossCorrelationLoss` with its defaults gives the same number; here the sums of
    the fused volume are shared by all sources, and three voxels are added along each axis in turn.

    Args:
        fused: (B, 1, D, H, W).
        sources: volumes of the same shape.

    Returns:
        A scalar tensor for each source, float32 (float64 for float64 input), computed outside
        autocast: the local variances are differences of nearly equal sums.
    """
    with torch.autocast(fused.device.type, enabled=False):
        fused = at_least_float32(fused)
        sum_f = _box_sum(fused)
        variance_f = _variance(fused, sum_f)
        losses = []
        for source in sources:
            source = source.to(fused.dtype)
            with torch.no_grad():
                sum_s = _box_sum(source)
                variance_s = _variance(source, sum_s)
            covariance = _box_sum(fused * source) - sum_f / BOX * sum_s
            correlation = covariance.square() / (variance_f * variance_s)
            losses.append(-correlation.mean())
        return losses


def _variance(volume: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """27 times the variance of every box, kept away from 0; `sums` are those of its boxes."""
    squares = _box_sum(volume * volume)
    return (squares - sums / BOX * sums).clamp(min=SMALLEST_VARIANCE)


def _box_sum(volume: torch.Tensor) -> torch.Tensor:
    """Sums over 3x3x3 boxes around every voxel, zeros outside, (B, 1, D, H, W) -> the same."""
    for axis in (2, 3, 4):
        side = volume.shape[axis]
        later_axes = (0, 0) * (4 - axis)  # F.pad counts from the last axis
        padded = F.pad(volume, (*later_axes, 1, 1))
        before = padded.narrow(axis, 0, side)
        after = padded.narrow(axis, 2, side)
        volume = before + volume + after
    return volume
