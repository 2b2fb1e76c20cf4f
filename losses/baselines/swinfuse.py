"""What SwinFuse is trained with (Wang et al., IEEE TIM 2022), and its five-scale SSIM.

It is an auto-encoder: its loss compares single slices with what it makes of them. The fusion rule
has no part in it.
"""

import torch
from torch import nn
from torch.nn import functional as F

from losses.baselines.reconstruction import reconstruction
from losses.baselines.ssim2d import guessed_range, slice_ssim
from losses.ssim import WINDOW

MSSSIM_WEIGHT = 1000  # of the run that the authors name as their model
# Wang, Simoncelli, Bovik, Asilomar 2003.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_SIDE = 2 ** (len(SCALE_WEIGHTS) - 1)  # that leaves a pixel on the coarsest scale


class SwinFuseObjective(nn.Module):
    """(1/N) mean |out - x| + 1000 (1/N) (1 - MS-SSIM(out, x)) on a scale of [-1, 1].

    The division by the batch size N on top of the means is in the released code. Different from it:
    slices keep the scale of their volume, as when fusing, where its loader stretched every picture
    to its own minimum and maximum.
    """

    def forward(
        self, method: nn.Module, image: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of reconstructing slices.

        Args:
            method: has `reconstruct(image)`, in (-1, 1), and `multiple`; rows and columns beyond
                are left out.
            image: (N, 1, H, W) in [0, 1].

        Returns:
            The scalar to minimise, and its unweighted terms, detached.
        """
        output, image = reconstruction(method, image)
        with torch.autocast(image.device.type, enabled=False):
            return swinfuse_loss(output.float(), 2 * image - 1)


def swinfuse_loss(
    output: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and its terms for (N, 1, H, W) in [-1, 1]."""
    pixel = F.l1_loss(output, target) / len(output)
    structure = (1 - msssim(output, target)) / len(output)
    terms = {"l1": pixel.detach(), "msssim": structure.detach()}
    return pixel + MSSSIM_WEIGHT * structure, terms


def msssim(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Five-scale SSIM with each scale's values v taken as (v + 1) / 2.

    1 for identical slices, higher is better.

    Args:
        output: (N, 1, H, W), of the network; the data range is guessed from it at each scale.
        target: same shape and scale.

    Returns:
        A scalar, of means over the batch.

    Raises:
        ValueError: if a side is shorter than 16 pixels.
    """
    ssim, contrast = msssim_scales(output, target)
    return combine_scales((ssim + 1) / 2, (contrast + 1) / 2)


def msssim_scales(output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean SSIM and mean contrast-structure at each scale, (5,) each.

    Each scale is the one before in means of 2 x 2. The window shrinks to the slice where a scale is
    smaller than 11 pixels.
    """
    if min(output.shape[-2:]) < SMALLEST_SIDE:
        shape = tuple(output.shape[-2:])
        raise ValueError(
            f"five scales need every side of at least {SMALLEST_SIDE} pixels, received {shape}"
        )
    ssims, contrasts = [], []
    for scale in range(len(SCALE_WEIGHTS)):
        if scale:
            output = F.avg_pool2d(output, 2)  # N, 1, H / 2, W / 2
            target = F.avg_pool2d(target, 2)
        window = min(WINDOW, *output.shape[-2:])
        ssim, contrast = slice_ssim(output, target, guessed_range(output), window)
        ssims.append(ssim.mean())
        contrasts.append(contrast.mean())
    return torch.stack(ssims), torch.stack(contrasts)


def combine_scales(ssim: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
    """prod over i = 1..4 of contrast_i^w_i, times ssim_5^(4 w_5).

    The exponent of the coarsest scale is four times the usual one: so the released code has it, and
    the published weights of the loss were found with it.
    """
    weights = torch.tensor(SCALE_WEIGHTS, dtype=ssim.dtype, device=ssim.device)
    fine = contrast[:-1] ** weights[:-1]
    coarse = ssim[-1] ** (len(fine) * weights[-1])
    return fine.prod() * coarse
