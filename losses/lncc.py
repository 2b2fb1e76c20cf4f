"""Local normalised cross-correlation, the structural term of the released objective."""

import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss

_LNCC = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=3)


def lncc_losses(fused: torch.Tensor, *sources: torch.Tensor) -> list[torch.Tensor]:
    """Minus the mean squared local correlation with each source, MONAI's loss with its defaults.

    Boxes of 3x3x3 voxels, zero-padded border, 27-voxel sums clamped at 1e-5. About -1 where fused and
    source are related linearly in every box, 0 where they are unrelated; lower is better. Flat boxes
    count as 1 (clamped over clamped), so an empty background pulls the value towards -1.

    Args:
        fused: (B, 1, D, H, W).
        sources: volumes of the same shape.

    Returns:
        A scalar tensor for each source, float32 (float64 for float64 input), computed outside autocast:
        the local variances are differences of nearly equal sums.
    """
    with torch.autocast(fused.device.type, enabled=False):
        wide = fused.to(torch.promote_types(fused.dtype, torch.float32))
        return [_LNCC(wide, source.to(wide.dtype)) for source in sources]
