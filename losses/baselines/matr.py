"""What MATR is trained with (Tang et al., IEEE TIP 31, 2022), and its region mutual information.

It fuses slices, and its loss compares the result with both sources.
"""

import torch
from torch import nn
from torch.nn import functional as F

from losses.baselines.ssim2d import guessed_range, slice_ssim

RMI_WEIGHTS = {"mri": 2.5, "pet": 1.0}
RADIUS = 3  # pixels a side of a region, and the stride of the pooling before
EPSILON = 5e-4


class MatrObjective(nn.Module):
    """(1 - SSIM(F, PET)) + (1 - SSIM(F, MRI)) + R(F, PET) + 2.5 R(F, MRI), R by `rmi_loss`."""

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
    total = torch.zeros((), device=fused.device)
    terms = {}
    for name, source in (("mri", mri), ("pet", pet)):
        dissimilarity = 1 - slice_ssim(fused, source, data_range)[0].mean()
        information = rmi_loss(fused, source)
        total = total + dissimilarity + RMI_WEIGHTS[name] * information
        terms[f"ssim/{name}"] = dissimilarity.detach()
        terms[f"rmi/{name}"] = information.detach()
    return total, terms


def rmi_loss(fused: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """0.5 BCE(sigmoid(fused), source) + 0.5 r(sigmoid(fused), source), a scalar; lower is better.

    Zhao, Wang, Yang, Cai, "Region mutual information loss for semantic segmentation", NeurIPS 2019;
    r is `region_information`.

    Args:
        fused: (N, 1, H, W), taken for logits as in the released code, although it is a picture.
        source: same shape, in [0, 1].
    """
    cross_entropy = F.binary_cross_entropy_with_logits(fused, source)
    information = region_information(torch.sigmoid(fused), source)
    return 0.5 * cross_entropy + 0.5 * information.to(fused.dtype)


def region_information(picture: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """r = 1/9 log det^(1/2) of what regions of `source` keep unexplained by those of `picture`.

    A region is a 3 x 3 neighbourhood, as a 9-vector, of the image after 3 x 3 maximum pooling. With
    the sums of products S_y of source regions, S_p of picture regions and S_yp across, r belongs to
    M = S_y - S_yp (S_p + eps I)^-1 S_yp^T, + eps I. Computed in float64: the eigenvalues of the
    sums span many orders of magnitude. NaN or infinite values go through and make r NaN.

    Args:
        picture, source: (N, 1, H, W).

    Returns:
        A float64 scalar.
    """
    y = _regions(source)  # N, 9, positions
    p = _regions(picture)
    ridge = EPSILON * torch.eye(RADIUS**2, dtype=torch.float64, device=y.device)
    across = y @ p.mT  # N, 9, 9
    # The _ex form does not stop with an error where a value is not finite.
    factor, _ = torch.linalg.cholesky_ex(p @ p.mT + ridge)
    unexplained = y @ y.mT - across @ torch.cholesky_solve(across.mT, factor)  # N, 9, 9
    factor, _ = torch.linalg.cholesky_ex(unexplained + ridge)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)  # N, 9; its product is det^(1/2)
    return (torch.log(diagonal + 1e-8).sum(dim=-1) / RADIUS**2).mean()


def _regions(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) -> (N, 9, positions) float64 with the mean over positions taken off."""
    pooled = F.max_pool2d(images, RADIUS, stride=RADIUS, padding=RADIUS // 2)  # N, 1, h, w
    regions = F.unfold(pooled, RADIUS).double()  # N, 9, positions
    return regions - regions.mean(dim=-1, keepdim=True)
