"""Trilinear sampling of tokens at offsets of at most one token; both gradients without atomics.

The weight with which target t reads source s is a product of tents, max(0, 1 - |s - position(t)|)
on each axis, and 0 where position(t) is more than `reach` tokens away. So the gradient of a source
token is a sum over the (2 reach + 1)^3 targets around it: gathered, not scattered. Rows of channels
are read as they lie in memory, and those whose weight is 0 are not read.
"""

import torch
import triton
import triton.language as tl

from models.ops.kernels import tiles


def sample(tokens: torch.Tensor, offsets: torch.Tensor, aligned_corners: bool) -> torch.Tensor:
    """Trilinear samples of tokens at their own positions plus offsets, zero outside the grid.

    Args:
        tokens: (B, D, H, W, C), any strides.
        offsets: (B, D, H, W, 3) float32 along depth, height, width in normalised coordinates, at
            most 2 / side: the gradient of the tokens leaves out what is farther.
        aligned_corners: [R1], see `models.variants`.

    Returns:
        (B, D, H, W, C), contiguous, of the tokens' dtype.
    """
    return _sample(tokens.contiguous(), offsets.contiguous(), aligned_corners)


@triton.jit
def _position(offsets, index, axis: tl.constexpr, token, side, mask, ALIGNED: tl.constexpr):
    """Where a target looks along one axis, in tokens of the source."""
    offset = tl.load(offsets + index * 3 + axis, mask=mask, other=0)
    if ALIGNED:
        position = ((token + 0.5) / side + offset * 0.5) * (side - 1)
    else:
        position = token + offset * 0.5 * side
    return position


