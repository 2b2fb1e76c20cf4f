"""Normalisation, GELU and the linear layer behind them; fast and plain.

The fast form keeps only what enters for the backward pass and computes the normalised and activated
features again there: cheap arithmetic, for half of a block's memory.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models import ops
from models.ops import kernels

Layers = Callable[[torch.Tensor], torch.Tensor]


def norm_gelu_linear(features: torch.Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> torch.Tensor:
    """linear(GELU(norm(features))): (..., C) -> (..., outputs)."""
    if kernels.available("norm_gelu", features):
        norm_gelu = kernels.load("norm_gelu").norm_gelu
        scale, shift, eps = norm.weight, norm.bias, norm.eps
        return _recomputed(lambda x: linear(norm_gelu(x, scale, shift, eps)), features)
    return _recomputed(lambda x: linear(F.gelu(norm(x))), features)


def gelu_linear(features: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
    """linear(GELU(features)): (..., C) -> (..., outputs)."""
    return _recomputed(lambda x: linear(F.gelu(x)), features)


def _recomputed(layers: Layers, features: torch.Tensor) -> torch.Tensor:
    """The layers applied, and on the fast backend applied again in the backward pass."""
    if ops.is_plain() or not torch.is_grad_enabled():
        return layers(features)
    # No random numbers in there; stops before the linear layer when it runs again.
    return checkpoint(layers, features, use_reentrant=False, preserve_rng_state=False)
