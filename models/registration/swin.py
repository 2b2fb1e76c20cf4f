"""The encoder of TransMorph: a Swin transformer in 3-D, with shifted windows.

Liu et al., "Swin Transformer", ICCV 2021, as in Chen et al., "TransMorph", Medical Image Analysis
82, 2022.

Axes: volumes (B, C, D, H, W), tokens (B, D, H, W, C), windows (B, W, N, C) with N = w0 w1 w2 tokens
in each, row-major.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from models.baselines.mlp import Mlp
from models.dcfb import pad_tokens
from models.drop_path import DropPath
from models.ops.layout import channels_first, channels_last

PATCH = 4
APART = -100.0  # added to the logits of tokens that only rolling brought into one window

Shape3d = tuple[int, int, int]


class PatchEmbedding(nn.Module):
    """Conv3d(2 -> E, kernel 4, stride 4) and LayerNorm."""

    def __init__(self, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, embed_dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """(B, 2, D, H, W) -> tokens (B, D/4, H/4, W/4, E)."""
        return self.norm(channels_last(self.conv(volumes)))


class PatchMerging(nn.Module):
    """Joins 2x2x2 tokens and halves the grid: LayerNorm(8C), Linear(8C -> 2C) without bias."""

    # The order in which the eight places are concatenated, (axis 0, 1, 2).
    PLACES = (
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1),
    )  # fmt: skip

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * width)
        self.reduction = nn.Linear(8 * width, 2 * width, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, C), even sides -> (B, D/2, H/2, W/2, 2C)."""
        parts = [tokens[:, i::2, j::2, k::2] for i, j, k in self.PLACES]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias for each relative position.

    Args:
        width: C, a multiple of `heads`.
        heads: how many.
        window: (w0, w1, w2) tokens.
    """

    def __init__(self, width: int, heads: int, window: Shape3d) -> None:
        super().__init__()
        self.heads = heads
        positions = math.prod(2 * side - 1 for side in window)
        self.bias_table = nn.Parameter(torch.empty(positions, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("bias_rows", relative_positions(window), persistent=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend.

        Args:
            windows: (B, W, N, C).
            mask: (W, N, N), added to the logits of every head.

        Returns:
            (B, W, N, C).
        """
        b, count, n, c = windows.shape
        parts = self.qkv(windows).view(b * count, n, 3, self.heads, c // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # BW, heads, N, C/heads
        bias = self.bias_table[self.bias_rows].permute(2, 0, 1)  # heads, N, N
        if mask is None:
            bias = bias.unsqueeze(0)  # 1, heads, N, N
        else:
            bias = (bias + mask.unsqueeze(1)).repeat(b, 1, 1, 1)  # BW, heads, N, N
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).reshape(b, count, n, c))


class SwinBlock(nn.Module):
    """Window attention and MLP, each behind a LayerNorm and beside a residual path.

    Args:
        width: C.
        heads: of the attention.
        window: (w0, w1, w2) tokens. It is not clipped to the grid: [T5].
        shifted: whether windows are shifted by half of their sides; not if a side is 1.
        drop_path: in training, the chance that a sample skips a branch.
    """

    def __init__(
        self, width: int, heads: int, window: Shape3d, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = half(window) if shifted and min(window) > 1 else (0, 0, 0)
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, C) -> (B, D, H, W, C)."""
        tokens = tokens + self.drop_path(self.attend(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def attend(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attention in windows of the zero-padded grid; padding is attended to like the rest."""
        d, h, w = tokens.shape[1:4]
        padded = pad_tokens(tokens, self.window)
        grid = padded.shape[1:4]
        mask = None
        if any(self.shift):
            padded = padded.roll([-by for by in self.shift], dims=(1, 2, 3))
            mask = shift_mask(grid, self.window).to(padded)
        windows = self.attention(to_windows(padded, self.window), mask)
        padded = from_windows(windows, grid, self.window)
        if any(self.shift):
            padded = padded.roll(self.shift, dims=(1, 2, 3))
        return padded[:, :d, :h, :w]


