"""Sampling a partner's tokens where an offset field points; fast and plain.

Every sampled token is a weighted sum of the eight tokens around its position. `grid_sample` finds
them one channel-first volume at a time and spreads their gradients with one thread for each volume;
here the eight rows of channels are read as they lie in memory, and their gradients are gathered
instead of spread.

Axes: B samples, D, H, W tokens along depth, height, width, C channels; P = B D H W positions, each
with 2 neighbours along an axis and 8 = 2 2 2 in all. A row is a token's place in the flat batch.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models import ops
from models.ops import kernels


def sample_partner(
    tokens: torch.Tensor, offsets: torch.Tensor, aligned_corners: bool
) -> torch.Tensor:
    """Trilinear samples of tokens at their own positions plus offsets, zero outside the grid.

    Args:
        tokens: (B, D, H, W, C).
        offsets: (B, D, H, W, 3), float32 or wider, along depth, height, width in normalised
            coordinates: the grid spans [-1, 1] on each axis, token i of n is centred at 2 (i + 1/2)
            / n - 1. At most 2 / n, one token.
        aligned_corners: [R1], see `models.variants`: positions -1 and 1 are taken for the centres
            of the outermost tokens.

    Returns:
        (B, D, H, W, C) of the offsets' dtype; of the tokens' where the Triton kernel of
        `models.ops.kernels` is taken.
    """
    if kernels.available("sampling", tokens) and offsets.dtype == torch.float32:
        return kernels.load("sampling").sample(tokens, offsets, aligned_corners)
    tokens = tokens.to(offsets.dtype)
    positions = reference_points(offsets) + offsets  # B, D, H, W, 3
    if ops.is_plain() or tokens.device.type != "cpu":
        return _grid_sample(tokens, positions, aligned_corners)
    rows, weights = _neighbours(positions, aligned_corners)  # P, 8
    table = tokens.reshape(-1, tokens.shape[-1])  # P, C
    return _WeightedRows.apply(table, rows, weights).view(tokens.shape)  # B, D, H, W, C


def reference_points(like: torch.Tensor) -> torch.Tensor:
    """Centres of the tokens of (B, D, H, W, ..), 2 (i + 1/2) / n - 1 on an axis: (D, H, W, 3)."""
    axes = []
    for n in like.shape[1:4]:
        token = torch.arange(n, device=like.device, dtype=like.dtype)
        axes.append(2 * (token + 0.5) / n - 1)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _grid_sample(
    tokens: torch.Tensor, positions: torch.Tensor, aligned_corners: bool
) -> torch.Tensor:
    """(B, D, H, W, C) tokens at (B, D, H, W, 3) positions, by PyTorch's own function."""
    sampled = F.grid_sample(
        tokens.permute(0, 4, 1, 2, 3),  # B, C, D, H, W
        positions.flip(-1),  # it reads (width, height, depth)
        mode="bilinear",
        padding_mode="zeros",
        align_corners=aligned_corners,
    )
    return sampled.permute(0, 2, 3, 4, 1)  # B, D, H, W, C


def _neighbours(
    positions: torch.Tensor, aligned_corners: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The eight tokens around each of (B, D, H, W, 3) positions: rows, int32; weights, (P, 8)."""
    b, depth, height, width, _ = positions.shape
    along_d, along_h, along_w = (positions[..., axis].flatten() for axis in range(3))  # P each
    d, weight_d = _along_axis(along_d, depth, aligned_corners)  # P, 2
    h, weight_h = _along_axis(along_h, height, aligned_corners)  # P, 2
    w, weight_w = _along_axis(along_w, width, aligned_corners)  # P, 2

    sample = torch.arange(b, device=positions.device, dtype=torch.int32)
    sample = sample.repeat_interleave(depth * height * width)  # P
    plane = sample[:, None] * depth + d  # P, 2
    line = (plane * height)[:, :, None] + h[:, None, :]  # P, 2, 2
    row = (line * width)[:, :, :, None] + w[:, None, None, :]  # P, 2, 2, 2

    weight = weight_d[:, :, None] * weight_h[:, None, :]  # P, 2, 2
    weight = weight[:, :, :, None] * weight_w[:, None, None, :]  # P, 2, 2, 2
    return row.flatten(1), weight.flatten(1)  # P, 8


def _along_axis(
    position: torch.Tensor, side: int, aligned_corners: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two tokens beside each of (P,) positions on an axis of `side` tokens.

    Returns:
        Their indices, int32, and their weights, (P, 2); where there is no token, weight 0.
    """
    if aligned_corners:
        index = (position + 1) / 2 * (side - 1)
    else:
        index = ((position + 1) * side - 1) / 2
    # Where the network diverged any token will do: the NaN goes on in the weights.
    below = index.detach().floor().nan_to_num()
    share = index - below
    both = torch.stack((below, below + 1), dim=1)  # P, 2
    inside = (both >= 0) & (both < side)
    weights = torch.stack((1 - share, share), dim=1) * inside  # P, 2
    return both.clamp(0, side - 1).int(), weights


class _WeightedRows(torch.autograd.Function):
    """out[p] = sum over j of weights[p, j] * table[rows[p, j]]."""

    @staticmethod
    def forward(ctx, table, rows, weights):
        """(P, C), (P, 8), (P, 8) -> (P, C)."""
        ctx.save_for_backward(table, rows, weights)
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """(P, C) -> (P, C) of the table, none of the rows, (P, 8) of the weights."""
        table, rows, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        table_gradient = weights_gradient = None
        if ctx.needs_input_grad[0]:
            table_gradient = _transposed(gradient, rows, weights, len(table))
        if ctx.needs_input_grad[2]:
            p, j = rows.shape
            starts = torch.arange(0, p * j, j, dtype=rows.dtype)  # P
            bags = torch.arange(p, dtype=rows.dtype).repeat_interleave(j)  # P 8
            weights_gradient = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                gradient, table, rows.flatten(), starts, bags, 0
            ).view(p, j)
        return table_gradient, None, weights_gradient


def _transposed(
    gradient: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, length: int
) -> torch.Tensor:
    """out[r] = sum of weights[p, j] * gradient[p] over all (p, j) with rows[p, j] = r: (length, C).

    Sorting by r turns the scattered additions into sums of rows, which run in parallel.
    """
    sorted_rows, order = rows.flatten().sort()  # P 8
    starts = torch.searchsorted(sorted_rows, torch.arange(length, dtype=rows.dtype), out_int32=True)
    sources = (order // rows.shape[1]).int()
    return F.embedding_bag(
        sources, gradient, starts, per_sample_weights=weights.flatten()[order], mode="sum"
    )
