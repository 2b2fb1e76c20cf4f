"""The prior of TransMorph-diff: the velocity is smooth, and sampled about as widely as allowed.

Dalca et al., Medical Image Analysis 57, 2019; Chen et al., Medical Image Analysis 82, 2022. The
objective is SIMILARITY_WEIGHT times the mean squared difference, plus the prior.
"""

import torch

from losses.precision import at_least_float32
from losses.registration.regularisers import diffusion_loss

SIMILARITY_WEIGHT = 1 / 0.01**2
VARIANTS = ("paper", "released")
_LAMBDA = 10.0  # of the variances and of the mean


def velocity_prior(
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    integrated: torch.Tensor,
    variant: str = "paper",
) -> torch.Tensor:
    """1.5 (variances + 10 roughness), of a field of `models.registration.transmorph`.

    Args:
        mean: of the velocity, (B, 3, D, H, W) on the half grid.
        log_variance: of the velocity, same shape.
        integrated: the displacement that came of it, same shape.
        variant: [T12] "paper" asks for a smooth mean; "released" for small derivatives along axis a
            of channel a only, of the integrated field.

    Raises:
        ValueError: for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}, choose from {', '.join(VARIANTS)}")
    rough = stretching(integrated) if variant == "released" else diffusion_loss(mean) / 2
    return 1.5 * (variance_term(log_variance) + _LAMBDA * rough)


def variance_term(log_variance: torch.Tensor) -> torch.Tensor:
    """Mean of 10 n exp(s) - s, n the number of a voxel's six neighbours inside the grid."""
    with torch.autocast(log_variance.device.type, enabled=False):
        s = at_least_float32(log_variance)
        return (_LAMBDA * neighbours_inside(s) * s.exp() - s).mean()


def stretching(displacement: torch.Tensor) -> torch.Tensor:
    """Half the mean over voxels of (du0/d0)^2 + (du1/d1)^2 + (du2/d2)^2.

    Central differences, one-sided at both ends.
    """
    with torch.autocast(displacement.device.type, enabled=False):
        field = at_least_float32(displacement)
        terms = []
        for axis in range(3):
            (slope,) = torch.gradient(field[:, axis], dim=axis + 1)
            terms.append(slope.square().mean())
        return sum(terms) / 2


def neighbours_inside(like: torch.Tensor) -> torch.Tensor:
    """3 in a corner to 6 inside: (D, H, W) of the sides of (.., D, H, W)."""
    count = like.new_full(like.shape[-3:], 6)
    for axis in range(3):
        count.select(axis, 0).sub_(1)
        count.select(axis, -1).sub_(1)
    return count
