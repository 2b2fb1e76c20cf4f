"""Qabf: how much of the sources' edges, strength and direction, the fused image keeps."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .images import masked_sum, undefined_where

RULES = ("standard", "fold", "legacy", "liu")


class Edges(NamedTuple):
    """Sobel strength and angle of every pixel."""

    strength: Tensor  # (B, H, W)
    angle: Tensor  # same, (-pi/2, pi/2]


def edges(image: Tensor, rule: str = "standard") -> Edges:
    """Sobel edges of a (B, H, W) image on the 0..255 scale, zero border."""
    padded = pad(image, (1, 1, 1, 1))  # B, H + 2, W + 2
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]  # B, H, W + 2
    columns = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]  # B, H + 2, W
    x = rows[:, :, :-2] - rows[:, :, 2:]  # B, H, W; left minus right
    y = columns[:, 2:] - columns[:, :-2]  # B, H, W; lower minus upper
    strength = (x**2 + y**2).sqrt()
    if rule == "liu":
        return Edges(strength, torch.atan(y / torch.where(x == 0, 1e-5, -x)))
    return Edges(strength, torch.where(x == 0, math.pi / 2, torch.atan(y / x)))


def qabf(
    fused: Tensor,
    mri: Tensor,
    pet: Tensor,
    mask: Tensor | None = None,
    rule: str = "standard",
) -> Tensor:
    """Qabf = sum(Q_AF g_A + Q_BF g_B) / sum(g_A + g_B) over the pixels (of the mask); (B,), 2-D.

    Q_AF = [0.9994 / (1 + exp(-15 (G - 0.5)))] [0.9879 / (1 + exp(-22 (W - 0.8)))], with G the ratio
    of the weaker to the stronger of the Sobel strengths g and W = 1 - |a_A - a_F| / (pi/2).
    Range 0 to 0.9748, higher is better, 0.9748 for three identical images; NaN where both sources
    are 0. Images are (B, H, W) on the 0..255 scale.
    Xydeas, Petrovic, Electronics Letters 36(4), 2000. `rule` selects a variant in circulation:
    "fold" wraps the angle difference, "legacy" takes G = g_F where the strengths are equal, "liu"
    replaces a zero horizontal slope by 1e-5. They differ in the second to fifth digit.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; it is one of {', '.join(RULES)}")
    return qabf_from(edges(fused, rule), edges(mri, rule), edges(pet, rule), mask, rule)


def qabf_from(
    fused: Edges, mri: Edges, pet: Edges, mask: Tensor | None = None, rule: str = "standard"
) -> Tensor:
    """`qabf` of images whose edges are known."""
    kept_mri = _preserved(fused, mri, rule) * mri.strength
    kept_pet = _preserved(fused, pet, rule) * pet.strength
    kept = masked_sum(kept_mri + kept_pet, mask)  # B
    total = masked_sum(mri.strength + pet.strength, mask)  # B
    return undefined_where(total == 0, kept / total)


def _preserved(fused: Edges, source: Edges, rule: str) -> Tensor:
    """Q_AF of every pixel."""
    weaker = torch.minimum(fused.strength, source.strength)
    stronger = torch.maximum(fused.strength, source.strength)
    equal = fused.strength if rule == "legacy" else torch.ones_like(weaker)
    ratio = torch.where(weaker == stronger, equal, weaker / stronger)
    difference = (source.angle - fused.angle).abs()
    if rule == "fold":
        difference = torch.minimum(difference, math.pi - difference)
    agreement = 1 - difference / (math.pi / 2)
    strength_kept = 0.9994 / (1 + torch.exp(-15 * (ratio - 0.5)))
    return strength_kept * 0.9879 / (1 + torch.exp(-22 * (agreement - 0.8)))
