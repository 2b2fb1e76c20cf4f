"""MATR: one network on the stacked pair, context-gated convolutions and small transformers.

Tang et al., "MATR: Multimodal Medical Image Fusion via Multiscale Adaptive Transformer", IEEE
Transactions on Image Processing 31, 5134-5149, 2022, doi 10.1109/TIP.2022.3193288. Parameter names
are those of the authors' released state dict (`model_10.pth`), so that it loads as it is.

The network sees grey pictures only. The authors reduce colour PET or SPECT to its luma (Pillow mode
"L") and put the chroma back afterwards.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.baselines.mlp import Mlp

WIDTH = 16  # channels of every map, and length of a token
CONTEXT = 5  # values that describe one channel's context, out of its 3x3 averages
TAPS = 9
BLOCKS = 3
TOKENS = ("released", "channels")
# Tokens at a time: a batch in one piece leaves the caches and takes 2.4 times as long.
CPU_PIECE = 2**14


class AdaptiveConv2d(nn.Conv2d):
    """A 3x3 convolution whose kernel is gated, sample by sample, by the picture's coarse content.

    The 3x3 averages of each input channel give one gate per input channel and, mixed over the
    channels, one per output channel; the sigmoid of their sum multiplies the static kernel.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, WIDTH, kernel_size=3, padding=1, bias=False)
        self.ce = nn.Linear(TAPS, CONTEXT, bias=False)
        self.ce_bn = nn.BatchNorm1d(in_channels)
        self.ci_bn2 = nn.BatchNorm1d(in_channels)
        self.ci = nn.Linear(in_channels, WIDTH, bias=False)
        self.ci_bn = nn.BatchNorm1d(WIDTH)
        self.gd = nn.Linear(CONTEXT, TAPS, bias=False)
        self.gd2 = nn.Linear(CONTEXT, TAPS, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 16, H, W)."""
        batch, channels, height, width = x.shape
        kernels = self._gates(x) * self.weight  # B, 16, C, 3, 3
        # Every sample has its own kernels: the batch goes into the channels, one group per sample.
        stacked = x.reshape(1, batch * channels, height, width)
        out = F.conv2d(stacked, kernels.flatten(0, 1), padding=1, groups=batch)
        return out.view(batch, WIDTH, height, width)

    def _gates(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> gates in (0, 1), (B, 16, C, 3, 3)."""
        context = self.ce(F.adaptive_avg_pool2d(x, 3).flatten(2))  # B, C, 5
        per_input = self.gd(F.relu(self.ce_bn(context)))  # B, C, 9
        mixed = self.ci(F.relu(self.ci_bn2(context)).mT).mT  # B, 16, 5
        per_output = self.gd2(F.relu(self.ci_bn(mixed)))  # B, 16, 9
        return torch.sigmoid(per_input.unsqueeze(1) + per_output.unsqueeze(2)).unflatten(-1, (3, 3))


class AdaptiveBlock(nn.Module):
    """Adaptive convolution to 16 channels, BatchNorm, ReLU."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = AdaptiveConv2d(in_channels)
        self.bn1 = nn.BatchNorm2d(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, 16, H, W)."""
        return F.relu(self.bn1(self.conv1(x)))


class LoneTokenAttention(nn.Module):
    """Self-attention in windows of one token: the softmax is 1, value and output projection remain.

    `qkv` has the published shape. Its first 32 rows, query and key, have no effect and receive no
    gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., 16) -> (..., 16)."""
        value = F.linear(tokens, self.qkv.weight[2 * WIDTH :], self.qkv.bias[2 * WIDTH :])
        return self.proj(value)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each added to the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = LoneTokenAttention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = Mlp(WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., 16) -> (..., 16)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class TransformerLayer(nn.Module):
    """Three transformer blocks on the tokens of a map.

    Args:
        tokens: see `MATR`.
    """

    def __init__(self, tokens: str) -> None:
        super().__init__()
        self.tokens = tokens
        self.blocks = nn.Sequential(*(TransformerBlock() for _ in range(BLOCKS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 16, H, W) -> (B, 16, H, W)."""
        arranged = x.movedim(1, -1) if self.tokens == "channels" else x
        tokens = arranged.reshape(-1, WIDTH)
        pieces = tokens.split(CPU_PIECE) if tokens.is_cpu else (tokens,)
        out = torch.cat([self.blocks(piece) for piece in pieces]).view(arranged.shape)
        return out.movedim(-1, 1) if self.tokens == "channels" else out


class OutputConvolution(nn.Module):
    """1x1 convolution 16 -> 1 without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, 1, kernel_size=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 16, H, W) -> (B, 1, H, W)."""
        return self.conv1(x)


class MATR(nn.Module):
    """The MATR network on slices of any size.

    Args:
        tokens: what the transformers take as a token. "released": 16 consecutive values of the
            flattened map, normally 16 horizontal neighbours of one channel, because the authors'
            code reinterprets the memory instead of moving axes; their weights need it. The result
            then depends on the picture's width and orientation. "channels": the 16 channels of one
            pixel.

    In training the authors compute the shared convolution nine times where six suffice; that moves
    its running averages faster and changes no output.

    Raises:
        ValueError: for an unknown `tokens`.
    """

    multiple = 1
    one_slice = False
    padding = 0.0
    UNUSED = ("patch_embed.norm.*", "basicLayer.blocks.*.attn.relative_position_*")

    def __init__(self, tokens: str = "released") -> None:
        super().__init__()
        if tokens not in TOKENS:
            raise ValueError(f"unknown tokens {tokens!r}, choose from {', '.join(TOKENS)}")
        self.convInput = AdaptiveBlock(2)
        self.conv = AdaptiveBlock(WIDTH)
        self.convolutional_out = OutputConvolution()
        self.basicLayer = TransformerLayer(tokens)

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """Fuse slices (N, 1, H, W) in [0, 1].

        Returns:
            The fused slices (N, 1, H, W) as the network gives them, tanh, in (-1, 1): a picture in
            [0, 1] with few values slightly below 0.
        """
        x = self.convInput(torch.cat((pet, mri), dim=1))  # the order matters: PET is channel 0
        total = 0
        for _ in range(3):
            x = self.conv(x)
            total = total + self.conv(self.basicLayer(x))
        return torch.tanh(self.convolutional_out(total))
