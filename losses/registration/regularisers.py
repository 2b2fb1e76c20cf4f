"""Smoothness of a displacement field; 0 for a shift. Voxel units, whatever the voxels' size."""

import torch

from losses.precision import at_least_float32

NORMS = ("l1", "l2")


def diffusion_loss(displacement: torch.Tensor, norm: str = "l2") -> torch.Tensor:
    """Mean over the axes of the mean squared forward difference along each.

    Args:
        displacement: (B, C, D, H, W), no side of one voxel.
        norm: "l2", or "l1" for absolute differences.

    Raises:
        ValueError: for an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}, choose from {', '.join(NORMS)}")
    with torch.autocast(displacement.device.type, enabled=False):
        field = at_least_float32(displacement)
        terms = []
        for axis in (2, 3, 4):
            difference = field.diff(dim=axis)
            terms.append((difference.abs() if norm == "l1" else difference.square()).mean())
        return sum(terms) / 3


def bending_loss(displacement: torch.Tensor) -> torch.Tensor:
    """Bending energy: the mean of the squared second derivatives, mixed ones counted twice.

    Rueckert et al., IEEE Transactions on Medical Imaging 18(8), 1999. Central differences applied
    twice; each time one voxel is lost at every face. 0 for an affine field.

    Args:
        displacement: (B, C, D, H, W), sides of at least 5 voxels.
    """
    with torch.autocast(displacement.device.type, enabled=False):
        field = at_least_float32(displacement)
        energy = 0
        for first in (2, 3, 4):
            slope = _central_difference(field, first)
            for second in range(first, 5):
                times = 1 if second == first else 2
                energy = energy + times * _central_difference(slope, second).square()
        return energy.mean()


def _central_difference(field: torch.Tensor, axis: int) -> torch.Tensor:
    """(f(p + e) - f(p - e)) / 2 along an axis; one voxel shorter at both ends of all axes."""
    for other in {2, 3, 4} - {axis}:
        field = field.narrow(other, 1, field.shape[other] - 2)
    inner = field.shape[axis] - 2
    return (field.narrow(axis, 2, inner) - field.narrow(axis, 0, inner)) / 2
