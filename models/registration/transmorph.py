"""TransMorph: a Swin encoder and a convolutional decoder that predict a displacement field.

Chen, Frey, He, Segars, Li, Du, "TransMorph: Transformer for unsupervised medical image
registration", Medical Image Analysis 82, 2022, arXiv 2111.10480. Both networks follow the paper or
the code released with it (`variant`); what differs is marked [T7] to [T11]:

    what                                     paper                          released
    T7   sides that are no multiple of 32    padded inside, cropped again   refused
    T9   TransMorph-diff, bias of the mean   0 at the start                 PyTorch's default
    T10  where its integration begins        at 1/128 of the velocity       at all of it
    T11  values of its upsampled field       doubled, as their grid is      left

Shapes: volumes (B, 1, D, H, W); displacements (B, 3, D, H, W) in voxels; E = embed_dim.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from models.registration.swin import PATCH, Shape3d, SwinEncoder
from models.registration.warp import integrate, warp

VARIANTS = ("paper", "released")
LEVELS = 4
MULTIPLE = PATCH * 2 ** (LEVELS - 1)  # of which the network's sides are
FINEST = 16  # channels of the decoder's last block

# Options by name, as published; TransMorph-diff has those of "standard".
NETWORKS: dict[str, dict] = {
    "tiny": {"embed_dim": 6, "depths": (2, 2, 4, 2), "heads": (2, 2, 4, 4)},
    "small": {"embed_dim": 48, "depths": (2, 2, 4, 2), "heads": (4, 4, 4, 4)},
    "standard": {"embed_dim": 96, "depths": (2, 2, 4, 2), "heads": (4, 4, 8, 8)},
    "large": {"embed_dim": 128, "depths": (2, 2, 12, 2), "heads": (4, 4, 8, 16)},
}


class ConvUnit(nn.Sequential):
    """Conv3d 3x3x3 without bias, InstanceNorm without parameters, LeakyReLU 0.01."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv3d(channels, width, 3, padding=1, bias=False),
            nn.InstanceNorm3d(width),
            nn.LeakyReLU(0.01),
        )


