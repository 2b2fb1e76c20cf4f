"""Depthwise 3-D convolution, and the sum of two of them that blends the streams; fast and plain.

PyTorch's own gradients of a depthwise convolution run 5 to 100 times slower on a CPU than its
forward. The arithmetic is the same, so both are written as forward convolutions here:
    of the input    the upstream gradient convolved with the kernel flipped
    of the kernel   the input convolved with the upstream gradient in the kernel's place
`benchmarks/blend_conv.py` measures both.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models import ops
from models.ops import kernels

# Channels x tokens that a pass over the weight gradient takes at a time: what a core's second-level
# cache holds.
_SLAB = 200_000


def depthwise_conv3d(
    volume: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Each channel convolved with its own odd cubic kernel, zero-padded to keep the size.

    Args:
        volume: (B, C, D, H, W), any strides.
        weight: (C, 1, K, K, K), K odd.
        bias: (C,) or None.

    Returns:
        (B, C, D, H, W), on the fast backend in channels-last memory order. Equals
        `F.conv3d(volume, weight, bias, padding=K // 2, groups=C)`, forward and backward; cannot be
        differentiated twice there.
    """
    if ops.is_plain():
        return _convolve(volume, weight, bias)
    (volume,) = _in_autocast_type(volume)
    if kernels.available("depthwise", volume):
        return _kernel(volume, None, weight, bias)
    weight, bias = _in_autocast_type(weight, bias)
    volume = volume.contiguous(memory_format=torch.channels_last_3d)  # what depthwise kernels want
    if volume.device.type == "cpu":
        return _DepthwiseSum.apply(bias, volume, weight)
    return _convolve(volume, weight, bias)


def blend_conv3d(
    first: torch.Tensor,
    second: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """Grouped convolution with two input channels and one output channel a group.

    `conv3d(groups=C)` takes about four fifths of the network's time on a CPU, because no library
    has a fast path for two input channels a group. It is the sum of two depthwise convolutions,
    which have one.

    Args:
        first: (B, C, D, H, W), channel i is the first input of group i.
        second: the same for the second input.
        weight: (C, 2, K, K, K), K odd.
        bias: (C,).

    Returns:
        (B, C, D, H, W), as `depthwise_conv3d`.
    """
    if ops.is_plain():
        interleaved = torch.stack((first, second), dim=2).flatten(1, 2)  # B, 2C, D, H, W
        return _convolve(interleaved, weight, bias)
    # First of all: on a GPU autocast leaves one stream in float32, whose LayerNorm was the last to
    # touch it.
    first, second = _in_autocast_type(first, second)
    if kernels.available("depthwise", first, second):
        return _kernel(first, second, weight, bias)
    weight, bias = _in_autocast_type(weight, bias)
    first, second = (
        volume.contiguous(memory_format=torch.channels_last_3d) for volume in (first, second)
    )
    if first.device.type == "cpu":
        return _DepthwiseSum.apply(bias, first, weight[:, :1], second, weight[:, 1:])
    return _convolve(first, weight[:, :1], bias) + _convolve(second, weight[:, 1:])


def _kernel(
    first: torch.Tensor,
    second: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    first = first.permute(0, 2, 3, 4, 1)  # B, D, H, W, C
    if second is not None:
        second = second.permute(0, 2, 3, 4, 1)  # B, D, H, W, C
    total = kernels.load("depthwise").depthwise_sum(first, second, weight, bias)  # B, D, H, W, C
    return total.permute(0, 4, 1, 2, 3)  # B, C, D, H, W


def _in_autocast_type(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    """What autocast does to a convolution's arguments; a custom function has to do it itself."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [tensor if tensor is None else tensor.to(dtype) for tensor in tensors]


def _convolve(
    volume: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    return F.conv3d(volume, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


class _DepthwiseSum(torch.autograd.Function):
    """bias + sum of depthwise convolutions of what follows it: volume, weight, volume, weight .."""

    @staticmethod
    def forward(ctx, bias, *volumes_and_weights):
        ctx.save_for_backward(*volumes_and_weights)
        volume, weight, *rest = volumes_and_weights
        total = _convolve(volume, weight, bias)
        for volume, weight in zip(rest[0::2], rest[1::2], strict=True):
            total += _convolve(volume, weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        bias_gradient = gradient.sum(dim=(0, 2, 3, 4)) if ctx.needs_input_grad[0] else None
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:]
        gradients = [None] * len(saved)
        for first in range(0, len(saved), 2):
            volume, weight = saved[first : first + 2]
            if wanted[first]:
                gradients[first] = _convolve(gradient, weight.flip(2, 3, 4))
            if wanted[first + 1]:
                of_weight = _weight_gradient(gradient, volume, weight.shape[-1])
                gradients[first + 1] = of_weight.to(weight.dtype)
        return bias_gradient, *gradients


def _weight_gradient(gradient: torch.Tensor, volume: torch.Tensor, kernel: int) -> torch.Tensor:
    """How every channel of the volume correlates with K^3 shifts of the upstream gradient.

    A convolution whose kernel is the gradient and whose output has K^3 tokens, taken in slabs of
    planes that stay in the cache. In float32 at least: the sums run over all tokens.

    Args:
        gradient: (B, C, D, H, W).
        volume: the same shape.
        kernel: K.

    Returns:
        (C, 1, K, K, K).
    """
    wide = torch.promote_types(volume.dtype, torch.float32)
    b, c, d, h, w = volume.shape
    pad = kernel // 2
    planes = min(d, max(1, _SLAB // (c * h * w)))
    total = volume.new_zeros((1, c, kernel, kernel, kernel), dtype=wide)  # 1, C, K, K, K
    for sample in range(b):
        for start in range(0, d, planes):
            end = min(start + planes, d)
            upstream = gradient[sample : sample + 1, :, start:end].to(wide)
            # 1, C, planes + 2 pad, H, W
            seen = _planes(volume[sample : sample + 1], start - pad, end + pad).to(wide)
            upstream = upstream.transpose(0, 1)  # C, 1, planes, H, W: the kernels
            total += F.conv3d(seen, upstream, padding=(0, pad, pad), groups=c)  # 1, C, K, K, K
    return total.transpose(0, 1)  # C, 1, K, K, K


def _planes(volume: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Planes start .. end - 1 of (1, C, D, H, W), zeros where there are none, channels last."""
    before, after = max(0, -start), max(0, end - volume.shape[2])
    there = volume[:, :, start + before : end - after]
    tokens = there.permute(0, 2, 3, 4, 1)  # 1, planes, H, W, C
    tokens = F.pad(tokens, (0, 0, 0, 0, 0, 0, before, after))
    return tokens.permute(0, 4, 1, 2, 3)  # 1, C, planes, H, W
