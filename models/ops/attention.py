"""Attention inside windows of the grid, with a gate on the values; fast and plain."""

import torch
from torch.nn import functional as F

from models.ops import kernels


def window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    heads: int,
    window: tuple[int, int, int],
    linear: bool,
    path: str = "fast",
) -> torch.Tensor:
    """Every token attends to the tokens of its own window: softmax(q k^T / sqrt(C / heads)) (gate
    v).

    Args:
        query: (B, D, H, W, C) already projected; channel i of head j is channel j C/heads + i.
        key, value: the same shape.
        gate: (B, C), multiplies the values of every token.
        heads: must divide C.
        window: tokens a window along D, H, W, which must divide the grid.
        linear: [R4], see `models.variants`: without the softmax.
        path: "fast" or "plain", see `models.ops.paths`.

    Returns:
        (B, D, H, W, C).
    """
    if path != "plain" and kernels.available("attention", query, key, value):
        from models.ops.kernels.attention import window_attention as kernel

        return kernel(query, key, value, gate, heads, window, linear)
    shape = query.shape
    gate = gate[:, None, None, None, :].to(value.dtype)
    if path == "plain":
        value = value * gate
    query, key, value = (_split(tokens, heads, window) for tokens in (query, key, value))
    if linear:
        attended = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) @ value
    elif path == "plain":
        attended = (
            torch.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1), dim=-1) @ value
        )
    else:
        attended = F.scaled_dot_product_attention(query, key, value)
    attended = _join(attended, shape, window)
    # One gate for all tokens may as well multiply the result, which saves a copy of the values for
    # backward.
    return attended if path == "plain" else attended * gate


def _split(tokens: torch.Tensor, heads: int, window: tuple[int, int, int]) -> torch.Tensor:
    """(B, D, H, W, C) -> (B * windows, heads, tokens a window, C / heads)."""
    b, d, h, w, c = tokens.shape
    i, j, k = window
    split = tokens.reshape(b, d // i, i, h // j, j, w // k, k, heads, c // heads)
    return split.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).reshape(-1, heads, i * j * k, c // heads)


def _join(windows: torch.Tensor, shape: torch.Size, window: tuple[int, int, int]) -> torch.Tensor:
    """The inverse of `_split`."""
    b, d, h, w, c = shape
    i, j, k = window
    heads = windows.shape[1]
    joined = windows.reshape(b, d // i, h // j, w // k, heads, i, j, k, c // heads)
    return joined.permute(0, 1, 5, 2, 6, 3, 7, 4, 8).reshape(shape)
