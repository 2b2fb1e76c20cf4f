"""Multi-scale SSIM in the form that SwinFuse trains with."""

import torch
from torch.nn import functional as F

from losses.ssim import WINDOW
from losses.ssim2d import guessed_range, slice_ssim

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_SIDE = 2 ** (len(SCALE_WEIGHTS) - 1)  # that leaves a pixel on the coarsest scale


def msssim(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Five-scale SSIM with each scale's values v taken as (v + 1) / 2; 1 for identical slices, higher is better.

    Args:
        output: (N, 1, H, W), the network's output, from which the data range is guessed at each scale.
        target: same shape and scale.

    Returns:
        A scalar, of means over the batch.

    Raises:
        ValueError: if a side is shorter than 16 pixels.
    """
    ssim, contrast = msssim_scales(output, target)
    return combine_scales((ssim + 1) / 2, (contrast + 1) / 2)


def msssim_scales(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean SSIM and mean contrast-structure at each scale, (5,) each; 2 x 2 means between the scales.

    The window shrinks to the slice where a scale is smaller than 11 pixels.
    """
    if min(output.shape[-2:]) < SMALLEST_SIDE:
        shape = tuple(output.shape[-2:])
        raise ValueError(f"five scales need every side of at least {SMALLEST_SIDE} pixels, received {shape}")
    ssims, contrasts = [], []
    for scale in range(len(SCALE_WEIGHTS)):
        if scale:
            output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
        window = min(WINDOW, *output.shape[-2:])
        ssim, contrast = slice_ssim(output, target, guessed_range(output), window)
        ssims.append(ssim.mean())
        contrasts.append(contrast.mean())
    return torch.stack(ssims), torch.stack(contrasts)


def combine_scales(ssim: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
    """prod over i = 1..4 of contrast_i^w_i, times ssim_5^(4 w_5).

    The exponent of the coarsest scale is four times the usual one: so the released code has it, and the
    published weights of the loss were found with it.
    """
    weights = torch.tensor(SCALE_WEIGHTS, dtype=ssim.dtype, device=ssim.device)
    fine = contrast[:-1] ** weights[:-1]
    return fine.prod() * ssim[-1] ** (len(fine) * weights[-1])
