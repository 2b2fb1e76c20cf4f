"""SwinFuse: a Swin transformer encoder for both pictures, a rule without weights, a 1x1 decoder.

Wang, Chen, Shao, Li, Zhang: SwinFuse: A Residual Swin Transformer Fusion Network for Infrared and
Visible Images, IEEE Transactions on Instrumentation and Measurement, 2022 (arXiv 2204.11436).
Parameter names are those of the published state dict.

Windows of 7x7 pixels never see each other in the released network, and outside attention every step
acts on single pixels. So a picture is cut into windows once and stays cut until it is fused: tokens
are (N, W, T, C) with N pictures, W windows in row-major order, T = 49 pixels of a window in
row-major order, C = 96 features.

Where the released code departs from the evident intention:
    blocks_per_stage   a stage returns after the first of its six blocks. Published weights need it;
                       6 runs all
                       blocks, of which every second looks through windows shifted by 3 pixels.
    tiles              pictures are cut into tiles of 224x224, padded with mid-grey, and channel
                       activities are
                       averaged over each tile, padding included. "native" takes the picture as a
                       whole.
    the fused features are the sum, not the mean, of two weighted averages: twice the amplitude that
        the decoder
    was trained on. Kept, since it makes the published contrast.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.baselines.mlp import Mlp
from models.drop_path import DropPath

WIDTH = 96
WINDOW = 7
SHIFT = 3
TILE = 224
HEADS = (1, 2, 4)
DECLARED_BLOCKS = 6
DROP_PATH = 0.2

# Windows that go through the encoder together where they are independent. On a CPU the widest
# tensor, of 4 C a token, then stays in the cache, which halves the time; on a GPU it takes 300 MB.
CPU_PIECE = 128
GPU_PIECE = 4096

RULES = ("l1_mean", "l2_mean", "linf")
TILES = ("native", "released")


def to_windows(pictures: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) with sides that are multiples of 7 -> tokens (N, windows, 49, C)."""
    n, c, h, w = pictures.shape
    cut = pictures.view(n, c, h // WINDOW, WINDOW, w // WINDOW, WINDOW)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, WINDOW * WINDOW, c)


def from_windows(tokens: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """The inverse of `to_windows`: (N, windows, 49, C) -> (N, C, H, W)."""
    n, _, _, c = tokens.shape
    cut = tokens.view(n, h // WINDOW, w // WINDOW, WINDOW, WINDOW, c)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


class PatchEmbed(nn.Module):
    """Every pixel becomes a token: (..., 1) -> (..., C)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, WIDTH, 1)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., 1) in [-1, 1] -> (..., C)."""
        return self.norm(F.linear(pixels, self.proj.weight.view(WIDTH, 1), self.proj.bias))


class WindowAttention(nn.Module):
    """Self-attention among the pixels of one window, with a learned bias by relative position."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        r, c = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
        rows, columns = (p.flatten()[:, None] - p.flatten()[None, :] + WINDOW - 1 for p in (r, c))
        index = rows * (2 * WINDOW - 1) + columns  # query, key
        self.register_buffer("relative_position_index", index, persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, W, T, C) -> same; `mask` (W, T, T) is added to the scores of each window."""
        n, w, t, c = tokens.shape
        q, k, v = (
            self.qkv(tokens).view(n * w, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )  # N W, heads, T, d
        bias = self.relative_position_bias_table[self.relative_position_index].permute(
            2, 0, 1
        )  # heads, T, T
        if mask is None:
            bias = bias.expand(n * w, -1, -1, -1)
        else:
            bias = (bias + mask.unsqueeze(1)).repeat(n, 1, 1, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(n, w, t, c))


class Block(nn.Module):
    """A Swin transformer block on windows as they are cut, (N, W, T, C) -> same.

    Args:
        heads: attention heads.
        drop_path: in training, the chance that a picture skips a branch of the block.
    """

    def __init__(self, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = WindowAttention(heads)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = Mlp(WIDTH)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, W, T, C) -> same; `mask` as in `WindowAttention`."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), mask))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class Stage(nn.Module):
    """The blocks of one stage; each second one sees windows shifted right and down by 3 pixels.

    Args:
        heads: attention heads.
        drop_paths: of the blocks that run, in order.
    """

    def __init__(self, heads: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(heads, drop_path) for drop_path in drop_paths)

    def forward(self, tokens: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """(N, W, T, C) of pictures of h x w -> same."""
        several_windows = min(h, w) > WINDOW  # a single window is never shifted
        mask = shift_mask(h, w, tokens) if len(self.blocks) > 1 and several_windows else None
        for i, block in enumerate(self.blocks):
            if i % 2 and several_windows:
                # Outside attention a block acts on single pixels, so the whole block can run on
                # rolled pictures.
                tokens = _rolled(block(_rolled(tokens, h, w, -SHIFT), mask), h, w, SHIFT)
            else:
                tokens = block(tokens)
        return tokens


def shift_mask(h: int, w: int, like: torch.Tensor) -> torch.Tensor:
    """(W, T, T): -100 for pixels that only rolling brought into one window, 0 for the others."""

    def labels(side: int) -> torch.Tensor:
        places = torch.arange(side, device=like.device)
        return (places >= side - WINDOW).int() + (places >= side - SHIFT).int()

    regions = 3 * labels(h)[:, None] + labels(w)[None, :]
    regions = to_windows(regions[None, None]).squeeze(-1).squeeze(0)  # W, T
    return (regions[:, :, None] != regions[:, None, :]).to(like.dtype) * -100


def _rolled(tokens: torch.Tensor, h: int, w: int, by: int) -> torch.Tensor:
    return to_windows(from_windows(tokens, h, w).roll((by, by), dims=(-2, -1)))


class SwinFuse(nn.Module):
    """The network on pictures; symmetric in its two inputs.

    Input: [0, 1], mapped to [-1, 1] inside. Output: tanh mapped to [0, 1]. Colour: the authors read
    every file as grey (Pillow mode "L", full-range luma) and never restore colour.

    Args:
        blocks_per_stage: 1 as released, 6 as evidently meant; see the module's docstring.
        rule: activity that weighs the features: "l1_mean" (released), "l2_mean" or "linf".
        tiles: "native", or "released" for the published test procedure on tiles of 224x224.

    Raises:
        ValueError: for an option that is none of these.
    """

    multiple = 1
    one_slice = False
    published_stretch = "min-max"
    # Of the published names, those that the published forward never reads, or that follow from
    # others.
    UNUSED = (
        "*.attn_mask",
        "*.relative_position_index",
        "norm_up.*",
        "prelu.weight",
        "EN?_0.blocks.[1-5].*",
    )

    def __init__(
        self, blocks_per_stage: int = 1, rule: str = "l1_mean", tiles: str = "native"
    ) -> None:
        super().__init__()
        if blocks_per_stage not in (1, DECLARED_BLOCKS):
            raise ValueError(
                f"blocks_per_stage is 1 (released) or {DECLARED_BLOCKS}, "
                f"received {blocks_per_stage}"
            )
        if rule not in RULES:
            raise ValueError(f"unknown fusion rule {rule!r}, choose from {', '.join(RULES)}")
        if tiles not in TILES:
            raise ValueError(f"unknown tiles {tiles!r}, choose from {', '.join(TILES)}")
        self.rule = rule
        self.tiles = tiles
        ramp = torch.linspace(0, DROP_PATH, len(HEADS) * DECLARED_BLOCKS).view(len(HEADS), -1)
        stages = [
            Stage(heads, rates[:blocks_per_stage].tolist())
            for heads, rates in zip(HEADS, ramp, strict=True)
        ]
        self.patch_embed = PatchEmbed()
        self.EN1_0, self.EN2_0, self.EN3_0 = stages
        self.norm = nn.LayerNorm(WIDTH)
        self.conv = nn.Conv2d(WIDTH, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """Fuse pictures.

        Args:
            mri: (N, 1, H, W) in [0, 1], any size.
            pet: same.

        Returns:
            (N, 1, H, W) in (0, 1).
        """
        h, w = mri.shape[-2:]
        if self.tiles == "native":
            return self._fuse_pictures(mri, pet)
        n, _, down, across = _padded(mri, TILE).shape
        fused = self._fuse_pictures(*(_cut(_padded(pictures, TILE)) for pictures in (mri, pet)))
        fused = fused.view(n, down // TILE, across // TILE, TILE, TILE).transpose(2, 3)
        return fused.reshape(n, 1, down, across)[..., :h, :w]

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        """The auto-encoder that is trained: encoder and decoder without a fusion.

        Args:
            image: (N, 1, H, W) in [0, 1], any size.

        Returns:
            (N, 1, H, W) in (-1, 1), the scale of the published loss: its target is 2 image - 1.
        """
        h, w = image.shape[-2:]
        padded = _padded(image, WINDOW)
        tokens = self.encode(padded)
        return from_windows(self.decode(tokens), *padded.shape[-2:])[..., :h, :w]

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) in [0, 1], sides multiples of 7 -> features as tokens (N, W, T, C)."""
        h, w = image.shape[-2:]
        windows = to_windows(2 * image - 1)
        if self.training or torch.is_grad_enabled():
            return self._encode_windows(windows, h, w)
        if len(self.EN1_0.blocks) > 1:
            return torch.cat([self._encode_windows(picture, h, w) for picture in windows.split(1)])
        return self._encode_lone_windows(windows, h, w)

    def fuse(self, f1: torch.Tensor, f2: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Weigh the features by activity: channels over the picture, plus pixels over the channels.

        Args:
            f1: (N, W, T, C), f2: same.
            inside: (W, T), True for pixels of the picture, False for padding, which no channel
                activity counts.

        Returns:
            (N, W, T, C), about twice the amplitude of the inputs.
        """
        (channels1, pixels1), (channels2, pixels2) = (
            activities(f, inside, self.rule) for f in (f1, f2)
        )
        c1, c2 = _weights(channels1, channels2)
        p1, p2 = _weights(pixels1, pixels2)
        return (c1 + p1) * f1 + (c2 + p2) * f2

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, W, T, C) -> (N, W, T, 1) in (-1, 1)."""
        return F.linear(tokens, self.conv.weight.view(1, WIDTH), self.conv.bias).tanh()

    def _encode_windows(self, windows: torch.Tensor, h: int, w: int) -> torch.Tensor:
        tokens = self.patch_embed(windows)
        for stage in (self.EN1_0, self.EN2_0, self.EN3_0):
            tokens = tokens + stage(tokens, h, w)
        return self.norm(tokens)

    def _encode_lone_windows(self, windows: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """`_encode_windows` where only single windows matter: in pieces, of equal ones only one.

        About half of a slice of a head is black.
        """
        distinct, place = windows.flatten(0, 1).unique(dim=0, return_inverse=True)
        pieces = distinct.split(CPU_PIECE if windows.is_cpu else GPU_PIECE)
        tokens = torch.cat(
            [self._encode_windows(piece.unsqueeze(0), h, w) for piece in pieces], dim=1
        )
        return tokens[0, place].view(*windows.shape[:3], WIDTH)

    def _fuse_pictures(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        h, w = mri.shape[-2:]
        mri, pet = (_padded(pictures, WINDOW) for pictures in (mri, pet))
        padded = mri.shape[-2:]
        inside = torch.zeros(1, 1, *padded, dtype=torch.bool, device=mri.device)
        inside[..., :h, :w] = True
        tokens = self.fuse(
            self.encode(pet), self.encode(mri), to_windows(inside).view(-1, WINDOW**2)
        )
        return from_windows(self.decode(tokens) / 2 + 0.5, *padded)[..., :h, :w]


def activities(
    f: torch.Tensor, inside: torch.Tensor, rule: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """How active channels and pixels are.

    l1_mean: the mean of |f|. l2_mean: the Euclidean norm divided by the number of values, not by
        its root.
    linf: the signed maximum; over channels divided by their number.

    Args:
        f: (N, W, T, C).
        inside: (W, T), the pixels that count for the channels.
        rule: one of `RULES`.

    Returns:
        Of the channels (N, 1, 1, C), of the pixels (N, W, T, 1).
    """
    if rule == "linf":
        channels = f.masked_fill(~inside.unsqueeze(-1), -torch.inf).amax(dim=(1, 2), keepdim=True)
        return channels, f.amax(dim=-1, keepdim=True) / WIDTH
    values = f.abs() if rule == "l1_mean" else f.square()
    channels = torch.matmul(inside.flatten().to(f.dtype), values.flatten(1, 2))[:, None, None]
    pixels = values.sum(dim=-1, keepdim=True)
    if rule == "l2_mean":
        channels, pixels = channels.sqrt(), pixels.sqrt()
    return channels / inside.sum(), pixels / WIDTH


def _weights(u1: torch.Tensor, u2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    e1, e2 = u1.exp(), u2.exp()
    total = e1 + e2 + 1e-5
    return e1 / total, e2 / total


def _padded(pictures: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pads right and down with mid-grey, which is 0 for the network."""
    h, w = pictures.shape[-2:]
    down, right = -h % multiple, -w % multiple
    return F.pad(pictures, (0, right, 0, down), value=0.5) if down or right else pictures


def _cut(pictures: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) -> (N tiles, 1, 224, 224), tiles in row-major order."""
    n, _, h, w = pictures.shape
    return (
        pictures.view(n, h // TILE, TILE, w // TILE, TILE)
        .transpose(2, 3)
        .reshape(-1, 1, TILE, TILE)
    )
