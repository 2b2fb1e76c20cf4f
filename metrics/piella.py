"""Piella and Heijmans' fusion quality indices Q0 and QW."""

from typing import NamedTuple

import torch
from torch import Tensor

from .images import crop, filter_valid, masked_mean, undefined_where

WINDOW = 8
CONSTANT = (1e-6 * 255) ** 2  # keeps flat windows defined, vanishes elsewhere
FLAT_SALIENCY = 0.5  # squared grey levels


class Windows(NamedTuple):
    """An image with its mean and variance in every 8-pixel window."""

    image: Tensor
    mean: Tensor
    variance: Tensor


class Quality(NamedTuple):
    """Q0 and QW, (B,) each."""

    q0: Tensor
    qw: Tensor


def windows(image: Tensor) -> Windows:
    """What the indices need to know of one image, (B, *spatial) on the 0..255 scale."""
    mean = _box(image)  # B, *(spatial - 7)
    variance = (_box(image**2) - mean**2).clamp(min=0)
    return Windows(image, mean, variance)


def _box(image: Tensor) -> Tensor:
    return filter_valid(image, torch.full((WINDOW,), 1 / WINDOW))


def piella(fused: Tensor, mri: Tensor, pet: Tensor, mask: Tensor | None = None) -> Quality:
    """Q0 = mean of l UQI(F, MRI) + (1 - l) UQI(F, PET); QW the same weighted by saliency; (B,).

    UQI is the universal quality index in 8-pixel windows inside the image, saliency the local
    variance v, l = v_MRI / (v_MRI + v_PET) (1/2 where both are 0), and QW weights each window by
    max(v_MRI, v_PET), or 1/2 where both are 0. 2-D, or 3-D with 8^3 windows; images on the 0..255
    scale. A window counts when the pixel behind its middle is in the mask. Range -1 to 1, higher is
    better, 1 for three identical images; QW is NaN where both sources are constant. Q0 is unstable
    on flat background.
    Piella, Heijmans, ICIP 2003.
    """
    return piella_from(windows(fused), windows(mri), windows(pet), mask)


def piella_from(fused: Windows, mri: Windows, pet: Windows, mask: Tensor | None = None) -> Quality:
    """`piella` of images whose windows are known."""
    inside = crop(mask, WINDOW // 2, WINDOW - 1 - WINDOW // 2)
    total = mri.variance + pet.variance
    share = torch.where(total > 0, mri.variance / total, 0.5)
    quality = share * _uqi(fused, mri) + (1 - share) * _uqi(fused, pet)
    # The reference code adds 1/2 to both saliencies of a flat window, so that it counts a little.
    saliency = torch.where(total > 0, torch.maximum(mri.variance, pet.variance), FLAT_SALIENCY)
    weighted = masked_mean(quality * saliency, inside) / masked_mean(saliency, inside)
    empty = masked_mean(total, inside) == 0
    return Quality(masked_mean(quality, inside), undefined_where(empty, weighted))


def _uqi(fused: Windows, source: Windows) -> Tensor:
    """Universal quality index of every window: Wang, Bovik, IEEE SPL 9(3), 2002."""
    product = fused.mean * source.mean
    covariance = _box(fused.image * source.image) - product
    luminance = (2 * product + CONSTANT) / (fused.mean**2 + source.mean**2 + CONSTANT)
    variances = fused.variance + source.variance
    return luminance * (2 * covariance + CONSTANT) / (variances + CONSTANT)
