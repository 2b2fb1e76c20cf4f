"""Attention inside windows of the grid, with a gate on the values; fast and plain.

Axes: D, H, W tokens, C channels; n windows of a sample, t tokens a window, h heads.
"""

import torch
from torch.nn import functional as F

from models import ops
from models.ops import kernels

Window = tuple[int, int, int]  # tokens along D, H, W


def window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    heads: int,
    window: Window,
    linear: bool,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(C / heads)) (gate v) among the tokens of each window.

    Args:
        query: (B, D, H, W, C) already projected; channel i of head j is channel j C/heads + i.
        key, value: the same shape.
        gate: (B, C), multiplies the values of every token.
        heads: must divide C.
        window: tokens a window along D, H, W, which must divide the grid.
        linear: [R4], see `models.variants`: without the softmax.

    Returns:
        (B, D, H, W, C).
    """
    if kernels.available("attention", query, key, value):
        kernel = kernels.load("attention")
        return kernel.window_attention(query, key, value, gate, heads, window, linear)
    shape = query.shape
    gate = gate[:, None, None, None, :].to(value.dtype)  # B, 1, 1, 1, C
    if ops.is_plain():
        value = value * gate
    q, k, v = (_split(tokens, heads, window) for tokens in (query, key, value))  # B n, h, t, C/h
    attended = _join(_attend(q, k, v, linear), shape, window)  # B, D, H, W, C
    if ops.is_plain():
        return attended
    # One gate for all tokens may as well multiply the result: no copy of the values is kept.
    return attended * gate


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, linear: bool) -> torch.Tensor:
    """(B n, h, t, C/h) each, and so is the result."""
    # PyTorch's fused attention has a slow backward pass on a CPU for windows of eight tokens.
    slow = q.device.type == "cpu" and torch.is_grad_enabled()
    if not (linear or slow or ops.is_plain()):
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # B n, h, t, t
    return (scores if linear else scores.softmax(dim=-1)) @ v  # B n, h, t, C/h


def _split(tokens: torch.Tensor, heads: int, window: Window) -> torch.Tensor:
    """(B, D, H, W, C) -> (B n, h, t, C/h)."""
    b, d, h, w, c = tokens.shape
    i, j, k = window
    # B, D/i, i, H/j, j, W/k, k, h, C/h
    split = tokens.reshape(b, d // i, i, h // j, j, w // k, k, heads, c // heads)
    split = split.permute(0, 1, 3, 5, 7, 2, 4, 6, 8)  # B, D/i, H/j, W/k, h, i, j, k, C/h
    return split.reshape(-1, heads, i * j * k, c // heads)  # B n, h, t, C/h


def _join(windows: torch.Tensor, shape: torch.Size, window: Window) -> torch.Tensor:
    """The inverse of `_split`."""
    b, d, h, w, c = shape
    i, j, k = window
    heads = windows.shape[1]
    # B, D/i, H/j, W/k, h, i, j, k, C/h
    joined = windows.reshape(b, d // i, h // j, w // k, heads, i, j, k, c // heads)
    joined = joined.permute(0, 1, 5, 2, 6, 3, 7, 4, 8)  # B, D/i, i, H/j, j, W/k, k, h, C/h
    return joined.reshape(shape)  # B, D, H, W, C
