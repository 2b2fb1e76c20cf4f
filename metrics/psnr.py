"""Peak signal-to-noise ratio: per source, and the two ways to combine two sources."""

import torch
from torch import Tensor

from .images import masked_mean


def mse(fused: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference over the (masked) pixels, (B,).

    Range 0 and up, lower is better, 0 for identical images.
    """
    return masked_mean((fused - source).square_(), mask)


def psnr(fused: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """PSNR = 10 log10(1 / MSE) in dB, peak 1, for images in [0, 1]; (B,).

    Higher is better; infinite for identical images. Two sources are combined in three ways:
    the released mean (P_MRI + P_PET) / 2, which a copy of one source drives to infinity;
    `psnr_pooled`; and the minimum of the two.
    """
    return psnr_of(mse(fused, source, mask))


def psnr_of(error: Tensor) -> Tensor:
    """PSNR in dB of a mean squared error at peak 1."""
    return -10 * torch.log10(error)


def psnr_pooled(fused: Tensor, mri: Tensor, pet: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pooled PSNR = 10 log10(1 / ((MSE_MRI + MSE_PET) / 2)) in dB; (B,).

    Higher is better. Infinite only where all three images are identical; for given sources the
    plain average has the highest value there is, so a copy of one source cannot win.
    """
    return psnr_of((mse(fused, mri, mask) + mse(fused, pet, mask)) / 2)
