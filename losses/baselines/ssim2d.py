"""SSIM of slices, as the 2-D methods train with it (Wang et al., IEEE TIP 13(4), 2004)."""

import torch

from losses.ssim import WINDOW, band_matrix


def slice_ssim(
    x: torch.Tensor, y: torch.Tensor, data_range: float | torch.Tensor = 1.0, window: int = WINDOW
) -> tuple[torch.Tensor, torch.Tensor]:
    """SSIM and its contrast-structure factor, each a mean over whole Gaussian windows (sigma 1.5).

    Args:
        x, y: (N, 1, H, W).
        data_range: L in C1 = (0.01 L)^2 and C2 = (0.03 L)^2.
        window: pixels a side; at most H and W.

    Returns:
        SSIM and contrast-structure of each slice, (N,); 1 for identical slices, higher is better.

    Raises:
        ValueError: if a side is shorter than the window.
    """
    height, width = x.shape[-2:]
    if min(height, width) < window:
        raise ValueError(
            f"SSIM needs every side of at least {window} pixels, received {height} x {width}"
        )
    rows = band_matrix(height, x, window).T  # H - 10, H
    columns = band_matrix(width, x, window)  # W, W - 10

    def blur(image: torch.Tensor) -> torch.Tensor:
        return rows @ image @ columns  # N, 1, H - 10, W - 10

    c1 = (0.01 * data_range) ** 2
    c2 = (0.03 * data_range) ** 2
    mean_x = blur(x)
    mean_y = blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    structure = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    ssim = luminance * structure
    return ssim.mean(dim=(1, 2, 3)), structure.mean(dim=(1, 2, 3))


def guessed_range(images: torch.Tensor) -> torch.Tensor:
    """The data range L that SwinFuse and MATR guess from a network's output: 1, 2, 255 or 256.

    The upper bound is 255 if the largest value is above 128, else 1; the lower bound -1 if the
    smallest value is below -0.5, else 0.
    """
    upper = torch.where(images.max() > 128, 255.0, 1.0)
    lower = torch.where(images.min() < -0.5, -1.0, 0.0)
    return upper - lower
