"""Depthwise 3-D convolution of channels-last tokens, and the sum of two that blends the streams.

A program computes a tile of positions along H and W, a few planes along D and a block of channels.
It runs over the kernel's H and W taps; at each it reads the input planes once and adds every one to
all output planes that it reaches, so that a value read serves up to `planes` multiplications. Both
streams go into one sum, written once.

    gradient of the input     the same convolution of the upstream gradient, the kernel flipped
    gradient of the kernel    programs march along rows of W and hold K x K taps (D and W) of one H
                              tap in registers;
                              partial sums of groups of rows are stored and summed in a second pass
"""

import torch
import triton
import triton.language as tl

from models.ops.kernels import tiles


def depthwise_sum(
    first: torch.Tensor,
    second: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Bias plus one or two depthwise convolutions, zero-padded to keep the size.

    Args:
        first: (B, D, H, W, C), any strides.
        second: the same shape and dtype, or None.
        weight: (C, S, K, K, K), K odd, S the number of inputs. Used in float32 whatever the tokens'
            dtype is.
        bias: (C,) or None.

    Returns:
        (B, D, H, W, C), contiguous, of the tokens' dtype.
    """
    second = None if second is None else second.contiguous()
    return _depthwise_sum(first.contiguous(), second, weight, bias, False)


@triton.jit
def _convolve(
    first,
    second,
    taps,
    bias,
    out,
    D,
    H,
    W,
    C,
    STREAMS: tl.constexpr,
    KERNEL: tl.constexpr,
    FLIPPED: tl.constexpr,
    BIASED: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums of taps of one or two streams.

    out[b, d, h, w, c] = bias[c] + sum over streams and taps of x[b, d + kd - R, ..] taps[stream,
    kd, kh, kw, c]
    """
    RADIUS: tl.constexpr = KERNEL // 2
    tile = tl.program_id(0)
    tiles_w = tl.cdiv(W, BLOCK_W)
    tiles_h = tl.cdiv(H, BLOCK_H)
    tiles_d = tl.cdiv(D, PLANES)
    w0 = tile % tiles_w * BLOCK_W
    tile = tile // tiles_w
    h0 = tile % tiles_h * BLOCK_H
    tile = tile // tiles_h
    d0 = tile % tiles_d * PLANES
    sample = (tile // tiles_d).to(tl.int64) * D * H * W * C

    position = tl.arange(0, BLOCK_H * BLOCK_W)
    h = h0 + position // BLOCK_W
    w = w0 + position % BLOCK_W
    d = d0 + position * 0  # a scalar mask does not combine with a block's in the interpreter
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < C
    sum0 = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    sum1 = sum0
    sum2 = sum0
    sum3 = sum0
    # Taps that look outside the grid from the whole tile are left out.
    first_kh = tl.maximum(RADIUS + 1 - tl.minimum(h0 + BLOCK_H, H), 0)
    last_kh = tl.minimum(RADIUS + H - h0, KERNEL)
    first_kw = tl.maximum(RADIUS + 1 - tl.minimum(w0 + BLOCK_W, W), 0)
    last_kw = tl.minimum(RADIUS + W - w0, KERNEL)
    plane_stride = H * W * C
    tap_stride = -KERNEL * KERNEL * C if FLIPPED else KERNEL * KERNEL * C
    for stream in tl.static_range(STREAMS):
        if stream == 0:
            source = first + sample + (d0 - RADIUS) * plane_stride
        else:
            source = second + sample + (d0 - RADIUS) * plane_stride
        for kh in range(first_kh, last_kh):
            for kw in range(first_kw, last_kw):
                row = h + (kh - RADIUS)
                column = w + (kw - RADIUS)
                inside = ((row >= 0) & (row < H) & (column >= 0) & (column < W))[
                    :, None
                ] & inside_c[None, :]
                places = source + (row * W + column)[:, None] * C + c[None, :]
                tap = kh * KERNEL + kw
                if FLIPPED:
                    tap = KERNEL * KERNEL * KERNEL - 1 - tap
                tap_row = taps + (stream * KERNEL * KERNEL * KERNEL + tap) * C + c
                for p in tl.static_range(PLANES + KERNEL - 1):
                    plane = d + (p - RADIUS)
                    there = inside & ((plane >= 0) & (plane < D))[:, None]
                    values = tl.load(places + p * plane_stride, mask=there, other=0).to(tl.float32)
                    # The compiler merges repeated reads of one tap.
                    if p < KERNEL:
                        sum0 += (
                            values
                            * tl.load(tap_row + p * tap_stride, mask=inside_c, other=0)[None, :]
                        )
                    if PLANES > 1 and p >= 1 and p <= KERNEL:
                        sum1 += (
                            values
                            * tl.load(tap_row + (p - 1) * tap_stride, mask=inside_c, other=0)[
                                None, :
                            ]
                        )
                    if PLANES > 2 and p >= 2 and p <= KERNEL + 1:
                        sum2 += (
                            values
                            * tl.load(tap_row + (p - 2) * tap_stride, mask=inside_c, other=0)[
                                None, :
                            ]
                        )
                    if PLANES > 2 and p >= 3:
                        sum3 += (
                            values
                            * tl.load(tap_row + (p - 3) * tap_stride, mask=inside_c, other=0)[
                                None, :
                            ]
                        )

    if BIASED:
        constant = tl.load(bias + c, mask=inside_c, other=0).to(tl.float32)[None, :]
        sum0 += constant
        sum1 += constant
        sum2 += constant
        sum3 += constant
    places = (d0 * H * W + h * W + w)[:, None] * C + c[None, :]
    target = out + sample + places
    inside = ((h < H) & (w < W))[:, None] & inside_c[None, :]
    dtype = out.dtype.element_ty
    tl.store(target, sum0.to(dtype), mask=inside)
    if PLANES > 1:
        tl.store(target + H * W * C, sum1.to(dtype), mask=inside & (d + 1 < D)[:, None])
    if PLANES > 2:
        tl.store(target + 2 * H * W * C, sum2.to(dtype), mask=inside & (d + 2 < D)[:, None])
        tl.store(target + 3 * H * W * C, sum3.to(dtype), mask=inside & (d + 3 < D)[:, None])


@triton.jit
def _correlate(
    gradient,
    source,
    partial,
    rows,
    rows_a_program,
    D,
    H,
    W,
    C,
    KERNEL: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Partial sums of the kernel's gradient.

    partial[group, kd, kh, kw, c] = sum over the group's rows of gradient[d, h, w, c] source[d + kd
    - R, .., c]. A row is all of W at one (sample, h, d), d running fastest, so that neighbours in a
    group share source rows.
    """
    RADIUS: tl.constexpr = KERNEL // 2
    group = tl.program_id(0)
    kh = tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    inside_c = (c < C)[None, :]
    sums = tl.zeros((BLOCK_K, BLOCK_K, BLOCK_C), tl.float32)  # kd, kw, c
    for row in range(group * rows_a_program, tl.minimum((group + 1) * rows_a_program, rows)):
        d = row % D
        h = row // D % H
        sample = (row // (D * H)).to(tl.int64) * D * H * W * C
        source_h = h + kh - RADIUS
        planes = d + k - RADIUS
        inside_planes = ((planes >= 0) & (planes < D) & (k < KERNEL))[:, None] & inside_c
        source_row = source + sample + ((planes * H + source_h) * W)[:, None] * C + c[None, :]
        gradient_row = gradient + sample + ((d * H + h) * W) * C + c[None, :]
        steps = tl.where((source_h >= 0) & (source_h < H), W, 0)
        for w in range(0, steps):
            values = tl.load(source_row + w * C, mask=inside_planes, other=0).to(tl.float32)
            columns = w + RADIUS - k  # where the tap kw looks at w from
            there = ((columns >= 0) & (columns < W) & (k < KERNEL))[:, None] & inside_c
            upstream = tl.load(gradient_row + columns[:, None] * C, mask=there, other=0).to(
                tl.float32
            )
            sums += values[:, None, :] * upstream[None, :, :]
    kd = k[:, None, None]
    kw = k[None, :, None]
    inside = (kd < KERNEL) & (kw < KERNEL) & (c < C)[None, None, :]
    index = ((group * KERNEL + kd) * KERNEL + kh) * KERNEL + kw
    tl.store(partial + index.to(tl.int64) * C + c[None, None, :], sums, mask=inside)


@torch.library.custom_op("dc2fusion::depthwise_sum", mutates_args=())
def _depthwise_sum(
    first: torch.Tensor,
    second: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    flipped: bool,
) -> torch.Tensor:
    """`depthwise_sum` of contiguous tokens; with the kernel flipped if asked to."""
    b, d, h, w, c = first.shape
    tile = tiles.DEPTHWISE
    block_w = tiles.block(w, 8)
    block_h = tiles.block(h, tile.rows // block_w)
    planes = tiles.block(d, tile.planes)
    block_c = tiles.block(c, tile.channels)
    out = torch.empty_like(first)
    taps = weight.permute(1, 2, 3, 4, 0).to(torch.float32).contiguous()
    grid = (
        b * triton.cdiv(d, planes) * triton.cdiv(h, block_h) * triton.cdiv(w, block_w),
        triton.cdiv(c, block_c),
    )
    with torch.cuda.device_of(first):
        _convolve[grid](
            first,
            first if second is None else second,
            taps,
            taps if bias is None else bias,
            out,
            d,
            h,
            w,
            c,
            STREAMS=1 if second is None else 2,
            KERNEL=weight.shape[-1],
            FLIPPED=flipped,
            BIASED=bias is not None,
            PLANES=planes,
            BLOCK_H=block_h,
            BLOCK_W=block_w,
            BLOCK_C=block_c,
            num_warps=tile.warps,
        )
    return out


@_depthwise_sum.register_fake
def _(first, second, weight, bias, flipped):
    return torch.empty_like(first)


@torch.library.custom_op("dc2fusion::depthwise_weight_gradient", mutates_args=())
def _weight_gradient(gradient: torch.Tensor, source: torch.Tensor, kernel: int) -> torch.Tensor:
    """(C, 1, K, K, K) float32, from contiguous tokens."""
    b, d, h, w, c = source.shape
    tile = tiles.DEPTHWISE_WEIGHT
    rows = b * d * h
    rows_a_program = triton.cdiv(rows, tiles.DEPTHWISE_WEIGHT_PARTS)
    groups = triton.cdiv(rows, rows_a_program)
    block_c = tiles.block(c, tile.channels)
    partial = torch.empty(
        (groups, kernel, kernel, kernel, c), dtype=torch.float32, device=source.device
    )
    with torch.cuda.device_of(source):
        _correlate[(groups, kernel, triton.cdiv(c, block_c))](
            gradient,
            source,
            partial,
            rows,
            rows_a_program,
            d,
            h,
            w,
            c,
            KERNEL=kernel,
            BLOCK_K=tiles.power_of_two(kernel),
            BLOCK_C=block_c,
            num_warps=tile.warps,
        )
    return partial.sum(dim=0).permute(3, 0, 1, 2).unsqueeze(1).contiguous()


@_weight_gradient.register_fake
def _(gradient, source, kernel):
    return gradient.new_empty((source.shape[-1], 1, kernel, kernel, kernel), dtype=torch.float32)


def _remember(ctx, inputs, output):
    first, second, weight, bias, ctx.flipped = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(first, second, weight)


def _backward(ctx, gradient):
    first, second, weight = ctx.saved_tensors
    gradient = gradient.contiguous()
    inputs, weights = [None, None], []
    for stream, source in enumerate((first, second)):
        if source is None:
            continue
        if ctx.needs_input_grad[stream]:
            inputs[stream] = _depthwise_sum(
                gradient, None, weight[:, stream : stream + 1], None, not ctx.flipped
            )
        if ctx.needs_input_grad[2]:
            weights.append(_weight_gradient(gradient, source, weight.shape[-1]))
    weight_gradient = torch.cat(weights, dim=1).to(weight.dtype) if weights else None
    bias_gradient = None
    if ctx.needs_input_grad[3]:
        bias_gradient = gradient.sum(dim=(0, 1, 2, 3), dtype=torch.float32).to(ctx.bias_dtype)
    return *inputs, weight_gradient, bias_gradient, None


_depthwise_sum.register_autograd(_backward, setup_context=_remember)
