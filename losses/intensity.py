"""Intensity terms: how far the fused volume's values are from a source's."""

import torch

from losses.precision import at_least_float32


def squared_losses(fused: torch.Tensor, *sources: torch.Tensor) -> list[torch.Tensor]:
    """Mean of (fused - source)^2 for each source; 0 for identical volumes, lower is better.

    The weighted sum over two sources has the weighted mean of the sources as its minimiser, where
    an absolute difference would have the heavier source itself.

    Args:
        fused: (B, 1, D, H, W).
        sources: volumes of the same shape.

    Returns:
        A scalar tensor for each source, float32 (float64 for float64 input), computed outside
        autocast.
    """
    with torch.autocast(fused.device.type, enabled=False):
        return [_difference(fused, source).square().mean() for source in sources]


def absolute_losses(fused: torch.Tensor, *sources: torch.Tensor) -> list[torch.Tensor]:
    """Mean of |fused - source| for each source, as in the released objective; else as above."""
    with torch.autocast(fused.device.type, enabled=False):
        return [_difference(fused, source).abs().mean() for source in sources]


def _difference(fused: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return at_least_float32(fused) - source