@triton.jit
def _forward(
    tokens,
    offsets,
    out,
    D,
    H,
    W,
    C,
    ALIGNED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Eight rows around each of BLOCK_P positions of one sample, weighted and summed."""
    sample = tl.program_id(2).to(tl.int64) * D * H * W
    tokens += sample * C
    out += sample * C
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_p = p < D * H * W
    inside_c = (c < C)[None, :]
    index = sample + p
    position_d = _position(offsets, index, 0, p // (H * W), D, inside_p, ALIGNED)
    position_h = _position(offsets, index, 1, p // W % H, H, inside_p, ALIGNED)
    position_w = _position(offsets, index, 2, p % W, W, inside_p, ALIGNED)
    below_d, below_h, below_w = tl.floor(position_d), tl.floor(position_h), tl.floor(position_w)
    share_d, share_h, share_w = position_d - below_d, position_h - below_h, position_w - below_w
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for corner in tl.static_range(8):
        d = below_d + corner // 4
        h = below_h + corner // 2 % 2
        w = below_w + corner % 2
        weight = share_d if corner // 4 else 1 - share_d
        weight *= share_h if corner // 2 % 2 else 1 - share_h
        weight *= share_w if corner % 2 else 1 - share_w
        # Compared as floats, so that a position that is not a number reads nothing; its weight
        # still is not one.
        there = inside_p & (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        row = (d.to(tl.int32) * H + h.to(tl.int32)) * W + w.to(tl.int32)
        values = tl.load(
            tokens + row[:, None] * C + c[None, :], mask=there[:, None] & inside_c, other=0
        )
        total += weight[:, None] * values.to(tl.float32)
    tl.store(
        out + p[:, None] * C + c[None, :],
        total.to(out.dtype.element_ty),
        mask=inside_p[:, None] & inside_c,
    )


@triton.jit
def _gather(
    gradient,
    offsets,
    out,
    D,
    H,
    W,
    C,
    ALIGNED: tl.constexpr,
    REACH_D: tl.constexpr,
    REACH_H: tl.constexpr,
    REACH_W: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient of the tokens: what the targets around each of BLOCK_P sources read from it."""
    sample = tl.program_id(2).to(tl.int64) * D * H * W
    gradient += sample * C
    out += sample * C
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_p = p < D * H * W
    inside_c = (c < C)[None, :]
    d = p // (H * W)
    h = p // W % H
    w = p % W
    SIDE_H: tl.constexpr = 2 * REACH_H + 1
    SIDE_W: tl.constexpr = 2 * REACH_W + 1
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for neighbour in range((2 * REACH_D + 1) * SIDE_H * SIDE_W):
        target_d = d + (neighbour // (SIDE_H * SIDE_W) - REACH_D)
        target_h = h + (neighbour // SIDE_W % SIDE_H - REACH_H)
        target_w = w + (neighbour % SIDE_W - REACH_W)
        there = inside_p & (target_d >= 0) & (target_d < D) & (target_h >= 0) & (target_h < H)
        there = there & (target_w >= 0) & (target_w < W)
        target = (target_d * H + target_h) * W + target_w
        position_d = _position(offsets, sample + target, 0, target_d, D, there, ALIGNED)
        position_h = _position(offsets, sample + target, 1, target_h, H, there, ALIGNED)
        position_w = _position(offsets, sample + target, 2, target_w, W, there, ALIGNED)
        weight = tl.maximum(1 - tl.abs(d - position_d), 0)
        weight *= tl.maximum(1 - tl.abs(h - position_h), 0)
        weight *= tl.maximum(1 - tl.abs(w - position_w), 0)
        reads = (there & (weight > 0))[:, None] & inside_c
        values = tl.load(gradient + target[:, None] * C + c[None, :], mask=reads, other=0)
        total += weight[:, None] * values.to(tl.float32)
    tl.store(
        out + p[:, None] * C + c[None, :],
        total.to(out.dtype.element_ty),
        mask=inside_p[:, None] & inside_c,
    )


@triton.jit
def _slope(
    gradient,
    tokens,
    offsets,
    out,
    D,
    H,
    W,
    C,
    ALIGNED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient of the offsets: upstream times the tokens' slope along each axis, summed over C."""
    sample = tl.program_id(1).to(tl.int64) * D * H * W
    tokens += sample * C
    gradient += sample * C
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_p = p < D * H * W
    index = sample + p
    position_d = _position(offsets, index, 0, p // (H * W), D, inside_p, ALIGNED)
    position_h = _position(offsets, index, 1, p // W % H, H, inside_p, ALIGNED)
    position_w = _position(offsets, index, 2, p % W, W, inside_p, ALIGNED)
    below_d, below_h, below_w = tl.floor(position_d), tl.floor(position_h), tl.floor(position_w)
    share_d, share_h, share_w = position_d - below_d, position_h - below_h, position_w - below_w
    slope_d = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    slope_h = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    slope_w = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        inside_c = (c < C)[None, :]
        own = gradient + p[:, None] * C + c[None, :]
        upstream = tl.load(own, mask=inside_p[:, None] & inside_c, other=0).to(tl.float32)
        for corner in tl.static_range(8):
            d = below_d + corner // 4
            h = below_h + corner // 2 % 2
            w = below_w + corner % 2
            there = inside_p & (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            row = (d.to(tl.int32) * H + h.to(tl.int32)) * W + w.to(tl.int32)
            values = tl.load(
                tokens + row[:, None] * C + c[None, :], mask=there[:, None] & inside_c, other=0
            )
            product = upstream * values.to(tl.float32)
            weight_d = share_d if corner // 4 else 1 - share_d
            weight_h = share_h if corner // 2 % 2 else 1 - share_h
            weight_w = share_w if corner % 2 else 1 - share_w
            slope_d += product * (weight_h * weight_w * (1 if corner // 4 else -1))[:, None]
            slope_h += product * (weight_d * weight_w * (1 if corner // 2 % 2 else -1))[:, None]
            slope_w += product * (weight_d * weight_h * (1 if corner % 2 else -1))[:, None]
    tokens_d = D - 1 if ALIGNED else D
    tokens_h = H - 1 if ALIGNED else H
    tokens_w = W - 1 if ALIGNED else W
    tl.store(out + index * 3, tl.sum(slope_d, axis=1) * 0.5 * tokens_d, mask=inside_p)
    tl.store(out + index * 3 + 1, tl.sum(slope_h, axis=1) * 0.5 * tokens_h, mask=inside_p)
    tl.store(out + index * 3 + 2, tl.sum(slope_w, axis=1) * 0.5 * tokens_w, mask=inside_p)


def _sizes(tokens: torch.Tensor, tile: tiles.Tile) -> tuple[int, int, int, int]:
    """Positions of a block, blocks of a sample, channels of a block, blocks of channels."""
    _, d, h, w, c = tokens.shape
    block_p = tiles.block(d * h * w, tile.rows)
    block_c = tiles.block(c, tile.channels)
    return block_p, triton.cdiv(d * h * w, block_p), block_c, triton.cdiv(c, block_c)


@torch.library.custom_op("dc2fusion::sample", mutates_args=())
def _sample(tokens: torch.Tensor, offsets: torch.Tensor, aligned_corners: bool) -> torch.Tensor:
    """`sample` of contiguous tensors."""
    b, *sides, c = tokens.shape
    block_p, blocks_p, block_c, blocks_c = _sizes(tokens, tiles.SAMPLING)
    out = torch.empty_like(tokens)
    with torch.cuda.device_of(tokens):
        _forward[(blocks_p, blocks_c, b)](
            tokens,
            offsets,
            out,
            *sides,
            c,
            ALIGNED=aligned_corners,
            BLOCK_P=block_p,
            BLOCK_C=block_c,
            num_warps=tiles.SAMPLING.warps,
        )
    return out


@_sample.register_fake
def _(tokens, offsets, aligned_corners):
    return torch.empty_like(tokens)


@torch.library.custom_op("dc2fusion::sample_tokens_gradient", mutates_args=())
def _tokens_gradient(
    gradient: torch.Tensor, offsets: torch.Tensor, aligned_corners: bool
) -> torch.Tensor:
    """(B, D, H, W, C), from contiguous tensors."""
    b, *sides, c = gradient.shape
    block_p, blocks_p, block_c, blocks_c = _sizes(gradient, tiles.SAMPLING)
    out = torch.empty_like(gradient)
    # Aligned corners pull by up to half a token besides the offset.
    farthest = 2 if aligned_corners else 1
    reach = [min(farthest, side - 1) for side in sides]
    with torch.cuda.device_of(gradient):
        _gather[(blocks_p, blocks_c, b)](
            gradient,
            offsets,
            out,
            *sides,
            c,
            ALIGNED=aligned_corners,
            REACH_D=reach[0],
            REACH_H=reach[1],
            REACH_W=reach[2],
            BLOCK_P=block_p,
            BLOCK_C=block_c,
            num_warps=tiles.SAMPLING.warps,
        )
    return out


@_tokens_gradient.register_fake
def _(gradient, offsets, aligned_corners):
    return torch.empty_like(gradient)


@torch.library.custom_op("dc2fusion::sample_offsets_gradient", mutates_args=())
def _offsets_gradient(
    gradient: torch.Tensor, tokens: torch.Tensor, offsets: torch.Tensor, aligned_corners: bool
) -> torch.Tensor:
    """(B, D, H, W, 3), from contiguous tensors."""
    b, *sides, c = tokens.shape
    block_p, blocks_p, block_c, _ = _sizes(tokens, tiles.SAMPLING_SLOPE)
    out = torch.empty_like(offsets)
    with torch.cuda.device_of(tokens):
        _slope[(blocks_p, b)](
            gradient,
            tokens,
            offsets,
            out,
            *sides,
            c,
            ALIGNED=aligned_corners,
            BLOCK_P=block_p,
            BLOCK_C=block_c,
            num_warps=tiles.SAMPLING_SLOPE.warps,
        )
    return out


@_offsets_gradient.register_fake
def _(gradient, tokens, offsets, aligned_corners):
    return torch.empty_like(offsets)


def _remember(ctx, inputs, output):
    tokens, offsets, ctx.aligned_corners = inputs
    ctx.save_for_backward(tokens, offsets)


def _backward(ctx, gradient):
    tokens, offsets = ctx.saved_tensors
    gradient = gradient.contiguous()
    tokens_gradient = offsets_gradient = None
    if ctx.needs_input_grad[0]:
        tokens_gradient = _tokens_gradient(gradient, offsets, ctx.aligned_corners)
    if ctx.needs_input_grad[1]:
        offsets_gradient = _offsets_gradient(gradient, tokens, offsets, ctx.aligned_corners)
    return tokens_gradient, offsets_gradient, None


_sample.register_autograd(_backward, setup_context=_remember)
