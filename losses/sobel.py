"""Edges of slices, the gradient term of DILRAN."""

import torch
from torch.nn import functional as F

_KERNELS = (
    ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0)),
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
)


def sobel_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """mean (|Sx output| - |Sx target|)^2 + mean (|Sy output| - |Sy target|)^2, a scalar; 0 for identical slices.

    Sx and Sy are the 3 x 3 Sobel filters without padding; slices are (N, 1, H, W).
    """
    kernels = torch.tensor(_KERNELS, dtype=output.dtype, device=output.device)[:, None]
    difference = F.conv2d(output, kernels).abs() - F.conv2d(target, kernels).abs()
    return difference.square().mean(dim=(0, 2, 3)).sum()
