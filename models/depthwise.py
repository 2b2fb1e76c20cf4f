"""Depthwise 3-D convolution whose backward is as quick as its forward.

PyTorch's own input gradient of a depthwise convolution runs 10 to 100 times slower on a CPU than the
same arithmetic written as a forward convolution with the kernel flipped, which is what is done here.
`benchmarks/blend_conv.py` measures both.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def depthwise_conv3d(volume: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Each channel convolved with its own odd cubic kernel, zero-padded to keep the size.

    Args:
        volume: (B, C, D, H, W), any strides.
        weight: (C, 1, K, K, K), K odd.
        bias: (C,) or None.

    Returns:
        (B, C, D, H, W) in channels-last memory order. Equals
        `F.conv3d(volume, weight, bias, padding=K // 2, groups=C)`, forward and backward; cannot be
        differentiated twice on a CPU.
    """
    device = volume.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        volume, weight = volume.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    # Channels last is what depthwise kernels want: without it the CPU backward takes five times longer.
    volume = volume.contiguous(memory_format=torch.channels_last_3d)
    if device == "cpu":
        return _Depthwise.apply(volume, weight, bias)
    return _convolve(volume, weight, bias)


def _convolve(volume: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.conv3d(volume, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, volume, weight, bias):
        ctx.save_for_backward(volume, weight)
        return _convolve(volume, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        volume, weight = ctx.saved_tensors
        wants_volume, wants_weight, wants_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        volume_gradient = weight_gradient = bias_gradient = None
        if wants_volume:
            volume_gradient = _convolve(gradient, weight.flip(2, 3, 4), None)
        if wants_weight:
            weight_gradient = _weight_gradient(gradient, volume, weight).to(weight.dtype)
        if wants_bias:
            bias_gradient = gradient.sum(dim=(0, 2, 3, 4))
        return volume_gradient, weight_gradient, bias_gradient


def _weight_gradient(gradient: torch.Tensor, volume: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """In float32 at least: in bfloat16, PyTorch 2.13 on a CPU reads memory here that was never written."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    _, weight_gradient, _ = torch.ops.aten.convolution_backward(
        gradient.to(wide),
        volume.to(wide),
        weight.to(wide),
        bias_sizes=None,
        stride=[1] * 3,
        padding=[weight.shape[-1] // 2] * 3,
        dilation=[1] * 3,
        transposed=False,
        output_padding=[0] * 3,
        groups=weight.shape[0],
        output_mask=[False, True, False],
    )
    return weight_gradient
