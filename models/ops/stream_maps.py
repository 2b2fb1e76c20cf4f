"""The head: both streams' tokens to the two stream maps at voxel resolution; fast and plain."""

import torch
from torch import nn
from torch.nn import functional as F

from models import ops

PATCH = 4
# Voxels a side that a token reaches: its patch and what a kernel of 3 adds around it.
REACH = PATCH + 2


def stream_maps(
    tokens: torch.Tensor, to_voxels: nn.ConvTranspose3d, to_maps: nn.Conv3d
) -> torch.Tensor:
    """Two convolutions with nothing between them.

    The fast form composes their kernels and never holds the E/2 channels between them at voxel
    resolution: a token then adds its share to the 6x6x6 voxels of each map that it reaches.

    Args:
        tokens: (B, D, H, W, 2E).
        to_voxels: kernel 4, stride 4.
        to_maps: kernel 3, padding 1.

    Returns:
        (B, 2, 4D, 4H, 4W).
    """
    if ops.is_plain():
        return to_maps(to_voxels(tokens.permute(0, 4, 1, 2, 3)))
    with torch.autocast(tokens.device.type, enabled=False):
        # The two kernels of `to_maps` as the batch: the other way round the gradients are slow.
        kernel = F.conv3d(to_maps.weight, to_voxels.weight, padding=3)  # 2, 2E, 6, 6, 6
    kernel = kernel.flip(2, 3, 4).permute(2, 3, 4, 0, 1).flatten(0, 3)  # 6 6 6 2, 2E
    shares = F.linear(tokens, kernel)  # B, D, H, W, 6 6 6 2
    shares = shares.unflatten(-1, (REACH, REACH, REACH * 2))  # B, D, H, W, 6, 6, 6 2
    shares = _overlap(shares, 3, 6)  # B, D, H, W+1, 6, 6, 4 2
    shares = _overlap(shares, 2, 5)  # B, D, H+1, W+1, 6, 4, 4 2
    shares = _overlap(shares, 1, 4)  # B, D+1, H+1, W+1, 4, 4, 4 2
    maps = shares.unflatten(-1, (PATCH, 2))  # B, D+1, H+1, W+1, 4, 4, 4, 2
    maps = maps.permute(0, 7, 1, 4, 2, 5, 3, 6)  # B, 2, D+1, 4, H+1, 4, W+1, 4
    maps = maps.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # B, 2, 4D+4, 4H+4, 4W+4
    maps = maps[:, :, 1:-3, 1:-3, 1:-3]  # B, 2, 4D, 4H, 4W
    return maps + _bias(to_voxels, to_maps, maps.shape[2:])


def _overlap(shares: torch.Tensor, tokens: int, voxels: int) -> torch.Tensor:
    """Along one axis, add what neighbouring tokens say about the same voxels.

    Args:
        shares: n tokens in dimension `tokens`, the 6 voxels that each reaches in dimension `voxels`
            (there may be more than one number for each voxel).
        tokens, voxels: dimensions of `shares`.

    Returns:
        n + 1 groups of 4 voxels; the first voxel lies outside the volume, and the last three.
    """
    whole = shares.shape[voxels] // REACH * PATCH
    own, further = shares.split((whole, shares.shape[voxels] - whole), dim=voxels)
    total = F.pad(own, (0, 0) * (shares.ndim - 1 - tokens) + (0, 1))  # n + 1 groups
    of_next = total.narrow(tokens, 1, shares.shape[tokens])
    of_next.narrow(voxels, 0, further.shape[voxels]).add_(further)
    return total


def _bias(to_voxels: nn.ConvTranspose3d, to_maps: nn.Conv3d, sides: torch.Size) -> torch.Tensor:
    """What both biases add to each voxel, (1, 2, *sides).

    Less along the border, where the second kernel reaches out of the volume. Three voxels an axis
    (border, inside, border) say it all.
    """
    constant = to_voxels.bias[None, :, None, None, None].expand(-1, -1, 3, 3, 3)  # 1, E/2, 3, 3, 3
    field = F.conv3d(constant, to_maps.weight, to_maps.bias, padding=1)  # 1, 2, 3, 3, 3
    for axis, side in enumerate(sides):
        voxel = torch.arange(side, device=field.device)
        place = (voxel > 0).long() + (voxel == side - 1).long()  # 0, 1, .., 1, 2
        field = field.index_select(2 + axis, place)
    return field
