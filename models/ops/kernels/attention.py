"""Attention inside windows of at most 2x2x2 tokens, the gate on the values included.

One kernel forward, one backward. A program takes the tokens of whole windows of one sample, for one
head. Windows are addressed where they lie in the channels-last grid, so nothing is permuted. With
eight keys a query there is too little for the tensor cores to do and the kernel is limited by
memory: the keys of a window are read in turn (the softmax is kept up to date with each, as in
"flash" attention), from the cache after the first time.
"""

import torch
import triton
import triton.language as tl

from models.ops.kernels import tiles


def window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    heads: int,
    window: tuple[int, int, int],
    linear: bool,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(C / heads)) (gate v) inside every window.

    Args:
        query: (B, D, H, W, C); D, H, W multiples of the window.
        key: the same shape and dtype.
        value: the same.
        gate: (B, C), multiplies the values: channel i of head j is j C/heads + i.
        heads: must divide C.
        window: tokens a window along D, H, W, each a power of two.
        linear: [R4], see `models.variants`: without the softmax.

    Returns:
        (B, D, H, W, C), contiguous, of the queries' dtype.
    """
    tensors = [tensor.contiguous() for tensor in (query, key, value, gate)]
    return _window_attention(*tensors, heads, list(window), linear)[0]


@triton.jit
def _rows(token, windows_h, windows_w, H, W, WD: tl.constexpr, WH: tl.constexpr, WW: tl.constexpr):
    """Row in the grid of the first token of each token's window."""
    index = token // (WD * WH * WW)
    d = index // (windows_w * windows_h) * WD
    h = index // windows_w % windows_h * WH
    return (d * H + h) * W + index % windows_w * WW


