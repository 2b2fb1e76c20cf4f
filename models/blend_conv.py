"""The 7x7x7 grouped convolution of the cross feature blend, fast and plain.

Group i reads two channels and writes one, so the operation is the sum of two depthwise convolutions. As
`conv3d(groups=C)` it takes about four fifths of the network's time on a CPU, because no library has a
fast path for two input channels a group; depthwise convolutions have one.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.depthwise import depthwise_conv3d

PATHS = ("fast", "plain")


class BlendConv(nn.Module):
    """Grouped Conv3d, 2C -> C channels, C groups, kernel 7, padding 3, with bias.

    Args:
        width: C, the channels of each stream.
        concatenated_groups: [R2], see `models.variants`.
        path: "fast" (two depthwise convolutions) or "plain" (`conv3d(groups=C)`, the oracle). Both have
            the same parameters and agree to float32 rounding, forward and backward.
    """

    def __init__(self, width: int, concatenated_groups: bool = False, path: str = "fast") -> None:
        super().__init__()
        if path not in PATHS:
            raise ValueError(f"unknown path {path!r} of the blend convolution, choose from {PATHS}")
        self.path = path
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
        blend = grouped_conv if self.path == "plain" else depthwise_pair
        return blend(first, second, self.weight, self.bias)

    def group_inputs(self, x: torch.Tensor, partner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first and the second channel of every group, (B, C, D, H, W) each."""
        if not self.concatenated_groups:
            return x, partner
        both = torch.cat((x, partner), dim=1)
        return both[:, 0::2], both[:, 1::2]


def grouped_conv(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The oracle: one `conv3d` with C groups over the interleaved channels.

    Args:
        first: (B, C, D, H, W), channel i is the first input of group i.
        second: the same for the second input.
        weight: (C, 2, 7, 7, 7).
        bias: (C,).
    """
    interleaved = torch.stack((first, second), dim=2).flatten(1, 2)
    return F.conv3d(interleaved, weight, bias, padding=3, groups=weight.shape[0])


def depthwise_pair(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The fast path: the sum of two depthwise convolutions. Arguments as for `grouped_conv`."""
    blended = depthwise_conv3d(first, weight[:, :1], bias)
    return blended + depthwise_conv3d(second, weight[:, 1:])
