"""A head that weighs the sources' bands of detail instead of writing patches.

The published head writes the stream maps patch by patch. A pattern of the patch's size is its
smallest mistake, an offset where both sources fade out its costliest, and a filter wider than a
patch is hard for it to learn. This one makes each stream map a sum of the source itself and its
bands of detail, each times a coefficient that varies smoothly over the volume and that the tokens
decide: combinations of basis filters, predicted as in Xia et al., "Basis Prediction Networks for
Effective Burst Denoising with Large Kernels", CVPR 2020. The bands are differences of Gaussians
(Burt, Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Transactions on Communications
31(4), 1983); the wide ones are made on the grid of the patches. Contrast is raised without raising
brightness only by a band as wide as what is seen: the gyri of a smooth template are ten voxels
wide. They fade where their source does, so that a map is dark where its source is.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.ops.bands import SIGMAS, fine_bands, gaussian_kernels, interpolated, weighted_sum
from models.ops.stream_maps import PATCH

WIDE_SIGMAS = (1.0, 2.0, 4.0)  # patches, of the bands that follow
DIM = 0.1  # of the intensity range: where a source is as dark, half of its wide bands is left
PARTS = 1 + len(SIGMAS) + len(WIDE_SIGMAS)  # of each source: itself and its bands
HIDDEN = 64
FAINT = 0.003  # of the intensity range: detail below it counts as none
STEP = 2.0  # of the coefficients, which are halved again where the maps are averaged

Streams = tuple[torch.Tensor, torch.Tensor]


class BandHead(nn.Module):
    """Tokens to stream maps: coefficients of each source and of its bands of detail.

    Both streams use the same weights, each seeing itself first and its partner second, as in the
    blocks. At first the maps are the sources, times twice their shares where there is a balance.

    Args:
        embed_dim: E.

    Attributes:
        bounded: the fused volume is to be clipped to [0, 1], in training too (`models.clip`), so
            that the coefficients stay where nothing is clipped that matters.
    """

    bounded = True

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        seen = PARTS + 1  # with the logarithm of its mean
        self.register_buffer("kernels", gaussian_kernels().float(), persistent=False)
        self.norm = nn.LayerNorm(2 * embed_dim)
        self.from_tokens = nn.Linear(2 * embed_dim, HIDDEN)
        self.from_sources = nn.Conv3d(2 * seen + 1, HIDDEN, kernel_size=3, padding=1)
        self.coefficients = nn.Sequential(
            nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, PARTS)
        )
        nn.init.zeros_(self.coefficients[-1].weight)
        nn.init.zeros_(self.coefficients[-1].bias)

    def forward(
        self, tokens: Streams, volumes: Streams, shares: Streams | None = None
    ) -> torch.Tensor:
        """The stream maps f1 (MRI) and f2 (PET).

        Args:
            tokens: of both streams, (B, D, H, W, E).
            volumes: both sources, (B, 1, 4D, 4H, 4W), in [0, 1].
            shares: of both sources, (B,) each; None without a balance.

        Returns:
            (B, 2, 4D, 4H, 4W).
        """
        split = [split_bands(volume, self.kernels) for volume in volumes]
        features = [energies(bands) for bands in split]
        maps = []
        for own, partner in ((0, 1), (1, 0)):
            twice = 2 * shares[own] if shares else torch.ones_like(volumes[0][:, 0, 0, 0, 0])
            twice = twice[:, None, None, None, None]  # B, 1, 1, 1, 1
            lead = (twice - 1).expand_as(features[own][:, :1])
            context = self.from_sources(torch.cat((features[own], features[partner], lead), dim=1))
            streams = self.norm(torch.cat((tokens[own], tokens[partner]), dim=-1))
            context = context.movedim(1, -1) + self.from_tokens(streams)  # B, D, H, W, HIDDEN
            coefficients = STEP * self.coefficients(context).movedim(-1, 1)  # B, 10, D, H, W
            change = weighted_sum(coefficients, split[own])  # B, 1, 4D, 4H, 4W
            maps.append(twice * volumes[own] + change)
        return torch.cat(maps, dim=1)


def split_bands(volume: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """The volume and its bands, finest first, computed outside autocast.

    In bfloat16 a voxel is as far from its value as a fine band is wide.

    Args:
        volume: (B, 1, 4D, 4H, 4W), float32 or float64.
        kernels: see `models.ops.bands.gaussian_kernels`.

    Returns:
        (B, 10, 4D, 4H, 4W).
    """
    with torch.autocast(volume.device.type, enabled=False):
        fine, smooth = fine_bands(volume, kernels.to(volume.dtype))
        coarse = interpolated(blurred_patches(volume))
        wide = torch.cat((smooth, coarse[:, :-1]), dim=1) - coarse
        shown = smooth.clamp(min=0)
        return torch.cat((volume, fine, wide * shown / (shown + DIM)), dim=1)


def blurred_patches(volume: torch.Tensor) -> torch.Tensor:
    """(B, 1, 4D, 4H, 4W) -> means of the patches at each of WIDE_SIGMAS, (B, 3, D, H, W).

    What lies outside the volume does not count.
    """
    means = F.avg_pool3d(volume, PATCH)
    blurred = []
    for sigma in WIDE_SIGMAS:
        along = [gaussian_weights(side, sigma, means) for side in means.shape[2:]]
        blurred.append(torch.einsum("bcdhw,di,hj,wk->bcijk", means, *along))
    return torch.cat(blurred, dim=1)


def gaussian_weights(side: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """(side, side), device and dtype of `like`: column j is a Gaussian about position j, sum 1."""
    position = torch.arange(side, dtype=like.dtype, device=like.device)
    weights = torch.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)
    return weights / weights.sum(dim=0)


def energies(split: torch.Tensor) -> torch.Tensor:
    """A source's mean, and the logarithms of its detail and mean, (B, 11, D/4, H/4, W/4), by patch.

    SSIM compares intensities by their ratio: what is faint matters to it as much as what is bright.
    """
    mean = F.avg_pool3d(split[:, :1], PATCH)
    levels = torch.cat((F.avg_pool3d(split[:, 1:].abs(), PATCH), mean), dim=1)
    return torch.cat((mean, (levels + FAINT).log() / 3 + 1), dim=1)