class Stage(nn.Module):
    """Blocks of one width, unshifted and shifted in turn, and the merging that follows them.

    Args:
        width: C.
        heads: of the attention.
        window: (w0, w1, w2) tokens.
        drop_paths: one for each block.
        last: whether no merging follows.
    """

    def __init__(
        self, width: int, heads: int, window: Shape3d, drop_paths: Sequence[float], last: bool
    ) -> None:
        super().__init__()
        blocks = []
        for place, drop_path in enumerate(drop_paths):
            shifted = place % 2 == 1
            blocks.append(SwinBlock(width, heads, window, shifted, drop_path))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.merging = nn.Identity() if last else PatchMerging(width)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, D, H, W, C) -> the feature (B, C, D, H, W), and what the next stage gets."""
        for block in self.blocks:
            tokens = block(tokens)
        feature = channels_first(self.norm(tokens)).contiguous()
        return feature, self.merging(tokens)  # the tokens before the feature's own norm


class SwinEncoder(nn.Module):
    """Four stages on patches of 4x4x4 voxels.

    Args:
        embed_dim: E, the width of the first stage; each further one has twice the width.
        depths: blocks of each stage.
        heads: of each stage.
        window: (w0, w1, w2) tokens, the same in all stages.
        drop_path: stochastic depth of the last block; it grows linearly from 0.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: Shape3d,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(2, embed_dim)
        blocks = sum(depths)
        rates = [drop_path * block / max(1, blocks - 1) for block in range(blocks)]
        self.stages = nn.ModuleList()
        for level, depth in enumerate(depths):
            own_rates, rates = rates[:depth], rates[depth:]
            is_last = level == len(depths) - 1
            width = embed_dim * 2**level
            self.stages.append(Stage(width, heads[level], window, own_rates, is_last))

    def forward(self, pair: torch.Tensor) -> list[torch.Tensor]:
        """Features of both images together.

        Args:
            pair: (B, 2, D, H, W), sides multiples of 32.

        Returns:
            (B, E 2^i, D / 2^(i+2), H / 2^(i+2), W / 2^(i+2)) for i = 0 .. 3.
        """
        tokens = self.embedding(pair)  # B, D, H, W, C
        features = []
        for stage in self.stages:
            feature, tokens = stage(tokens)
            features.append(feature)
        return features


def half(window: Shape3d) -> Shape3d:
    """By how many tokens shifted windows are shifted."""
    return tuple(side // 2 for side in window)


def relative_positions(window: Shape3d) -> torch.Tensor:
    """(N, N): the row of the bias table for a query token (first) and a key token (second)."""
    sides = [torch.arange(side) for side in window]
    places = torch.stack(torch.meshgrid(*sides, indexing="ij")).flatten(1)  # 3, N
    apart = places[:, :, None] - places[:, None, :]  # 3, N, N
    rows = torch.zeros_like(apart[0])
    for axis, side in enumerate(window):
        rows = rows * (2 * side - 1) + apart[axis] + side - 1
    return rows


def shift_mask(grid: Sequence[int], window: Shape3d) -> torch.Tensor:
    """(W, N, N): -100 for two tokens that only rolling brought into one window, else 0."""
    regions = torch.zeros(1, 1, 1, dtype=torch.int64)
    for axis, (side, extent) in enumerate(zip(grid, window, strict=True)):
        places = torch.arange(side)
        labels = (places >= side - extent).int() + (places >= side - extent // 2).int()
        shape = [1, 1, 1]
        shape[axis] = side
        regions = 3 * regions + labels.view(shape)  # up to D, H, W
    regions = to_windows(regions[None, ..., None], window)[0, :, :, 0]  # W, N
    return (regions[:, :, None] != regions[:, None, :]) * APART


def to_windows(tokens: torch.Tensor, window: Shape3d) -> torch.Tensor:
    """(B, D, H, W, C), sides multiples of the window's -> (B, W, N, C), both row-major."""
    b, d, h, w, c = tokens.shape
    w0, w1, w2 = window
    cut = tokens.view(b, d // w0, w0, h // w1, w1, w // w2, w2, c)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, -1, w0 * w1 * w2, c)


def from_windows(windows: torch.Tensor, grid: Sequence[int], window: Shape3d) -> torch.Tensor:
    """Inverse of `to_windows`: (B, W, N, C) -> (B, D, H, W, C)."""
    (d, h, w), (w0, w1, w2) = grid, window
    b, c = windows.shape[0], windows.shape[-1]
    cut = windows.view(b, d // w0, h // w1, w // w2, w0, w1, w2, c)
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, d, h, w, c)
