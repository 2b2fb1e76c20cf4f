"""DC2Fusion: two streams, MRI and PET, through one shared U-shaped network of DCFB blocks.

Liu et al., "Three-Dimensional Medical Image Fusion with Deformable Cross-Attention", ICONIP 2023,
arXiv 2310.06291. The block itself is in `models.dcfb`, what the paper and the released code do
differently in `models.variants`.

Shapes: volumes (B, 1, D, H, W), tokens (B, D, H, W, C), E = embed_dim.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models import ops
from models.balance import NEUTRAL, Balance, shares
from models.bands import BandHead, Streams
from models.clip import clip_to_unit
from models.dcfb import DCFBlock, pad_tokens
from models.fusion_layer import fusion_strategy, gate
from models.initialisation import INITIALISATIONS, start_as_identity
from models.ops.layout import channels_first, channels_last
from models.ops.patches import expand_patches, merge_patches
from models.ops.stream_maps import PATCH, stream_maps
from models.variants import build_variant

# Options by name. `compact` has 4.6 M parameters: fusing aligned pairs hardly needs the two deepest
# stages, which hold three quarters of the paper's 93 M.
NETWORKS: dict[str, dict] = {
    "paper": {"embed_dim": 96, "depths": (2, 2, 6, 2), "head": "patches"},
    "compact": {"embed_dim": 96, "depths": (2, 2), "head": "bands"},
}
HEADS = (3, 6, 12, 24)  # of each level; their number is the largest number of levels
MAX_DROP_PATH = 0.2


class PatchEmbedding(nn.Conv3d):
    """Conv3d(1 -> E, kernel 4, stride 4)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__(1, embed_dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, 1, D, H, W) -> tokens (B, D/4, H/4, W/4, E)."""
        return merge_patches(channels_last(volume), self).contiguous()


class PatchMerging(nn.Module):
    """Halves the grid and doubles the width: Conv3d(C -> 2C, kernel 2, stride 2), LayerNorm.

    Odd sides are zero-padded at the end first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, 2 * width, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(2 * width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, C) -> (B, ceil(D/2), ceil(H/2), ceil(W/2), 2C)."""
        padded = pad_tokens(tokens, (2, 2, 2))
        return self.norm(merge_patches(padded, self.conv))


class PatchExpanding(nn.Module):
    """Doubles the grid, halves the width: ConvTranspose3d(C -> C/2, kernel 2, stride 2), norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(width, width // 2, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(width // 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, C) -> (B, 2D, 2H, 2W, C/2)."""
        return self.norm(expand_patches(tokens, self.conv))


class Stage(nn.ModuleList):
    """DCFB blocks of one width, each applied to both streams in turn with the same weights.

    Args:
        blocks: the blocks.
        checkpoint_activations: keep only the tokens between calls for the backward pass, where each
            call is computed a second time.
    """

    def __init__(self, blocks: Iterable[DCFBlock], checkpoint_activations: bool = False) -> None:
        super().__init__(blocks)
        self.checkpoint_activations = checkpoint_activations

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> Streams:
        for block in self:
            mri = self.update(block, mri, pet)
            pet = self.update(block, pet, mri)  # sees the MRI stream already updated
        return mri, pet

    def update(self, block: DCFBlock, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One call of a block, with its activations or without."""
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return block(x, y)
        if torch.compiler.is_compiling():
            # It takes no contexts, and needs none: it computes only the activations again, not the
            # statistics, and the backend is part of what was compiled.
            return checkpoint(block, x, y, use_reentrant=False)
        again = _again(block, ops.current())
        return checkpoint(
            block, x, y, use_reentrant=False, context_fn=lambda: (nullcontext(), again)
        )


@contextmanager
def _again(block: DCFBlock, backend: ops.Backend) -> Iterator[None]:
    """For a call that is computed again, perhaps where another backend holds."""
    with ops.using(backend), block.repeated():
        yield


class SkipReduction(nn.Linear):
    """Joins a decoder stream with the skip feature of its width: concatenation, Linear(2C -> C)."""

    def __init__(self, width: int) -> None:
        super().__init__(2 * width, width)

    def forward(self, stream: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        if stream.shape[1:4] != skip.shape[1:4]:  # after odd sides
            resized = F.interpolate(
                channels_first(stream), skip.shape[1:4], mode="trilinear", align_corners=True
            )
            stream = channels_last(resized)
        return super().forward(torch.cat((stream, skip), dim=-1))


class Head(nn.Module):
    """Tokens to stream maps: LayerNorm and two convolutions.

    ConvTranspose3d(2E -> E/2, kernel 4, stride 4), Conv3d(E/2 -> 2, kernel 3, padding 1).
    """

    bounded = False  # see `models.bands.BandHead`

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * embed_dim)
        self.to_voxels = nn.ConvTranspose3d(2 * embed_dim, embed_dim // 2, PATCH, stride=PATCH)
        self.to_maps = nn.Conv3d(embed_dim // 2, 2, kernel_size=3, padding=1)

    def forward(
        self, tokens: Streams, volumes: Streams | None = None, shares: Streams | None = None
    ) -> torch.Tensor:
        """Tokens (B, D, H, W, E) of both streams -> (B, 2, 4D, 4H, 4W); the rest is not needed."""
        tokens = self.norm(torch.cat(tokens, dim=-1))  # B, D, H, W, 2E
        return stream_maps(tokens, self.to_voxels, self.to_maps)


HEAD_FORMS: dict[str, type[nn.Module]] = {"patches": Head, "bands": BandHead}


class DC2Fusion(nn.Module):
    """The DC2Fusion network.

    Args:
        embed_dim: E, the width of the first stage (96 in the paper: 93,248,954 parameters). Must be
            a multiple of 24, so that every stage's width is divisible by its heads and by 8.
        depths: blocks of each encoder stage, one to four stages; the decoder mirrors them. Named
            sets of `embed_dim`, `depths` and `head` are in `NETWORKS`.
        variant: "paper" or "released", see `models.variants`.
        fusion: name of the fusion strategy, see `models.fusion_layer`; None takes the variant's
            own.
        switched: single differences ("R1" ..) that take the other variant's form, for ablation.
        init: "identity" or "default", see `models.initialisation`; None for "identity" in the
            paper variant and "default", the released code's own, in the released one.
        head: what the tokens become: "patches" of the stream maps, or coefficients of the sources'
            "bands" of detail, see `models.bands`.
        balanced: take the balance of MRI and PET as a third input, see `models.balance`.
        checkpoint_activations: compute each block a second time in the backward pass instead of
            keeping its activations, for small cards: same numbers, a fraction of the memory, a
            third more time.

    Raises:
        ValueError: for an unknown name, an `embed_dim` that is not a positive multiple of 24, or
            `depths` that are not one to four positive numbers.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = NETWORKS["paper"]["depths"],
        variant: str = "paper",
        fusion: str | None = None,
        switched: tuple[str, ...] = (),
        init: str | None = None,
        balanced: bool = False,
        head: str = "patches",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        init = init or ("identity" if variant == "paper" else "default")
        check_options(embed_dim, depths, init, head)
        self.variant = build_variant(variant, tuple(switched))
        self.fuse_maps = fusion_strategy(fusion or self.variant.fusion)  # [R5]

        widths = [embed_dim * 2**level for level in range(len(depths))]
        encoder, decoder = (self._stages(widths, depths, checkpoint_activations) for _ in range(2))
        self.patch_embedding = PatchEmbedding(embed_dim)
        self.encoder = nn.ModuleList(encoder)
        self.merging = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.bottleneck_norm = nn.LayerNorm(widths[-1])
        self.decoder = nn.ModuleList(reversed(decoder))
        self.expanding = nn.ModuleList(PatchExpanding(width) for width in widths[:0:-1])
        self.skip_reduction = nn.ModuleList(SkipReduction(width) for width in widths[-2::-1])
        self.head = HEAD_FORMS[head](embed_dim)
        self.balance = Balance([*widths, *widths[::-1], embed_dim]) if balanced else None
        self.default_balance = NEUTRAL
        if init == "identity":
            start_as_identity(self)

    def _stages(
        self, widths: list[int], depths: Sequence[int], checkpoint_activations: bool
    ) -> list[Stage]:
        last = sum(depths) - 1
        rates = [MAX_DROP_PATH * i / max(1, last) for i in range(last + 1)]
        stages = []
        for width, heads, depth in zip(widths, HEADS, depths, strict=False):
            own, rates = rates[:depth], rates[depth:]
            blocks = (DCFBlock(width, heads, rate, self.variant) for rate in own)
            stages.append(Stage(blocks, checkpoint_activations))
        return stages

    def forward(
        self,
        mri: torch.Tensor,
        pet: torch.Tensor,
        balance: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Fuse MRI and PET volumes.

        Args:
            mri: (B, 1, D, H, W), intensities in [0, 1]. Any size; in training the deepest grid
                (with four levels ceil(side / 32) an axis) must hold more than one token in the
                batch.
            pet: same shape and range, on the MRI's grid.
            balance: share of the MRI, 0 to 1, one or (B,), in place of `default_balance`; without
                effect unless `balanced`.

        Returns:
            (B, 1, D, H, W) on the same grid. Not bounded unless the head is: clip to [0, 1] before
            saving or scoring. 0 where both sources are, if the variant is gated.

        Raises:
            ValueError: if the shapes differ or are not (B, 1, D, H, W), a training volume is too
                small, or a balance is not within [0, 1].
        """
        maps = self.stream_maps(mri, pet, balance)
        return self.gated(self.fuse_maps(maps[:, :1], maps[:, 1:]), mri, pet)

    def gated(self, fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """The fused volume as it is given out.

        Clipped to [0, 1] if the head is bounded; [R10] faded to 0 where both sources are, if the
        variant is gated.
        """
        if self.head.bounded:
            fused = clip_to_unit(fused)
        if not self.variant.gated:
            return fused
        return fused * gate(mri, pet).to(fused.dtype)

    def stream_maps(
        self,
        mri: torch.Tensor,
        pet: torch.Tensor,
        balance: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, 2, D, H, W): the stream maps f1 (MRI) and f2 (PET) that the fusion layer combines."""
        self._check(mri, pet)
        balance = self.default_balance if balance is None else balance
        own = shares(balance, mri) if self.balance else None
        d, h, w = mri.shape[2:]
        volumes = pad_volume(mri), pad_volume(pet)
        mri, pet = (self.patch_embedding(volume) for volume in volumes)
        mri, pet, skips = self.encode(mri, pet, own)
        normed = self.bottleneck_norm(mri), self.bottleneck_norm(pet)
        mri, pet = self.decode(*normed, skips, own)
        mri, pet = self.balanced((mri, pet), own, 2 * len(self.encoder))
        return self.head((mri, pet), volumes, own)[:, :, :d, :h, :w]

    def balanced(self, streams: Streams, own: Streams | None, place: int) -> Streams:
        """The streams, each as its source's share asks; as they are without a balance."""
        if self.balance is None:
            return streams
        mri, pet = (self.balance(x, share, place) for x, share in zip(streams, own, strict=True))
        return mri, pet

    def encode(
        self, mri: torch.Tensor, pet: torch.Tensor, own: Streams | None = None
    ) -> tuple[*Streams, list[Streams]]:
        """Tokens (B, D, H, W, E) -> deepest tokens and the skip features of the stages above."""
        skips = []
        for place, stage in enumerate(self.encoder):
            mri, pet = stage(*self.balanced((mri, pet), own, place))
            if place < len(self.merging):
                skips.append((mri, pet))
                mri, pet = self.merging[place](mri), self.merging[place](pet)
        return mri, pet, skips

    def decode(
        self,
        mri: torch.Tensor,
        pet: torch.Tensor,
        skips: list[Streams],
        own: Streams | None = None,
    ) -> Streams:
        """Normalised deepest tokens -> tokens (B, D, H, W, E) of the first grid."""
        levels = len(self.decoder)
        mri, pet = self.decoder[0](*self.balanced((mri, pet), own, levels))
        joints = zip(self.expanding, self.skip_reduction, self.decoder[1:], strict=True)
        for place, (expanding, reduction, stage) in enumerate(joints, levels + 1):
            mri_skip, pet_skip = skips.pop()
            mri = reduction(expanding(mri), mri_skip)
            pet = reduction(expanding(pet), pet_skip)
            mri, pet = stage(*self.balanced((mri, pet), own, place))
        return mri, pet

    def _check(self, mri: torch.Tensor, pet: torch.Tensor) -> None:
        if mri.shape != pet.shape or mri.ndim != 5 or mri.shape[1] != 1:
            raise ValueError(
                "DC2Fusion takes MRI and PET of one shape (B, 1, D, H, W), "
                f"received {tuple(mri.shape)} and {tuple(pet.shape)}"
            )
        deepest = deepest_token(len(self.encoder))
        if self.training and mri.shape[0] == 1 and max(mri.shape[2:]) <= deepest:
            raise ValueError(
                f"a training volume of {tuple(mri.shape[2:])} voxels leaves one token on the "
                "deepest grid, and BatchNorm needs two: "
                f"use a side above {deepest} voxels or a larger batch"
            )


def check_options(embed_dim: int, depths: Sequence[int], init: str, head: str) -> None:
    """Refuse sizes, an initialisation and a head that no network can have.

    Raises:
        ValueError: naming what was received.
    """
    if embed_dim < 24 or embed_dim % 24:
        raise ValueError(f"embed_dim must be a positive multiple of 24, received {embed_dim}")
    if not 1 <= len(depths) <= len(HEADS) or min(depths) < 1:
        raise ValueError(
            f"depths must be one to {len(HEADS)} positive numbers of blocks, "
            f"received {tuple(depths)}"
        )
    if init not in INITIALISATIONS:
        known = ", ".join(INITIALISATIONS)
        raise ValueError(f"unknown initialisation {init!r}, choose from {known}")
    if head not in HEAD_FORMS:
        raise ValueError(f"unknown head {head!r}, choose from {', '.join(HEAD_FORMS)}")


def deepest_token(levels: int) -> int:
    """Voxels a side of a token of the deepest grid: 32 with four levels."""
    return PATCH * 2 ** (levels - 1)


def pad_volume(volume: torch.Tensor) -> torch.Tensor:
    """Zero-pad (B, 1, D, H, W) at the end of each axis to a multiple of the patch."""
    d, h, w = (-side % PATCH for side in volume.shape[2:])
    return F.pad(volume, (0, w, 0, h, 0, d))