@triton.jit
def _forward(
    query,
    key,
    value,
    gate,
    out,
    normaliser,
    N,
    H,
    W,
    C,
    scale,
    WIDTH: tl.constexpr,
    LINEAR: tl.constexpr,
    WD: tl.constexpr,
    WH: tl.constexpr,
    WW: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """BLOCK_T queries of N tokens of a sample, one head of WIDTH channels."""
    head = tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64) * N
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.arange(0, BLOCK_C)
    first = _rows(token, H // WH, W // WW, H, W, WD, WH, WW)
    t = token % (WD * WH * WW)
    row = first + (t // (WH * WW) * H + t // WW % WH) * W + t % WW
    inside = (token < N)[:, None] & (c < WIDTH)[None, :]
    channels = (head * WIDTH + c)[None, :]
    own = sample * C + row[:, None] * C + channels
    q = tl.load(query + own, mask=inside, other=0).to(tl.float32) * scale
    opened = tl.load(gate + tl.program_id(2) * C + head * WIDTH + c, mask=c < WIDTH, other=0).to(
        tl.float32
    )

    attended = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    largest = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    for j in range(WD * WH * WW):
        other = first + (j // (WH * WW) * H + j // WW % WH) * W + j % WW
        place = sample * C + other[:, None] * C + channels
        k = tl.load(key + place, mask=inside, other=0).to(tl.float32)
        v = tl.load(value + place, mask=inside, other=0).to(tl.float32)
        score = tl.sum(q * k, axis=1)
        if LINEAR:
            attended += score[:, None] * v
        else:
            higher = tl.maximum(largest, score)
            shrink = tl.exp(largest - higher)
            share = tl.exp(score - higher)
            attended = attended * shrink[:, None] + share[:, None] * v
            total = total * shrink + share
            largest = higher
    if not LINEAR:
        attended = attended / total[:, None]
        tl.store(
            normaliser + (sample + row) * (C // WIDTH) + head,
            largest + tl.log(total),
            mask=token < N,
        )
    tl.store(out + own, (attended * opened[None, :]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    query,
    key,
    value,
    gate,
    out,
    normaliser,
    upstream,
    query_gradient,
    key_gradient,
    value_gradient,
    gate_partial,
    N,
    H,
    W,
    C,
    scale,
    WIDTH: tl.constexpr,
    LINEAR: tl.constexpr,
    WD: tl.constexpr,
    WH: tl.constexpr,
    WW: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The same tokens, as queries over the keys of their window and as keys over its queries.

    With s = q k / sqrt(width), p = softmax(s), g the upstream gradient times the gate: the gradient
    of s is p (g v - g o), where g o sums over all keys and is read off the output.
    """
    head = tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64) * N
    heads = C // WIDTH
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.arange(0, BLOCK_C)
    first = _rows(token, H // WH, W // WW, H, W, WD, WH, WW)
    t = token % (WD * WH * WW)
    row = first + (t // (WH * WW) * H + t // WW % WH) * W + t % WW
    inside_t = token < N
    inside = inside_t[:, None] & (c < WIDTH)[None, :]
    channels = (head * WIDTH + c)[None, :]
    own = sample * C + row[:, None] * C + channels
    opened = tl.load(gate + tl.program_id(2) * C + head * WIDTH + c, mask=c < WIDTH, other=0).to(
        tl.float32
    )
    q = tl.load(query + own, mask=inside, other=0).to(tl.float32) * scale
    k = tl.load(key + own, mask=inside, other=0).to(tl.float32)
    v = tl.load(value + own, mask=inside, other=0).to(tl.float32)
    g = tl.load(upstream + own, mask=inside, other=0).to(tl.float32)
    o = tl.load(out + own, mask=inside, other=0).to(tl.float32)
    own_normaliser = tl.zeros((BLOCK_T,), tl.float32)
    if not LINEAR:
        own_normaliser = tl.load(normaliser + (sample + row) * heads + head, mask=inside_t, other=0)
    mean = tl.sum(g * o, axis=1)
    g *= opened[None, :]

    for_query = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for_key = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for_value = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for j in range(WD * WH * WW):
        other = first + (j // (WH * WW) * H + j // WW % WH) * W + j % WW
        place = sample * C + other[:, None] * C + channels
        # As queries: what reaches them from key j.
        other_k = tl.load(key + place, mask=inside, other=0).to(tl.float32)
        other_v = tl.load(value + place, mask=inside, other=0).to(tl.float32)
        slope = tl.sum(g * other_v, axis=1)
        if not LINEAR:
            slope = tl.exp(tl.sum(q * other_k, axis=1) - own_normaliser) * (slope - mean)
        for_query += slope[:, None] * other_k
        # As keys: what reaches them from query j.
        other_q = tl.load(query + place, mask=inside, other=0).to(tl.float32) * scale
        other_g = tl.load(upstream + place, mask=inside, other=0).to(tl.float32)
        weight = tl.sum(other_q * k, axis=1)
        slope = tl.sum(other_g * opened[None, :] * v, axis=1)
        if not LINEAR:
            other_o = tl.load(out + place, mask=inside, other=0).to(tl.float32)
            place = (sample + other) * heads + head
            weight = tl.exp(weight - tl.load(normaliser + place, mask=inside_t, other=0))
            slope = weight * (slope - tl.sum(other_g * other_o, axis=1))
        for_key += slope[:, None] * other_q
        for_value += weight[:, None] * other_g

    tl.store(
        query_gradient + own, (for_query * scale).to(query_gradient.dtype.element_ty), mask=inside
    )
    tl.store(key_gradient + own, for_key.to(key_gradient.dtype.element_ty), mask=inside)
    tl.store(
        value_gradient + own,
        (for_value * opened[None, :]).to(value_gradient.dtype.element_ty),
        mask=inside,
    )
    part = (
        gate_partial
        + (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * C
        + head * WIDTH
        + c
    )
    tl.store(part, tl.sum(for_value * v, axis=0), mask=c < WIDTH)


def _launch(
    query: torch.Tensor, heads: int, window: list[int], tile: tiles.Tile
) -> tuple[tuple[int, int, int], tuple, dict]:
    """Grid, the sizes that a kernel takes after its tensors, and its constants."""
    b, d, h, w, c = query.shape
    width = c // heads
    block_t = max(
        tiles.block(d * h * w, tile.rows), window[0] * window[1] * window[2]
    )  # whole windows
    constants = {"WIDTH": width, **dict(zip(("WD", "WH", "WW"), window, strict=True))}
    constants |= {"BLOCK_T": block_t, "BLOCK_C": tiles.power_of_two(width)}
    constants["num_warps"] = tile.warps
    grid = (triton.cdiv(d * h * w, block_t), heads, b)
    return grid, (d * h * w, h, w, c, width**-0.5), constants


@torch.library.custom_op("dc2fusion::window_attention", mutates_args=())
def _window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    heads: int,
    window: list[int],
    linear: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`window_attention` of contiguous tensors, and the log of each softmax's sum.

    The logs are (B, D, H, W, heads), float32.
    """
    out = torch.empty_like(query)
    normaliser = query.new_empty((*query.shape[:4], 0 if linear else heads), dtype=torch.float32)
    grid, sizes, constants = _launch(query, heads, window, tiles.ATTENTION)
    with torch.cuda.device_of(query):
        _forward[grid](query, key, value, gate, out, normaliser, *sizes, LINEAR=linear, **constants)
    return out, normaliser


@_window_attention.register_fake
def _(query, key, value, gate, heads, window, linear):
    normaliser = query.new_empty((*query.shape[:4], 0 if linear else heads), dtype=torch.float32)
    return torch.empty_like(query), normaliser


@torch.library.custom_op("dc2fusion::window_attention_backward", mutates_args=())
def _window_attention_backward(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    out: torch.Tensor,
    normaliser: torch.Tensor,
    heads: int,
    window: list[int],
    linear: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key, value and gate."""
    grid, sizes, constants = _launch(query, heads, window, tiles.ATTENTION_BACKWARD)
    gradients = [torch.empty_like(tensor) for tensor in (query, key, value)]
    partial = query.new_empty((query.shape[0], grid[0], query.shape[-1]), dtype=torch.float32)
    tensors = (query, key, value, gate, out, normaliser, upstream, *gradients, partial)
    with torch.cuda.device_of(query):
        _backward[grid](*tensors, *sizes, LINEAR=linear, **constants)
    return *gradients, partial.sum(dim=1).to(gate.dtype)


@_window_attention_backward.register_fake
def _(upstream, query, key, value, gate, out, normaliser, heads, window, linear):
    return tuple(torch.empty_like(tensor) for tensor in (query, key, value, gate))


def _remember(ctx, inputs, output):
    *tensors, ctx.heads, ctx.window, ctx.linear = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, upstream, _):
    if upstream is None:
        return (None,) * 7
    gradients = _window_attention_backward(
        upstream.contiguous(), *ctx.saved_tensors, ctx.heads, list(ctx.window), ctx.linear
    )
    return *gradients, None, None, None


_window_attention.register_autograd(_differentiate, setup_context=_remember)
