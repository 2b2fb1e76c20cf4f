"""The precision in which losses are computed, whatever autocast hands over."""

import torch


def at_least_float32(volume: torch.Tensor) -> torch.Tensor:
    """The volume in float32, or in float64 if it is."""
    return volume.to(torch.promote_types(volume.dtype, torch.float32))
