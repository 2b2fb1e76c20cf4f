"""The two orders of axes: tokens have their channels last, volumes and convolutions first."""

import torch


def channels_first(tokens: torch.Tensor) -> torch.Tensor:
    """(B, D, H, W, C) -> (B, C, D, H, W), a view."""
    return tokens.permute(0, 4, 1, 2, 3)


def channels_last(volume: torch.Tensor) -> torch.Tensor:
    """(B, C, D, H, W) -> (B, D, H, W, C), a view."""
    return volume.permute(0, 2, 3, 4, 1)
