"""LayerNorm and GELU of rows of channels in one pass: forward and backward.

A program takes blocks of rows in turn. Nothing but the input is kept for the backward pass, which
normalises again; the gradients of weight and bias are partial sums, one a program, summed in a
second pass.
"""

import torch
import triton
import triton.language as tl

from models.ops.kernels import tiles


def norm_gelu(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """GELU(LayerNorm(features)), the exact GELU.

    Args:
        features: (..., C), any strides.
        weight: (C,), used in float32.
        bias: (C,), the same.
        eps: of the LayerNorm.

    Returns:
        The same shape and dtype, contiguous.
    """
    return _norm_gelu(features.contiguous(), weight, bias, eps)


@triton.jit
def _forward(
    features,
    weight,
    bias,
    out,
    rows,
    C,
    eps,
    ROUNDS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """ROUNDS blocks of BLOCK_R rows."""
    c = tl.arange(0, BLOCK_C)
    inside_c = (c < C)[None, :]
    scale = tl.load(weight + c, mask=c < C, other=0).to(tl.float32)[None, :]
    shift = tl.load(bias + c, mask=c < C, other=0).to(tl.float32)[None, :]
    for turn in range(ROUNDS):
        row = (tl.program_id(0) * ROUNDS + turn) * BLOCK_R + tl.arange(0, BLOCK_R)
        inside = (row < rows)[:, None] & inside_c
        place = row.to(tl.int64)[:, None] * C + c[None, :]
        x = tl.load(features + place, mask=inside, other=0).to(tl.float32)
        x = tl.where(inside, x - tl.sum(x, axis=1)[:, None] / C, 0)
        x *= 1 / tl.sqrt(tl.sum(x * x, axis=1) / C + eps)[:, None]
        u = x * scale + shift
        y = 0.5 * u * (1 + tl.erf(u * 0.7071067811865476))
        tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    features,
    weight,
    bias,
    upstream,
    gradient,
    weight_partial,
    bias_partial,
    rows,
    C,
    eps,
    ROUNDS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The same blocks; x is the normalised row, u what GELU saw."""
    c = tl.arange(0, BLOCK_C)
    inside_c = (c < C)[None, :]
    scale = tl.load(weight + c, mask=c < C, other=0).to(tl.float32)[None, :]
    shift = tl.load(bias + c, mask=c < C, other=0).to(tl.float32)[None, :]
    for_weight = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for_bias = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for turn in range(ROUNDS):
        row = (tl.program_id(0) * ROUNDS + turn) * BLOCK_R + tl.arange(0, BLOCK_R)
        inside = (row < rows)[:, None] & inside_c
        place = row.to(tl.int64)[:, None] * C + c[None, :]
        x = tl.load(features + place, mask=inside, other=0).to(tl.float32)
        g = tl.load(upstream + place, mask=inside, other=0).to(tl.float32)
        x = tl.where(inside, x - tl.sum(x, axis=1)[:, None] / C, 0)
        shrink = 1 / tl.sqrt(tl.sum(x * x, axis=1) / C + eps)[:, None]
        x *= shrink
        u = x * scale + shift
        density = 0.3989422804014327 * tl.exp(-0.5 * u * u)
        g *= 0.5 * (1 + tl.erf(u * 0.7071067811865476)) + u * density
        for_weight += g * x
        for_bias += g
        g *= scale
        g -= tl.sum(g, axis=1)[:, None] / C + x * (tl.sum(g * x, axis=1)[:, None] / C)
        tl.store(gradient + place, (g * shrink).to(gradient.dtype.element_ty), mask=inside)
    part = tl.program_id(0) * C + c
    tl.store(weight_partial + part, tl.sum(for_weight, axis=0), mask=c < C)
    tl.store(bias_partial + part, tl.sum(for_bias, axis=0), mask=c < C)


def _launch(features: torch.Tensor) -> tuple[int, tuple[int, int], dict]:
    """Programs, rows and channels, and the kernels' constants."""
    c = features.shape[-1]
    rows = features.numel() // c
    block_c = tiles.power_of_two(c)
    block_r = tiles.block(rows, max(1, tiles.NORM_GELU_ELEMENTS // block_c))
    blocks = triton.cdiv(rows, block_r)
    # A power of two: few kernels to compile for many sizes.
    rounds = tiles.power_of_two(triton.cdiv(blocks, tiles.NORM_GELU_PARTS))
    constants = {
        "ROUNDS": rounds,
        "BLOCK_R": block_r,
        "BLOCK_C": block_c,
        "num_warps": tiles.NORM_GELU_WARPS,
    }
    return triton.cdiv(blocks, rounds), (rows, c), constants


@torch.library.custom_op("dc2fusion::norm_gelu", mutates_args=())
def _norm_gelu(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """`norm_gelu` of contiguous features."""
    out = torch.empty_like(features)
    programs, sizes, constants = _launch(features)
    with torch.cuda.device_of(features):
        _forward[(programs,)](features, weight, bias, out, *sizes, eps, **constants)
    return out


@_norm_gelu.register_fake
def _(features, weight, bias, eps):
    return torch.empty_like(features)


@torch.library.custom_op("dc2fusion::norm_gelu_backward", mutates_args=())
def _norm_gelu_backward(
    upstream: torch.Tensor,
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of features, weight and bias."""
    gradient = torch.empty_like(features)
    programs, sizes, constants = _launch(features)
    partial = features.new_empty((2, programs, sizes[1]), dtype=torch.float32)
    with torch.cuda.device_of(features):
        _backward[(programs,)](
            features, weight, bias, upstream, gradient, *partial, *sizes, eps, **constants
        )
    for_weight, for_bias = partial.sum(dim=1)
    return gradient, for_weight.to(weight.dtype, copy=True), for_bias.to(bias.dtype, copy=True)


@_norm_gelu_backward.register_fake
def _(upstream, features, weight, bias, eps):
    return tuple(torch.empty_like(tensor) for tensor in (features, weight, bias))


def _remember(ctx, inputs, output):
    features, weight, bias, ctx.eps = inputs
    ctx.save_for_backward(features, weight, bias)


def _differentiate(ctx, upstream):
    return *_norm_gelu_backward(upstream.contiguous(), *ctx.saved_tensors, ctx.eps), None


_norm_gelu.register_autograd(_differentiate, setup_context=_remember)
