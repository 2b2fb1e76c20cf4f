"""Structural dissimilarity of volumes: 1 - SSIM in 3-D (Wang et al., IEEE TIP 13(4), 2004)."""

import torch

from losses.precision import at_least_float32

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def ssim_losses(fused: torch.Tensor, *sources: torch.Tensor) -> list[torch.Tensor]:
    """1 - SSIM(fused, source) for each source, mean over the batch.

    Gaussian window of 11 voxels, sigma 1.5, data range 1, population moments, only windows that lie
    fully inside the volume. 0 for identical volumes, at most 2; lower is better. MONAI's `SSIMLoss`
    gives the same number; here the moments of the fused volume are shared by all sources, and
    filtering is done by matrix products along each axis, many times faster than a dense 11x11x11
    convolution.

    Args:
        fused: (B, 1, D, H, W), intensities around [0, 1].
        sources: volumes of the same shape in [0, 1].

    Returns:
        A scalar tensor for each source, float32 (float64 for float64 input), computed outside
        autocast.

    Raises:
        ValueError: if a side is shorter than the window of 11 voxels.
    """
    check_size(fused)
    with torch.autocast(fused.device.type, enabled=False):
        fused = at_least_float32(fused)
        mean_f = blur(fused)  # B, 1, D - 10, H - 10, W - 10
        variance_f = blur(fused * fused) - mean_f * mean_f
        losses = []
        for source in sources:
            source = at_least_float32(source)
            with torch.no_grad():
                mean_s = blur(source)
                square_s = blur(source * source)
            covariance = blur(fused * source) - mean_f * mean_s
            variances = variance_f + square_s - mean_s * mean_s
            luminance = (2 * mean_f * mean_s + C1) / (mean_f * mean_f + mean_s * mean_s + C1)
            structure = (2 * covariance + C2) / (variances + C2)
            losses.append(1 - (luminance * structure).mean())
        return losses


def check_size(volume: torch.Tensor) -> None:
    """Refuse (B, 1, D, H, W) volumes that do not hold a window, by a ValueError."""
    sides = tuple(volume.shape[2:])
    if min(sides) < WINDOW:
        raise ValueError(f"SSIM needs every side of at least {WINDOW} voxels, received {sides}")


def blur(volume: torch.Tensor) -> torch.Tensor:
    """Gaussian means over whole windows: (B, 1, D, H, W) -> (B, 1, D-10, H-10, W-10)."""
    b, c, d, h, w = volume.shape
    volume = volume @ band_matrix(w, volume)  # B, 1, D, H, W - 10
    volume = band_matrix(h, volume).T @ volume  # B, 1, D, H - 10, W - 10
    volume = band_matrix(d, volume).T @ volume.reshape(b, c, d, -1)
    return volume.reshape(b, c, d - WINDOW + 1, h - WINDOW + 1, w - WINDOW + 1)


def band_matrix(side: int, like: torch.Tensor, window: int = WINDOW) -> torch.Tensor:
    """(side, side - window + 1): column j holds the Gaussian window that starts at position j.

    On the device of `like` and of its type.
    """
    row = torch.arange(side, device=like.device)[:, None]
    column = torch.arange(side - window + 1, device=like.device)[None, :]
    tap = row - column
    weights = torch.exp(-0.5 * ((tap - window // 2) / SIGMA) ** 2).to(like.dtype)
    weights = torch.where((tap >= 0) & (tap < window), weights, torch.zeros_like(weights))
    return weights / weights.sum(dim=0, keepdim=True)
