"""How a network starts: PyTorch's own initialisation, or as a copy of its inputs ("identity").

The default initialisation spends thousands of steps on learning to pass the input through all
blocks, mergings and norms. Here the stream maps f1 and f2 start as the MRI and the PET, so that the
fused volume starts as what the fusion layer makes of the inputs themselves: for the L1-norm weights
a mean of both. It is not another network: checkpoints load as before.

Formulae and figures are this project's own, see docs/model.md. Patches are written in the
orthonormal 3-D DCT-II basis (Ahmed, Natarajan, Rao, "Discrete Cosine Transform", IEEE Transactions
on Computers C-23(1), 1974), whose transpose reads them back.
"""

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from models.bands import BandHead
from models.ops.stream_maps import PATCH

if TYPE_CHECKING:
    from models.dc2fusion import DC2Fusion, Head

INITIALISATIONS = ("identity", "default")
# Adam moves every weight by the learning rate a step, whatever its size, and these add up over the
# inputs of a layer. Large tokens and a large first convolution of the head make that small beside
# what is there: with a gain of 1/2 the first step alone costs 60 % on some pairs.
GAIN = 8.0  # of the basis channels
CONSTANT = 128.0  # in the last two channels, with both signs: large beside the basis
BETWEEN = 4.0  # of the channels between the head's convolutions that carry MRI and PET
EMBEDDING_NOISE = 0.1  # what is left of the default weights in the channels without basis
HEAD_NOISE = 0.02  # and in the head
# Behind a LayerNorm the constant has done its work. What is left of it would turn the random walk
# of every weight that reads it into a pattern of the patch's size.
QUIET = 0.02  # of the constant channels behind the norms of the first level and of the head
HEAD_FEATURES = 0.2  # of all others behind the head's norm, for the same reason


@torch.no_grad()
def start_as_identity(network: "DC2Fusion") -> None:
    """Change the parameters of a network with PyTorch's initialisation so that it starts as a copy.

    1. Patch embedding: n = min(64, E - 2) channels are the lowest frequencies of the patch, the
       last two carry a constant.
    2. Blocks: the last linear layer of both residual branches is 0, a block changes nothing.
    3. Skip reduction: [0 | I], so that each level of the decoder starts from its own skip feature.
    4. Head: reads the basis of the MRI's tokens into f1 and that of the PET's into f2. The one of
       bands is a copy by itself.
    5. Balance, where there is one: f1 is 2 t MRI and f2 is 2 (1 - t) PET.

    With E < 64 the highest frequencies of a patch are lost: the maps start as smoothed inputs.
    """
    embed_as_basis(network.patch_embedding)
    for stage in (*network.encoder, *network.decoder):
        for block in stage:
            for last in (block.blend.merge, block.mlp[-1]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
    for block in (*network.encoder[0], *network.decoder[-1]):
        block.norm.weight[-2:] = QUIET
    for reduction in network.skip_reduction:
        width = reduction.out_features
        nn.init.zeros_(reduction.weight[:, :width])  # the stream
        nn.init.eye_(reduction.weight[:, width:])  # the skip feature
        nn.init.zeros_(reduction.bias)
    if isinstance(network.head, BandHead):
        network.head.norm.weight.view(2, -1)[:, -2:] = QUIET  # of both streams
    else:
        read_basis(network.head, network.patch_embedding.out_channels)
    if network.balance is not None:
        network.balance.start_in_proportion(basis_channels(network.patch_embedding.out_channels))


def basis_channels(embed_dim: int) -> int:
    """n: the channels of E that hold basis functions; two are left for the constant."""
    return min(PATCH**3, embed_dim - 2)


def deviation(embed_dim: int) -> float:
    """s: about the standard deviation that the head's LayerNorm divides by, for every token.

    The constant channels carry the amplitude through it, which it would else divide away.
    """
    return CONSTANT * math.sqrt(2 / embed_dim)


def embed_as_basis(embedding: nn.Conv3d) -> None:
    """Patch embedding, weight (E, 1, 4, 4, 4): GAIN times the basis, the rest, the constants."""
    embed_dim = embedding.out_channels
    n = basis_channels(embed_dim)
    weight, bias = embedding.weight, embedding.bias
    weight[:n, 0] = GAIN * patch_basis()[:n].to(weight)
    weight[n:] *= EMBEDDING_NOISE
    # The channels sum to 0, so that LayerNorm has no mean to take away from the basis.
    weight[n:] -= weight.sum(dim=0, keepdim=True) / (embed_dim - n)
    nn.init.zeros_(bias)
    bias[-2], bias[-1] = CONSTANT, -CONSTANT


def read_basis(head: "Head", embed_dim: int) -> None:
    """The head's two convolutions, of 2E channels behind its LayerNorm: MRI first.

    Channel 0 of the E/2 in between becomes the MRI, channel 1 the PET; the other channels and taps
    keep a trace of their default weights, so that all of them learn.
    """
    n = basis_channels(embed_dim)
    to_voxels, to_maps = head.to_voxels, head.to_maps
    head.norm.weight[:] = HEAD_FEATURES
    head.norm.weight.view(2, embed_dim)[:, -2:] = QUIET  # of both streams
    scale = BETWEEN * deviation(embed_dim) / GAIN / HEAD_FEATURES
    patch = patch_basis()[:n].to(to_voxels.weight) * scale  # n, 4, 4, 4

    to_voxels.weight *= HEAD_NOISE / HEAD_FEATURES  # 2E, E/2, 4, 4, 4
    to_voxels.weight[:n, 0] = patch
    to_voxels.weight[embed_dim : embed_dim + n, 1] = patch
    nn.init.zeros_(to_voxels.bias)

    to_maps.weight *= HEAD_NOISE  # 2, E/2, 3, 3, 3
    to_maps.weight[:, :2] *= torch.eye(2).to(to_maps.weight)[:, :, None, None, None]
    for stream in range(2):
        to_maps.weight[stream, stream, 1, 1, 1] = 1 / BETWEEN
    nn.init.zeros_(to_maps.bias)


def patch_basis() -> torch.Tensor:
    """The orthonormal 3-D DCT-II basis of a patch, lowest frequencies first: (64, 4, 4, 4) float64.

    Along an axis of N voxels, phi_k(x) = sqrt(2 / N) cos(pi (2x + 1) k / 2N), and sqrt(1 / N) for
    k = 0.
    """
    frequency = torch.arange(PATCH, dtype=torch.float64)[:, None]
    voxel = torch.arange(PATCH, dtype=torch.float64)
    axis = math.sqrt(2 / PATCH) * torch.cos(math.pi * (2 * voxel + 1) * frequency / (2 * PATCH))
    axis[0] = math.sqrt(1 / PATCH)  # 4 frequencies, 4 voxels
    triples = itertools.product(range(PATCH), repeat=3)
    ordered = sorted(triples, key=lambda triple: (sum(k * k for k in triple), triple))
    functions = [torch.einsum("d,h,w->dhw", axis[i], axis[j], axis[k]) for i, j, k in ordered]
    return torch.stack(functions)
