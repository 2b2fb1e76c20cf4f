"""Normalisation, GELU and the linear layer behind them; fast and plain.

The fast path keeps only what enters for the backward pass and computes the normalised and activated
features again there: cheap arithmetic, for half of a block's memory.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.ops import kernels


def norm_gelu_linear(
    features: torch.Tensor, norm: nn.LayerNorm, linear: nn.Linear, path: str
) -> torch.Tensor:
    """linear(GELU(norm(features))): (..., C) -> (..., outputs)."""

    def layers(features: torch.Tensor) -> torch.Tensor:
        if path != "plain" and kernels.available("norm_gelu", features):
            from models.ops.kernels.norm_gelu import norm_gelu

            return linear(norm_gelu(features, norm.weight, norm.bias, norm.eps))
        return linear(F.gelu(norm(features)))

    return _recomputed(layers, features, path)


def gelu_linear(features: torch.Tensor, linear: nn.Linear, path: str) -> torch.Tensor:
    """linear(GELU(features)): (..., C) -> (..., outputs)."""
    return _recomputed(lambda features: linear(F.gelu(features)), features, path)


def _recomputed(layers, features: torch.Tensor, path: str) -> torch.Tensor:
    if path == "plain" or not torch.is_grad_enabled():
        return layers(features)
    # No random numbers in there; stops before the linear layer when it runs again.
    return checkpoint(layers, features, use_reentrant=False, preserve_rng_state=False)
