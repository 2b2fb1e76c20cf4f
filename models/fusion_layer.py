"""The fusion layer: how the two stream maps become one volume, and the gate behind it.

Every strategy maps f1 (MRI stream) and f2 (PET stream), (B, 1, D, H, W) each, to the fused volume
of the same shape.
"""

from collections.abc import Callable

import torch

Strategy = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

DARK = 0.04  # the gate is open where a source is at least this bright


def addition(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """f1 + f2."""
    return f1 + f2


def average(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """(f1 + f2) / 2."""
    return (f1 + f2) / 2


def feature_energy_ratio(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """w1 f1 + w2 f2 with w_k = f_k^2 / (f1^2 + f2^2) at every voxel, 0 where both maps are 0."""
    energy = f1.square() + f2.square()
    silent = energy == 0
    ratio = (f1.pow(3) + f2.pow(3)) / torch.where(silent, torch.ones_like(energy), energy)
    return torch.where(silent, torch.zeros_like(ratio), ratio)


def l1_norm(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """w1 f1 + w2 f2 with w_k = |f_k|_1 / (|f1|_1 + |f2|_1), the paper's fusion layer.

    The norms are summed over each sample's voxels in float32 or wider, so the result depends
    neither on the batch nor on the size of the volume. Both weights are 1/2 where both maps are
    zero everywhere.
    """
    n1, n2 = per_sample_norm(f1), per_sample_norm(f2)
    total = n1 + n2
    silent = total == 0
    w1 = torch.where(silent, 0.5, n1 / torch.where(silent, 1.0, total))
    return (w1 * f1 + (1 - w1) * f2).to(f1.dtype)


def l1_norm_unnormalised(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """[R5] w1 f1 + w2 f2 with w_k = |f_k|_1 summed over the whole batch and all voxels.

    As in the released code: the result grows with the volume (about 1e5 times the maps at 128^3),
    and a sample's result depends on the others in its batch.
    """
    accumulate = torch.promote_types(f1.dtype, torch.float32)
    return f1.abs().sum(dtype=accumulate) * f1 + f2.abs().sum(dtype=accumulate) * f2


def softmax_nuclear(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """w1 f1 + w2 f2 with w_k = N_k^2 / (N1^2 + N2^2), N_k a nuclear norm.

    After DILRAN's fusion rule. DILRAN takes a softmax over its 64 feature channels and the largest
    nuclear norm (sum of singular values) among the channel maps. A stream map has one channel, over
    which a softmax is 1 everywhere, so here the slices along the last axis, axial in this project,
    stand in the channels' place.
    """
    n1, n2 = (_largest_nuclear_norm(f) for f in (f1, f2))
    w1 = n1.square() / (n1.square() + n2.square())
    return (w1 * f1 + (1 - w1) * f2).to(f1.dtype)


def per_sample_norm(f: torch.Tensor) -> torch.Tensor:
    """|f|_1 of each sample: (B, 1, D, H, W) -> (B, 1, 1, 1, 1), accumulated in float32 or wider."""
    accumulate = torch.promote_types(f.dtype, torch.float32)
    return f.abs().sum(dim=(1, 2, 3, 4), keepdim=True, dtype=accumulate)


def _largest_nuclear_norm(f: torch.Tensor) -> torch.Tensor:
    accumulate = torch.promote_types(f.dtype, torch.float32)
    slices = f[:, 0].to(accumulate).softmax(dim=-1).movedim(-1, 1)  # B, W, D, H
    norms = torch.linalg.svdvals(slices).sum(dim=-1)  # B, W
    return norms.amax(dim=1).view(-1, 1, 1, 1, 1)


STRATEGIES: dict[str, Strategy] = {
    "l1-norm": l1_norm,
    "l1-norm-unnormalised": l1_norm_unnormalised,
    "addition": addition,
    "average": average,
    "fer": feature_energy_ratio,
    "softmax-nuclear": softmax_nuclear,
}

# Those that weigh each voxel by itself, so that it needs nothing from elsewhere.
VOXELWISE = (addition, average, feature_energy_ratio)


def gate(mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
    """[R10] clip(max(mri, pet) / 0.04, 0, 1): factor of the fused volume, 0 where both are dark.

    SSIM's constants are so small (1e-4, 9e-4) that an offset of 0.01 on an empty background costs
    as much as a lost brain; without the gate, training first unlearns its start.

    Args:
        mri: (B, 1, D, H, W), in [0, 1].
        pet: the same shape and range.
    """
    return (torch.maximum(mri, pet) / DARK).clamp(0, 1)


def fusion_strategy(name: str) -> Strategy:
    """The strategy called `name`.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in STRATEGIES:
        raise ValueError(f"unknown fusion strategy {name!r}, choose from {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
