"""Measures of a registration: overlap of labels, folds of the field, spread of its volume changes.

None of them is a score of a fused volume. Displacements are (B, 3, D, H, W) in voxels, channel c
along axis c; p + u(p) is where a voxel comes from. float64 throughout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .images import Image, as_image

_EPS = 1e-5
BORDER = 2  # voxels at every face that SDlogJ leaves out


def dice_by_label(
    warped: Tensor, fixed: Tensor, labels: Sequence[int] | None = None
) -> dict[int, Tensor]:
    """2 |A and B| / (|A| + |B|) of each label.

    Args:
        warped: (B, *spatial), whole numbers.
        fixed: same shape.
        labels: which; None for those but 0 (the background) that either map has in any sample.

    Returns:
        (B,) float64 for each label in [0, 1], NaN where a sample has none of it in either map.

    Raises:
        ValueError: if the shapes differ.
    """
    if warped.shape != fixed.shape:
        raise ValueError(f"label maps of {tuple(warped.shape)} and {tuple(fixed.shape)} voxels")
    if labels is None:
        present = torch.cat([warped.unique(), fixed.unique()]).unique()
        labels = [int(label) for label in present if label != 0]
    scores = {}
    for label in labels:
        common, total = _overlap(warped, fixed, label)
        scores[label] = 2 * common / total  # 0 / 0 is NaN
    return scores


def mean_dice(warped: Tensor, fixed: Tensor, labels: Sequence[int] | None = None) -> Tensor:
    """Mean over the labels that a sample has in either map: (B,), NaN for a sample without any.

    Args and errors: as `dice_by_label`.
    """
    scores = dice_by_label(warped, fixed, labels)
    if not scores:
        return torch.full((len(fixed),), torch.nan, dtype=torch.float64, device=fixed.device)
    return torch.stack(list(scores.values())).nanmean(dim=0)


def released_dice(warped: Tensor, fixed: Tensor, classes: int) -> float:
    """The mean that the released TransMorph reports: over samples and labels 0 .. classes - 1.

    [T13] The background is among them, and a label that neither map has counts as 0.
    """
    scores = []
    for label in range(classes):
        common, total = _overlap(warped, fixed, label)
        scores.append(2 * common / (total + _EPS))
    return torch.stack(scores).mean().item()


def jacobian_determinant(displacement: Image) -> Tensor:
    """How much room a voxel takes where it comes from: 1 for a shift, <= 0 in a fold.

    det J of p + u(p), J[a][b] = derivative along axis a of its component b; central differences,
    one-sided at both ends.

    Args:
        displacement: (B, 3, D, H, W), sides of at least 2 voxels.

    Returns:
        (B, D, H, W).
    """
    field = as_image(displacement, "displacement")
    slopes = torch.gradient(field, dim=(2, 3, 4))  # for each axis B, 3, D, H, W
    return _determinant(slopes)


def folded_fraction(displacement: Image, mask: Tensor | None = None) -> Tensor:
    """Fraction of voxels whose Jacobian determinant is not positive: (B,) in [0, 1].

    Args:
        displacement: (B, 3, D, H, W).
        mask: (B, D, H, W), boolean; None for all voxels, background and border too.
    """
    folded = jacobian_determinant(displacement) <= 0
    if mask is None:
        return folded.double().mean(dim=(1, 2, 3))
    mask = mask.to(folded.device)
    return (folded & mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).double()


def sdlogj(displacement: Image) -> Tensor:
    """Standard deviation of the logarithm of the Jacobian determinant, as Learn2Reg takes it: (B,).

    log(clip(det J + 3, 1e-9, 1e9)), two voxels at every face left out; 0 for a shift.

    Args:
        displacement: (B, 3, D, H, W), sides of at least 5 voxels.
    """
    field = as_image(displacement, "displacement")
    padded = F.pad(field, (1,) * 6)
    slopes = [
        difference[..., 1:-1, 1:-1, 1:-1] for difference in torch.gradient(padded, dim=(2, 3, 4))
    ]
    inner = slice(BORDER, -BORDER)
    determinant = _determinant(slopes)[:, inner, inner, inner]
    logarithm = (determinant + 3).clamp(1e-9, 1e9).log()
    return logarithm.flatten(1).std(dim=1, correction=0)


def _overlap(warped: Tensor, fixed: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Voxels that have a label in both maps, and in one plus the other: (B,) float64."""
    a, b = (warped == label).flatten(1), (fixed == label).flatten(1)
    return (a & b).sum(dim=1).double(), a.sum(dim=1).double() + b.sum(dim=1)


def _determinant(slopes: Sequence[Tensor]) -> Tensor:
    """det(I + slopes), `slopes[a][:, b]` = du_b / d axis a: (B, D, H, W)."""
    rows = []
    for axis, slope in enumerate(slopes):
        row = list(slope.unbind(dim=1))
        row[axis] = row[axis] + 1
        rows.append(row)
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
