"""Region mutual information, the information term of MATR."""

import torch
from torch.nn import functional as F

RADIUS = 3  # pixels a side of a region, and the stride of the pooling before
EPSILON = 5e-4


def rmi_loss(fused: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """0.5 BCE(sigmoid(fused), source) + 0.5 r(sigmoid(fused), source), a scalar; lower is better.

    Args:
        fused: (N, 1, H, W), taken for logits as in the released code, although it is a picture.
        source: same shape, in [0, 1].
    """
    cross_entropy = F.binary_cross_entropy_with_logits(fused, source)
    return 0.5 * cross_entropy + 0.5 * region_information(torch.sigmoid(fused), source).to(fused.dtype)


def region_information(picture: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """r = 1/9 log det^(1/2) of what regions of `source` keep unexplained by those of `picture`, a float64 scalar.

    A region is a 3 x 3 neighbourhood, as a 9-vector, of the image after 3 x 3 maximum pooling. With the sums of
    products S_y of source regions, S_p of picture regions and S_yp across, r belongs to
    M = S_y - S_yp (S_p + eps I)^-1 S_yp^T, + eps I. Computed in float64: the eigenvalues of the sums span many
    orders of magnitude. NaN or infinite values go through and make r NaN.

    Args:
        picture, source: (N, 1, H, W).
    """
    y, p = _regions(source), _regions(picture)  # N, 9, positions
    ridge = EPSILON * torch.eye(RADIUS**2, dtype=torch.float64, device=y.device)
    across = y @ p.mT
    factor, _ = torch.linalg.cholesky_ex(p @ p.mT + ridge)
    unexplained = y @ y.mT - across @ torch.cholesky_solve(across.mT, factor)
    factor, _ = torch.linalg.cholesky_ex(unexplained + ridge)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    return (torch.log(diagonal + 1e-8).sum(dim=-1) / RADIUS**2).mean()


def _regions(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) -> (N, 9, positions) float64 with the mean over positions taken off."""
    pooled = F.max_pool2d(images, RADIUS, stride=RADIUS, padding=RADIUS // 2)
    regions = F.unfold(pooled, RADIUS).double()
    return regions - regions.mean(dim=-1, keepdim=True)
