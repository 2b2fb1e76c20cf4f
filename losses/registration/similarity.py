"""Likeness of two images of one contrast: squared difference and local correlation.

Both are symmetric in their two images.
"""

import torch
from torch.nn import functional as F

from losses.precision import at_least_float32
from losses.registration.boxes import box_mean

WINDOW = 9
_EPS = 1e-5  # beside the product of two variances, both sums over a window


def mse_loss(warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Mean squared difference; 0 for equal images.

    Args:
        warped: (B, 1, D, H, W), intensities in [0, 1].
        fixed: same.
    """
    with torch.autocast(warped.device.type, enabled=False):
        return F.mse_loss(at_least_float32(warped), at_least_float32(fixed))


def ncc_loss(warped: torch.Tensor, fixed: torch.Tensor, window: int = WINDOW) -> torch.Tensor:
    """Minus the mean squared local correlation, in [-1, 0].

    Windows of 9x9x9 voxels, zeros outside; -mean(cross^2 / (var_m var_f + 1e-5)) with sums over the
    window. A constant background adds 0, so that -1 is never reached.

    Args:
        warped: (B, 1, D, H, W), intensities in [0, 1].
        fixed: same.
        window: voxels a side, odd.

    Raises:
        ValueError: for an even window.
    """
    if window % 2 == 0:
        raise ValueError(f"the window must be odd, received {window}")
    voxels = window**3
    with torch.autocast(warped.device.type, enabled=False):
        m, f = at_least_float32(warped), at_least_float32(fixed)
        products = torch.cat([m, f, m * m, f * f, m * f], dim=1)  # B, 5, D, H, W
        means = box_mean(products, window, window // 2)
        m, f, mm, ff, mf = means.unbind(dim=1)
        cross = voxels * (mf - m * f)
        variances = voxels * (mm - m * m) * voxels * (ff - f * f)
        return -(cross.square() / (variances + _EPS)).mean()