class UpBlock(nn.Module):
    """Doubles the grid, joins a skip feature, two units.

    Args:
        channels: of the input.
        skip: channels of the skip feature.
        width: of the output.
    """

    def __init__(self, channels: int, skip: int, width: int) -> None:
        super().__init__()
        self.first = ConvUnit(channels + skip, width)
        self.second = ConvUnit(width, width)

    def forward(self, volume: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(B, C, D, H, W), skip feature of twice the sides -> (B, width, 2D, 2H, 2W)."""
        return self.second(self.first(torch.cat([doubled(volume), skip], dim=1)))


class FieldHead(nn.Conv3d):
    """Conv3d(C -> 3, 3x3x3) outside autocast: half precision would round the displacements."""

    def __init__(self, channels: int, std: float) -> None:
        super().__init__(channels, 3, 3, padding=1)
        nn.init.normal_(self.weight, std=std)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))


class Backbone(nn.Module):
    """What both networks share: the encoder, and the decoder as far as half resolution.

    Args:
        embed_dim: E.
        depths: blocks of each of the four stages.
        heads: of each stage.
        window: (w0, w1, w2) tokens of the attention windows; see `window_of`.
        drop_path: stochastic depth of the encoder's last block.
        variant: "paper" or "released", see the module's docstring.
        half_width: channels at half resolution.

    Raises:
        ValueError: for an unknown variant, or depths or heads that are not four.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: Shape3d,
        drop_path: float,
        variant: str,
        half_width: int,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}, choose from {', '.join(VARIANTS)}")
        if len(depths) != LEVELS or len(heads) != LEVELS:
            raise ValueError(f"{LEVELS} depths and heads are wanted, received {depths}, {heads}")
        e = embed_dim
        self.variant = variant
        self.window = tuple(window)
        self.encoder = SwinEncoder(e, depths, heads, self.window, drop_path)
        self.skip_half = ConvUnit(2, e // 2)
        self.up0 = UpBlock(8 * e, 4 * e, 4 * e)
        self.up1 = UpBlock(4 * e, 2 * e, 2 * e)
        self.up2 = UpBlock(2 * e, e, e)
        self.up3 = UpBlock(e, e // 2, half_width)

    def half_features(self, pair: torch.Tensor) -> torch.Tensor:
        """(B, 2, D, H, W), sides multiples of 32 -> (B, half_width, D/2, H/2, W/2)."""
        enc0, enc1, enc2, enc3 = self.encoder(pair)
        # The average counts the zeros around the volume: always divided by 27.
        skip = self.skip_half(F.avg_pool3d(pair, 3, stride=2, padding=1))
        volume = self.up0(enc3, enc2)
        volume = self.up1(volume, enc1)
        volume = self.up2(volume, enc0)
        return self.up3(volume, skip)

    def join(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Both images as channels, zero-padded at the ends to multiples of 32: (B, 2, D, H, W)."""
        if moving.shape != fixed.shape or moving.ndim != 5 or moving.shape[1] != 1:
            raise ValueError(
                "moving and fixed are (B, 1, D, H, W) of one shape, received "
                f"{tuple(moving.shape)} and {tuple(fixed.shape)}"
            )
        sides = moving.shape[2:]
        d, h, w = (-side % MULTIPLE for side in sides)
        if self.variant == "released" and (d or h or w):
            raise ValueError(
                f"the released form takes sides that are multiples of {MULTIPLE}, received "
                f"{tuple(sides)}; pad, or use variant='paper'"
            )
        return F.pad(torch.cat([moving, fixed], dim=1), (0, w, 0, h, 0, d))


class Field(NamedTuple):
    """What TransMorph predicts."""

    displacement: torch.Tensor  # (B, 3, D, H, W), in voxels


class TransMorph(Backbone):
    """The standard network: a displacement at full resolution.

    Untrained it moves nothing, to about 1e-3 voxel. Args and errors: as `Backbone`.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 4, 2),
        heads: Sequence[int] = (4, 4, 8, 8),
        window: Shape3d = (5, 6, 7),
        drop_path: float = 0.3,
        variant: str = "paper",
    ) -> None:
        super().__init__(embed_dim, depths, heads, window, drop_path, variant, embed_dim // 2)
        self.skip_full = ConvUnit(2, FINEST)
        self.up4 = UpBlock(embed_dim // 2, FINEST, FINEST)
        self.head = FieldHead(FINEST, std=1e-5)
        nn.init.zeros_(self.head.bias)

    def displacement(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """The field that brings the moving image onto the fixed one.

        Args and errors: as `forward`.

        Returns:
            (B, 3, D, H, W), in voxels.
        """
        pair = self.join(moving, fixed)
        features = self.up4(self.half_features(pair), self.skip_full(pair))
        return cropped(self.head(features), fixed)

    def field(self, moving: torch.Tensor, fixed: torch.Tensor) -> Field:
        """The displacement by name, as `TransMorphDiff.field` has it."""
        return Field(self.displacement(moving, fixed))

    def forward(
        self, moving: torch.Tensor, fixed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Register.

        Args:
            moving: (B, 1, D, H, W), intensities in [0, 1].
            fixed: same shape and range.

        Returns:
            The warped moving image (B, 1, D, H, W) and the displacement (B, 3, D, H, W), in voxels.

        Raises:
            ValueError: if the shapes differ, or for sides that `released` does not take.
        """
        displacement = self.displacement(moving, fixed)
        return warp(moving, displacement), displacement


class DiffField(NamedTuple):
    """What TransMorph-diff predicts; all but the displacement on the padded half grid."""

    displacement: torch.Tensor  # (B, 3, D, H, W), in voxels
    integrated: torch.Tensor  # (B, 3, D/2, H/2, W/2), in half-grid voxels
    mean: torch.Tensor  # of the velocity, same
    log_variance: torch.Tensor  # of the velocity, same


class TransMorphDiff(Backbone):
    """TransMorph-diff: a velocity at half resolution, sampled in training, integrated.

    Dalca et al., "Unsupervised learning of probabilistic diffeomorphic registration for images and
    surfaces", Medical Image Analysis 57, 2019, is where the scheme comes from. Args and errors: as
    `Backbone`, and

    Args:
        symmetric: the velocity is half of the pair's minus that of the exchanged pair. It is then 0
            for an image and itself, and the field of the exchanged pair is the inverse. Not
            published; the same weights fit both forms.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 4, 2),
        heads: Sequence[int] = (4, 4, 8, 8),
        window: Shape3d = (5, 6, 7),
        drop_path: float = 0.3,
        variant: str = "paper",
        symmetric: bool = False,
    ) -> None:
        super().__init__(embed_dim, depths, heads, window, drop_path, variant, FINEST)
        self.symmetric = symmetric
        self.mean_head = FieldHead(FINEST, std=1e-5)
        if variant == "paper":  # [T9]
            nn.init.zeros_(self.mean_head.bias)
        self.log_variance_head = FieldHead(FINEST, std=1e-10)
        nn.init.constant_(self.log_variance_head.bias, -10)

    def field(
        self, moving: torch.Tensor, fixed: torch.Tensor, noise: torch.Tensor | None = None
    ) -> DiffField:
        """The field that brings the moving image onto the fixed one, and what it was made of.

        Args:
            moving: as in `forward`.
            fixed: as in `forward`.
            noise: (B, 3, D/2, H/2, W/2) standard normal, on the padded half grid. None for fresh
                noise in training, and for the mean velocity in evaluation.

        Errors: as `forward`.
        """
        mean, log_variance = self.velocity(moving, fixed)
        if noise is None and self.training:
            noise = torch.randn_like(mean)
        velocity = mean if noise is None else mean + (log_variance / 2).exp() * noise
        integrated = integrate(velocity, scaled=self.variant == "paper")
        return DiffField(self._to_full_grid(integrated, fixed), integrated, mean, log_variance)

    def velocity(
        self, moving: torch.Tensor, fixed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the velocity, each (B, 3, D/2, H/2, W/2)."""
        pair = self.join(moving, fixed)
        if self.symmetric:
            pair = torch.cat((pair, self.join(fixed, moving)))  # 2B, 2, D, H, W
        features = self.half_features(pair)
        mean, log_variance = self.mean_head(features), self.log_variance_head(features)
        if not self.symmetric:
            return mean, log_variance
        there, back = mean.chunk(2)
        return (there - back) / 2, sum(log_variance.chunk(2)) / 2

    def displacement(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """(B, 3, D, H, W), in voxels: the field that brings the moving image onto the fixed one."""
        return self.field(moving, fixed).displacement

    def inverse(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """The displacement of the way back: the mean velocity integrated backwards.

        An inverse up to interpolation and what leaves the volume.

        Returns:
            (B, 3, D, H, W), in voxels.

        Raises:
            ValueError: as `forward`; for the released form, whose fields are only half of what was
                integrated.
        """
        if self.variant != "paper":
            raise ValueError("only variant='paper' has an inverse")
        mean, _ = self.velocity(moving, fixed)
        return self._to_full_grid(integrate(-mean), fixed)

    def forward(
        self, moving: torch.Tensor, fixed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Register; a training step takes `field`, whose parts the prior needs.

        Args:
            moving: (B, 1, D, H, W), intensities in [0, 1].
            fixed: same shape and range.

        Returns:
            The warped moving image (B, 1, D, H, W) and the displacement (B, 3, D, H, W), in voxels.

        Raises:
            ValueError: if the shapes differ, or for sides that `released` does not take.
        """
        displacement = self.field(moving, fixed).displacement
        return warp(moving, displacement), displacement

    def _to_full_grid(self, integrated: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        full = doubled(integrated)
        if self.variant == "paper":  # [T11]
            full = 2 * full  # a voxel of the half grid is two of the full one
        return cropped(full, fixed)


def doubled(volume: torch.Tensor) -> torch.Tensor:
    """(B, C, D, H, W) -> (B, C, 2D, 2H, 2W), trilinear."""
    return F.interpolate(volume, scale_factor=2, mode="trilinear", align_corners=False)


def cropped(volume: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The first voxels of each axis, as many as `like` has."""
    d, h, w = like.shape[2:]
    return volume[..., :d, :h, :w]


def window_of(size: Sequence[int]) -> Shape3d:
    """The published rule for the attention windows of a volume: 1/32 of its sides.

    No stage needs padding then, and in the last one a window is the whole grid. Sides are taken as
    padded to multiples of 32; below 64 voxels the window is 2.

    Args:
        size: (D, H, W).
    """
    windows = []
    for side in size:
        padded = side + -side % MULTIPLE
        windows.append(padded // MULTIPLE if padded >= 64 else 2)
    return tuple(windows)
