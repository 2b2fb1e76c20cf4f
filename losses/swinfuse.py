"""What SwinFuse is trained with (Wang et al., IEEE TIM 2022): an auto-encoder's loss on single slices."""

import torch
from torch import nn
from torch.nn import functional as F

from losses.msssim import msssim
from losses.reconstruction import reconstruction

MSSSIM_WEIGHT = 1000  # of the run that the authors name as their model


class SwinFuseObjective(nn.Module):
    """(1/N) mean |out - x| + 1000 (1/N) (1 - MS-SSIM(out, x)) on a scale of [-1, 1]; the fusion rule has no part.

    The division by the batch size N on top of the means is in the released code. Different from it: slices keep the
    scale of their volume, as when fusing, where its loader stretched every picture to its own minimum and maximum.
    """

    def forward(self, method: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of reconstructing slices.

        Args:
            method: has `reconstruct(image)`, in (-1, 1), and `multiple`; rows and columns beyond are left out.
            image: (N, 1, H, W) in [0, 1].

        Returns:
            The scalar to minimise, and its unweighted terms, detached.
        """
        output, image = reconstruction(method, image)
        with torch.autocast(image.device.type, enabled=False):
            return swinfuse_loss(output.float(), 2 * image - 1)


def swinfuse_loss(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and its terms for (N, 1, H, W) in [-1, 1]."""
    pixel = F.l1_loss(output, target) / len(output)
    structure = (1 - msssim(output, target)) / len(output)
    return pixel + MSSSIM_WEIGHT * structure, {"l1": pixel.detach(), "msssim": structure.detach()}
