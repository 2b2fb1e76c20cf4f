"""Convolutions whose stride is their kernel, between tokens and patches of them; fast and plain.

No patch overlaps another, so that each is one matrix product on rows of channels, whose gradients
are products, too.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models import ops
from models.ops.layout import channels_first, channels_last


def merge_patches(tokens: torch.Tensor, conv: nn.Conv3d) -> torch.Tensor:
    """A convolution with kernel and stride K: each patch of K^3 tokens becomes one.

    Args:
        tokens: (B, D, H, W, C), D, H, W multiples of K.
        conv: C -> C'.

    Returns:
        (B, D/K, H/K, W/K, C').
    """
    if ops.is_plain():
        merged = F.conv3d(channels_first(tokens), conv.weight, conv.bias, conv.stride)
        return channels_last(merged)
    b, d, h, w, c = tokens.shape
    k = conv.kernel_size[0]
    patches = tokens.reshape(b, d // k, k, h // k, k, w // k, k, c)
    patches = patches.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)  # B, D/K, H/K, W/K, K K K C
    return F.linear(patches, channels_last(conv.weight).flatten(1), conv.bias)


def expand_patches(tokens: torch.Tensor, conv: nn.ConvTranspose3d) -> torch.Tensor:
    """A transposed convolution with kernel and stride K: each token becomes a patch of K^3.

    Args:
        tokens: (B, D, H, W, C).
        conv: C -> C'.

    Returns:
        (B, KD, KH, KW, C').
    """
    if ops.is_plain():
        expanded = F.conv_transpose3d(channels_first(tokens), conv.weight, conv.bias, conv.stride)
        return channels_last(expanded)
    k = conv.kernel_size[0]
    patches = F.linear(tokens, channels_last(conv.weight).flatten(1).T)  # B, D, H, W, K K K C'
    patches = patches.unflatten(-1, (k, k, k, -1)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    expanded = patches.flatten(5, 6).flatten(3, 4).flatten(1, 2)  # B, KD, KH, KW, C'
    return expanded + conv.bias
