"""The deformable cross feature blend (DCFB) block, the heart of DC2Fusion.

Liu et al., ICONIP 2023, arXiv 2310.06291, section 2.

A block updates one stream, x, by looking at its partner, y, in three steps:
    PositionalRelationship   where to look: an offset field of at most one token, y sampled there
                             gives y'
    CrossFeatureBlend        what to take: a convolution branch and an attention branch that gate
                             each other
    the MLP                  as in any transformer block

Shapes: tokens are channels last, (B, D, H, W, C); convolutions read the same memory through a
permuted view (B, C, D, H, W), which is PyTorch's channels-last format. 1x1x1 convolutions are
Linear layers here. [R1] .. [R9] mark the places where the paper and the released code differ, see
`models.variants`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from models.drop_path import DropPath
from models.ops.attention import window_attention
from models.ops.depthwise import blend_conv3d, depthwise_conv3d
from models.ops.layout import channels_first, channels_last
from models.ops.norm_gelu import gelu_linear, norm_gelu_linear
from models.ops.sampling import sample_partner
from models.variants import Variant

WINDOW = 2


def pad_tokens(tokens: torch.Tensor, multiples: tuple[int, int, int]) -> torch.Tensor:
    """Zero-pad (B, D, H, W, C) at the end of each axis to a multiple of so many tokens."""
    sides = zip(tokens.shape[1:4], multiples, strict=True)
    d, h, w = (-side % multiple for side, multiple in sides)
    return F.pad(tokens, (0, 0, 0, w, 0, h, 0, d)) if d or h or w else tokens


class PositionalRelationship(nn.Module):
    """Positional relationship estimation: the partner sampled where an offset field points.

    Args:
        width: C.
        variant: steers [R1] and [R8].
    """

    def __init__(self, width: int, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.embed = nn.Linear(2 * width, 2 * width)
        self.depthwise = nn.Conv3d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.to_offset = nn.Linear(2 * width, 3, bias=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Sample the partner.

        Args:
            x: (B, D, H, W, C), the normalised stream.
            y: (B, D, H, W, C), the partner as it is.

        Returns:
            y', (B, D, H, W, C).
        """
        offsets = self.offset_field(x, y)
        sampled = sample_partner(y, offsets, self.variant.aligned_corners)  # [R1]
        if self.variant.scrambled_partner:  # [R8]
            return channels_first(sampled).contiguous().view(y.shape)
        return sampled

    def offset_field(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, 3): offsets along depth, height, width in normalised coordinates.

        The grid spans [-1, 1] on each axis, so a token is 2 / side wide and no offset exceeds one
        token.
        """
        z = self.embed(torch.cat((x, y), dim=-1))  # B, D, H, W, 2C
        z = depthwise_conv3d(channels_first(z), self.depthwise.weight, self.depthwise.bias)
        raw = norm_gelu_linear(channels_last(z), self.norm, self.to_offset)  # B, D, H, W, 3
        # Positions in bf16 would be off by a tenth of a token on a grid of 32.
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        # Filled where they are: a copy to a GPU would be waited for, and no CUDA graph takes one.
        sides = torch.stack([raw.new_full((), side) for side in raw.shape[1:4]])
        return 2 * torch.tanh(raw) / sides


class Gate(nn.Module):
    """Bottleneck C -> C//8 -> outputs that ends in logits: Linear, LayerNorm, GELU, Linear."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(width, width // 8)
        self.norm = nn.LayerNorm(width // 8)
        self.expand = nn.Linear(width // 8, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., outputs) logits; the caller applies the sigmoid."""
        return norm_gelu_linear(self.reduce(features), self.norm, self.expand)


class WindowCrossAttention(nn.Module):
    """Multi-head attention from windows of x to the same windows of y', without relative positions.

    Args:
        width: C.
        heads: h, must divide C.
        variant: steers [R4] and [R9].
    """

    def __init__(self, width: int, heads: int, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(
        self, x: torch.Tensor, partner: torch.Tensor, channel_gate: torch.Tensor, window: tuple
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: (B, D, H, W, C), the normalised stream; D, H, W multiples of the window.
            partner: (B, D, H, W, C), y'.
            channel_gate: (B, C) in (0, 1), multiplies the values: channel i of head j is j C/h + i.
            window: tokens a window along D, H, W.

        Returns:
            (B, D, H, W, C).
        """
        query, key = self.query(x), self.key(partner)
        value = self.value(x if self.variant.own_values else partner)  # [R9]
        linear = self.variant.linear_attention  # [R4]
        return window_attention(query, key, value, channel_gate, self.heads, window, linear)


class BlendConv(nn.Module):
    """Grouped Conv3d, 2C -> C channels, C groups, kernel 7, padding 3, with bias.

    Args:
        width: C, the channels of each stream.
        concatenated_groups: [R2], see `models.variants`.
    """

    def __init__(self, width: int, concatenated_groups: bool = False) -> None:
        super().__init__()
        self.concatenated_groups = concatenated_groups
        # A Conv3d holds the parameters, so that they start as PyTorch's own would.
        grouped = nn.Conv3d(2 * width, width, kernel_size=7, padding=3, groups=width)
        self.weight, self.bias = grouped.weight, grouped.bias

    def forward(self, x: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        """Blend a stream with its sampled partner.

        Args:
            x: (B, C, D, H, W) features of the stream.
            partner: same shape, the partner's features sampled at the offset positions.

        Returns:
            (B, C, D, H, W).
        """
        first, second = self.group_inputs(x, partner)
        return blend_conv3d(first, second, self.weight, self.bias)

    def group_inputs(
        self, x: torch.Tensor, partner: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first and the second channel of every group, (B, C, D, H, W) each."""
        if not self.concatenated_groups:
            return x, partner
        both = torch.cat((x, partner), dim=1)
        return both[:, 0::2], both[:, 1::2]


class CrossFeatureBlend(nn.Module):
    """Cross feature blend: a convolution and an attention branch that gate each other.

    Args:
        width: C.
        heads: attention heads.
        variant: steers [R2], [R3], [R4] and [R9].
    """

    def __init__(self, width: int, heads: int, variant: Variant) -> None:
        super().__init__()
        self.blend_conv = BlendConv(width, variant.concatenated_groups)  # [R2]
        eps = float(width) if variant.width_as_bn_eps else 1e-5  # [R3]
        self.blend_norm = nn.BatchNorm3d(width, eps=eps)
        self.blend_activation = nn.GELU()
        self.channel_gate = Gate(width, width)
        self.conv_projection = nn.Linear(width, width)
        self.attention = WindowCrossAttention(width, heads, variant)
        self.spatial_gate = Gate(width, 1)
        self.merge = nn.Linear(2 * width, width)

    def forward(
        self, x: torch.Tensor, partner: torch.Tensor, norm: nn.LayerNorm, window: tuple
    ) -> torch.Tensor:
        """Blend the stream with its sampled partner.

        Args:
            x: (B, D, H, W, C), the normalised stream.
            partner: (B, D, H, W, C), y'.
            norm: the block's LayerNorm, shared with this place.
            window: tokens a window along D, H, W.

        Returns:
            (B, D, H, W, C).
        """
        conv = self.blend_conv(channels_first(x), channels_first(partner))
        conv = channels_last(self.blend_activation(self.blend_norm(conv)))  # B, D, H, W, C
        channel_gate = torch.sigmoid(self.channel_gate(conv.mean(dim=(1, 2, 3))))  # B, C
        attended = self.attention(x, partner, channel_gate, window)  # B, D, H, W, C
        spatial_gate = torch.sigmoid(self.spatial_gate(attended))  # B, D, H, W, 1
        conv = self.conv_projection(conv) * spatial_gate
        return self.merge(torch.cat((conv, norm(attended)), dim=-1))


class MLP(nn.Sequential):
    """Linear(C -> 4C), GELU, Linear(4C -> C)."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        expand, _, reduce = self
        return gelu_linear(expand(tokens), reduce)


class DCFBlock(nn.Module):
    """One DCFB block: updates a stream by looking at its partner.

    Args:
        width: C.
        heads: attention heads, must divide C.
        drop_path: stochastic depth rate in [0, 1), a mask per sample and call.
        variant: the reading of the method.
    """

    def __init__(self, width: int, heads: int, drop_path: float, variant: Variant) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)  # one norm, used in all three places of the block
        self.relationship = PositionalRelationship(width, variant)
        self.blend = CrossFeatureBlend(width, heads, variant)
        self.mlp = MLP(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, C) stream and partner -> the updated stream, same shape."""
        x = x + self.drop_path(self.look_at_partner(x, y))
        return x + self.drop_path(self.mlp(self.norm(x)))

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """For a call that is computed again: the running statistics have seen it already."""
        norm = self.blend.blend_norm
        momentum, count = norm.momentum, norm.num_batches_tracked
        norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            norm.momentum, norm.num_batches_tracked = momentum, count

    def look_at_partner(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """PRE and CFB on grids padded to whole windows, the padding cropped off again."""
        _, d, h, w, _ = x.shape
        window = tuple(min(WINDOW, side) for side in (d, h, w))
        x = pad_tokens(self.norm(x), window)
        y = pad_tokens(y, window)
        partner = self.relationship(x, y)
        return self.blend(x, partner, self.norm, window)[:, :d, :h, :w]
