"""SSIM that listens in each window to the source that has something to show there."""

import torch

from losses.precision import at_least_float32
from losses.ssim import C1, C2, blur, check_size

_FLAT = 1e-8  # variance that is added, so that two flat windows count alike


def salient_ssim_losses(
    fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor
) -> list[torch.Tensor]:
    """mean(n_s (1 - c_s)) + mean(1 - l_s) for s = MRI, PET, with l and c the two factors of SSIM.

    l_s compares the luminance of the fused volume with source s, c_s contrast and structure, in the
    windows of `losses.ssim`. n_s = 2 sigma_s / (sigma_mri + sigma_pet), from 0 to 2, is how much of
    the contrast in a window is source s's: where one source is flat, the fused volume is not
    punished for showing what is in the other. Plain SSIM asks there for as little as possible.
    0 for identical volumes; lower is better.

    Args:
        fused: (B, 1, D, H, W), intensities around [0, 1].
        mri, pet: same shape, in [0, 1].

    Returns:
        Two scalar tensors, MRI's and PET's term, float32 (float64 for float64 input), computed
        outside autocast.

    Raises:
        ValueError: if a side is shorter than the window of 11 voxels.
    """
    check_size(fused)
    with torch.autocast(fused.device.type, enabled=False):
        fused = at_least_float32(fused)
        sources = [at_least_float32(source) for source in (mri, pet)]
        with torch.no_grad():
            means = [blur(source) for source in sources]  # B, 1, D - 10, H - 10, W - 10
            variances = [window_variance(s, mean) for s, mean in zip(sources, means, strict=True)]
            weights = salience(*variances)
        mean_f = blur(fused)
        variance_f = blur(fused * fused) - mean_f * mean_f
        losses = []
        for source, mean, variance, weight in zip(sources, means, variances, weights, strict=True):
            covariance = blur(fused * source) - mean_f * mean
            structure = (2 * covariance + C2) / (variance_f + variance + C2)
            luminance = (2 * mean_f * mean + C1) / (mean_f * mean_f + mean * mean + C1)
            losses.append((weight * (1 - structure)).mean() + (1 - luminance).mean())
        return losses


def salience(mri: torch.Tensor, pet: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """n_s = 2 sigma_s / (sigma_mri + sigma_pet) of both sources, from their windows' variances."""
    contrast_mri, contrast_pet = ((variance + _FLAT).sqrt() for variance in (mri, pet))
    total = contrast_mri + contrast_pet
    return 2 * contrast_mri / total, 2 * contrast_pet / total


def window_variance(volume: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Of every window; rounding can bring that of a flat one below 0."""
    return (blur(volume * volume) - mean * mean).clamp(min=0)
