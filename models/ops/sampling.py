"""Sampling a partner's tokens where an offset field points; fast and plain.

Every sampled token is a weighted sum of the eight tokens around its position. `grid_sample` finds
them one channel-first volume at a time and spreads their gradients with one thread for each volume;
here the eight rows of channels are read as they lie in memory, and their gradients are gathered
instead of spread.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.ops import kernels


def sample_partner(
    tokens: torch.Tensor, offsets: torch.Tensor, aligned_corners: bool, path: str = "fast"
) -> torch.Tensor:
    """Trilinear samples of tokens at their own positions plus offsets, zero outside the grid.

    Args:
        tokens: (B, D, H, W, C).
        offsets: (B, D, H, W, 3), float32 or wider, along depth, height, width in normalised
            coordinates: the grid spans [-1, 1] on each axis, token i of n is centred at 2 (i + 1/2)
            / n - 1. At most 2 / n, one token.
        aligned_corners: [R1], see `models.variants`: positions -1 and 1 are taken for the centres
            of the outermost tokens.
        path: "fast" or "plain", see `models.ops.paths`.

    Returns:
        (B, D, H, W, C) of the offsets' dtype; of the tokens' where the Triton kernel of
        `models.ops.kernels` is taken.
    """
    if path != "plain" and kernels.available("sampling", tokens) and offsets.dtype == torch.float32:
        from models.ops.kernels.sampling import sample

        return sample(tokens, offsets, aligned_corners)
    tokens = tokens.to(offsets.dtype)
    positions = reference_points(offsets) + offsets
    if path == "plain" or tokens.device.type != "cpu":
        sampled = F.grid_sample(
            tokens.permute(0, 4, 1, 2, 3),
            positions.flip(-1),  # grid_sample reads (width, height, depth)
            mode="bilinear",
            padding_mode="zeros",
            align_corners=aligned_corners,
        )
        return sampled.permute(0, 2, 3, 4, 1)
    rows, weights = _neighbours(positions, aligned_corners)
    return _WeightedRows.apply(tokens.reshape(-1, tokens.shape[-1]), rows, weights).view(
        tokens.shape
    )


def reference_points(like: torch.Tensor) -> torch.Tensor:
    """Centres of the tokens of (B, D, H, W, ..), (D, H, W, 3): 2 (i + 1/2) / n - 1 on an axis of n."""
    axes = [
        2 * (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n - 1
        for n in like.shape[1:4]
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _neighbours(
    positions: torch.Tensor, aligned_corners: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The eight tokens around each of P = B D H W positions: rows in the flat batch, int32, and
    weights, (P, 8).
    """
    b, *sides, _ = positions.shape
    axes = []
    for axis, side in enumerate(sides):
        position = positions[..., axis].reshape(-1, 1)
        index = (
            (position + 1) / 2 * (side - 1) if aligned_corners else ((position + 1) * side - 1) / 2
        )
        below = (
            index.detach().floor().nan_to_num()
        )  # a network that diverged still ends in NaN, by the weights
        share = index - below
        corner = torch.cat((below, below + 1), dim=1)
        inside = (corner >= 0) & (corner < side)
        weight = torch.cat((1 - share, share), dim=1) * inside
        axes.append((corner.clamp(0, side - 1).int(), weight))
    (d, weight_d), (h, weight_h), (w, weight_w) = axes
    batch = torch.arange(b, device=positions.device, dtype=torch.int32).repeat_interleave(
        len(d) // b
    )
    d = d + batch[:, None] * sides[0]
    rows = ((d * sides[1])[:, :, None] + h[:, None, :]) * sides[2]
    rows = rows[:, :, :, None] + w[:, None, None, :]
    weights = (weight_d[:, :, None] * weight_h[:, None, :])[:, :, :, None] * weight_w[
        :, None, None, :
    ]
    return rows.flatten(1), weights.flatten(1)


class _WeightedRows(torch.autograd.Function):
    """out[p] = sum over j of weights[p, j] * table[rows[p, j]]."""

    @staticmethod
    def forward(ctx, table, rows, weights):
        ctx.save_for_backward(table, rows, weights)
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        table, rows, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        table_gradient = weights_gradient = None
        if ctx.needs_input_grad[0]:
            table_gradient = _transposed(gradient, rows, weights, len(table))
        if ctx.needs_input_grad[2]:
            p, j = rows.shape
            starts = torch.arange(0, p * j, j, dtype=rows.dtype)
            bags = torch.arange(p, dtype=rows.dtype).repeat_interleave(j)
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
    sorted_rows, order = rows.flatten().sort()
    starts = torch.searchsorted(sorted_rows, torch.arange(length, dtype=rows.dtype), out_int32=True)
    sources = (order // rows.shape[1]).int()
    return F.embedding_bag(
        sources, gradient, starts, per_sample_weights=weights.flatten()[order], mode="sum"
    )
