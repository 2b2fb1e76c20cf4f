"""U2Fusion: one densely connected network on the stacked pair.

Xu, Ma, Jiang, Guo, Ling: U2Fusion: A Unified Unsupervised Image Fusion Network, IEEE Transactions
on Pattern Analysis and Machine Intelligence 44(1), 502-518, 2022. Parameter names follow the
variables of the published TensorFlow checkpoint: `Generator/encoder/conv1_1/kernel` is
`encoder.conv1_1.weight`.
"""

import torch
from torch import nn
from torch.nn import functional as F

GROWTH = 44
DENSE_LAYERS = 5
CODE = GROWTH * (DENSE_LAYERS + 1)
PET_RANGES = ("full", "studio")


def _edged(maps: torch.Tensor) -> torch.Tensor:
    """One pixel more on every side, by reflection: for the convolutions, 3x3 and valid all."""
    return F.pad(maps, (1, 1, 1, 1), mode="reflect")


class Encoder(nn.Module):
    """Each layer sees the outputs of all layers before it, the newest first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1_1 = nn.Conv2d(2, GROWTH, 3)
        for i in range(1, DENSE_LAYERS + 1):
            self.add_module(f"dense_block_conv{i}", nn.Conv2d(i * GROWTH, GROWTH, 3))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """(N, 2, H, W) -> the code of 264 channels, edged: (N, 264, H + 2, W + 2)."""
        first, *dense = self.children()
        code = _edged(F.leaky_relu(first(_edged(pair)), 0.2))
        for conv in dense:
            code = torch.cat([_edged(F.leaky_relu(conv(code), 0.2)), code], dim=1)
        return code


class Decoder(nn.Module):
    """From the code to one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2_1 = nn.Conv2d(CODE, 128, 3)
        self.conv2_2 = nn.Conv2d(128, 64, 3)
        self.conv2_3 = nn.Conv2d(64, 32, 3)
        self.conv2_4 = nn.Conv2d(32, 1, 3)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """(N, 264, H + 2, W + 2) -> (N, 1, H, W) in (0, 1)."""
        for conv in (self.conv2_1, self.conv2_2, self.conv2_3):
            code = _edged(F.leaky_relu(conv(code), 0.2))
        return self.conv2_4(code).tanh() / 2 + 0.5


class U2Fusion(nn.Module):
    """The network on pictures; PET and MRI may not be exchanged, PET is the first channel.

    The published script fuses the luma of a colour input and puts the chroma back afterwards. PET
    volumes are scalar, so they go in as they are. The black of both inputs does not give black: an
    empty pair becomes about 0.068 with the published weights.

    Args:
        pet_range: "full" takes the PET as it is; "studio" maps it to (16 + 219 pet) / 255 first,
            which is how the authors' own medical test pictures are stored.

    Raises:
        ValueError: for another `pet_range`.
    """

    multiple = 1
    one_slice = False
    published_stretch = "maximum"
    UNUSED = ()
    # Parts of the network by the variable scope that holds them in the published checkpoint.
    tensorflow_scopes = {"encoder": "Generator/encoder", "decoder": "Generator_1/decoder"}

    def __init__(self, pet_range: str = "full") -> None:
        super().__init__()
        if pet_range not in PET_RANGES:
            raise ValueError(
                f"unknown pet_range {pet_range!r}, choose from {', '.join(PET_RANGES)}"
            )
        self.pet_range = pet_range
        self.encoder = Encoder()
        self.decoder = Decoder()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(
                    module.weight, std=0.05, a=-0.1, b=0.1
                )  # TensorFlow cuts at 2 deviations
                nn.init.zeros_(module.bias)

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """Fuse pictures.

        Args:
            mri: (N, 1, H, W) in [0, 1], sides of at least 2.
            pet: same.

        Returns:
            (N, 1, H, W) in (0, 1).
        """
        return self.decoder(self.encoder(self._pair(mri, pet)))

    def encode(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """The code between encoder and decoder, (N, 264, H, W)."""
        return self.encoder(self._pair(mri, pet))[..., 1:-1, 1:-1]

    def _pair(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        if self.pet_range == "studio":
            pet = (16 + 219 * pet) / 255
        # Channels last is what PyTorch's CPU convolutions are fastest with here, by a sixth.
        return torch.cat([pet, mri], dim=1).contiguous(memory_format=torch.channels_last)
