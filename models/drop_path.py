"""Stochastic depth: whole residual branches dropped at random during training.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016. It draws as MONAI's layer of this
name does, which takes seconds to import.
"""

import torch
from torch import nn


class DropPath(nn.Module):
    """Drops a sample's branch with a given probability; the branches that stay are scaled up.

    Args:
        drop_prob: probability, in [0, 1).
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> the same shape, 0 for dropped samples; unchanged in evaluation mode."""
        if not self.training or self.drop_prob == 0:
            return branch
        keep = 1 - self.drop_prob
        mask = branch.new_empty(len(branch), *(1,) * (branch.ndim - 1)).bernoulli_(keep)
        return branch * mask.div_(keep)
