"""BatchNorm by the batches of all processes together, on any device.

PyTorch's own SyncBatchNorm takes CUDA tensors only.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(model: nn.Module) -> None:
    """Have every BatchNorm of a network in training mode normalise by all processes' batches.

    Parameters, buffers and evaluation mode stay as they are. One process alone normalises as
    before, which the tests compare to many with the same batch.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_forward, module, module.forward)


def _forward(norm: _BatchNorm, alone: Callable, x: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) -> (B, C, ...)."""
    if not norm.training:
        return alone(x)
    values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    others = [axis for axis in range(x.ndim) if axis != 1]
    count = values.new_tensor(x.numel() / x.shape[1])
    total = _SumOverAll.apply(torch.cat((values.sum(others), count[None])))  # C + 1
    mean, count = total[:-1] / total[-1], total[-1].detach()
    centred = values - _along_channels(mean, x)
    variance = _SumOverAll.apply(centred.square().sum(others)) / count  # C
    _track(norm, mean.detach(), variance.detach(), count)
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    return (centred * _along_channels(scale, x) + _along_channels(norm.bias, x)).to(x.dtype)


class _SumOverAll(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: object, values: torch.Tensor) -> torch.Tensor:
        return _summed(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return _summed(gradient)


def _summed(values: torch.Tensor) -> torch.Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _along_channels(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))  # 1, C, 1, ...


@torch.no_grad()
def _track(
    norm: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor
) -> None:
    """Update the running statistics, as BatchNorm does with the unbiased variance."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    unbiased = variance * count / (count - 1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
