"""The MLP of a transformer block, as SwinFuse, MATR and TransMorph have it."""

import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
    """Two layers and an exact GELU, (..., C) -> (..., 4 C) -> (..., C).

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(tokens)))
