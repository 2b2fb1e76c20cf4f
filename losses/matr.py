"""What MATR is trained with (Tang et al., IEEE TIP 31, 2022): SSIM and region mutual information with both sources."""

import torch
from torch import nn

from losses.rmi import rmi_loss
from losses.ssim2d import guessed_range, slice_ssim

RMI_WEIGHTS = {"mri": 2.5, "pet": 1.0}


class MatrObjective(nn.Module):
    """(1 - SSIM(F, PET)) + (1 - SSIM(F, MRI)) + R(F, PET) + 2.5 R(F, MRI), R of `losses.rmi`, as published."""

    def forward(
        self, method: nn.Module, mri: torch.Tensor, pet: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of fusing slices.

        Args:
            method: `(mri, pet) -> fused`.
            mri, pet: (N, 1, H, W) in [0, 1].

        Returns:
            The scalar to minimise, and its unweighted terms by source, detached.
        """
        fused = method(mri, pet)
        with torch.autocast(mri.device.type, enabled=False):
            return matr_loss(fused.float(), mri, pet)


def matr_loss(
    fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and its terms for (N, 1, H, W)."""
    data_range = guessed_range(fused.detach())
    total, values = torch.zeros((), device=fused.device), {}
    for name, source in (("mri", mri), ("pet", pet)):
        dissimilarity = 1 - slice_ssim(fused, source, data_range)[0].mean()
        information = rmi_loss(fused, source)
        total = total + dissimilarity + RMI_WEIGHTS[name] * information
        values |= {f"ssim/{name}": dissimilarity.detach(), f"rmi/{name}": information.detach()}
    return total, values
