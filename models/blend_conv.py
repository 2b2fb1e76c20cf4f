"""The 7x7x7 grouped convolution of the cross feature blend, where most of the network's time goes."""

import torch
from torch import nn

from models.depthwise import blend_conv3d
from models.paths import check_path


class BlendConv(nn.Module):
    """Grouped Conv3d, 2C -> C channels, C groups, kernel 7, padding 3, with bias.

    Args:
        width: C, the channels of each stream.
        concatenated_groups: [R2], see `models.variants`.
        path: "fast" or "plain", see `models.paths`. Both have the same parameters.
    """

    def __init__(self, width: int, concatenated_groups: bool = False, path: str = "fast") -> None:
        super().__init__()
        self.path = check_path(path)
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
        return blend_conv3d(first, second, self.weight, self.bias, self.path)

    def group_inputs(self, x: torch.Tensor, partner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first and the second channel of every group, (B, C, D, H, W) each."""
        if not self.concatenated_groups:
            return x, partner
        both = torch.cat((x, partner), dim=1)
        return both[:, 0::2], both[:, 1::2]
