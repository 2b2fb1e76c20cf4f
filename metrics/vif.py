"""Visual information fidelity in the pixel domain: VIF per source, and VIFF for fusion.

Images are (B, H, W) on the 0..255 scale; the noise variances below have no meaning on another one.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .images import crop, filter_valid, gaussian, masked_mean, masked_sum, undefined_where

WINDOWS = (17, 9, 5, 3)  # pixels, one per scale; sigma is a fifth of it
VIF_NOISE = 2.0
VIFF_NOISE = 0.005 * 255**2
VIFF_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)
VIFF_FLOOR = 1e-7 * math.log(10)  # the published code adds 1e-7 to base-10 logarithms
EPSILON = 1e-10


class Level(NamedTuple):
    """One scale of an image with its windowed mean and variance."""

    image: Tensor
    mean: Tensor
    variance: Tensor


class Gain(NamedTuple):
    """The channel from source to fused at one scale: fused = gain * source + rest."""

    gain: Tensor
    rest: Tensor  # variance that the gain does not explain
    source: Tensor  # variance of the source


def levels(image: Tensor) -> list[Level]:
    """The four scales; each is the one before, filtered with its own window and halved."""
    result = []
    for scale, window in enumerate(WINDOWS):
        taps = gaussian(window, window / 5)
        if scale:
            image = filter_valid(image, taps)[:, ::2, ::2]
        mean = filter_valid(image, taps)
        variance = (filter_valid(image**2, taps) - mean**2).clamp(min=0)
        result.append(Level(image, mean, variance))
    return result


def gains(fused: list[Level], source: list[Level]) -> list[Gain]:
    """The channel at every scale, with the exceptions of the reference code for flat windows."""
    result = []
    for window, f, s in zip(WINDOWS, fused, source, strict=True):
        covariance = filter_valid(f.image * s.image, gaussian(window, window / 5))
        covariance = covariance - f.mean * s.mean
        gain = covariance / (s.variance + EPSILON)
        rest = f.variance - gain * covariance
        flat_source = s.variance < EPSILON
        flat_fused = f.variance < EPSILON
        rest = torch.where(flat_source | (gain < 0), f.variance, rest)
        rest = torch.where(flat_fused, 0.0, rest).clamp(min=EPSILON)
        gain = torch.where(flat_source | flat_fused, 0.0, gain.clamp(min=0))
        result.append(Gain(gain, rest, torch.where(flat_source, 0.0, s.variance)))
    return result


def vif(fused: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """VIF = sum log(1 + g^2 v / (rest + 2)) / sum log(1 + v / 2) over four scales; (B,), 2-D.

    v is the local variance of the source, g the local gain towards the fused image, rest what the
    gain does not explain. Range 0 to 1 (above 1 where contrast is enhanced), higher is better, 1
    for identical images; NaN where the source is constant. Sides of 41 pixels at least. Sheikh,
    Bovik, IEEE TIP 15(2), 2006, pixel-domain form; reported as the mean over the sources, where
    many fusion tables print the sum.
    """
    return vif_from(gains(levels(fused), levels(source)), mask)


def vif_from(channels: list[Gain], mask: Tensor | None = None) -> Tensor:
    """`vif` of a known channel."""
    kept = held = 0.0
    for channel, inside in zip(channels, _centres(mask), strict=True):
        information, available = _information(channel, VIF_NOISE)
        kept = kept + masked_sum(information, inside)
        held = held + masked_sum(available, inside)
    return undefined_where(held == 0, kept / held)


def _information(channel: Gain, noise: float) -> tuple[Tensor, Tensor]:
    """What the fused image keeps of a source, and what the source holds, per pixel in nats."""
    kept = torch.log1p(channel.gain**2 * channel.source / (channel.rest + noise))
    held = torch.log1p(channel.source / noise)
    return kept, held


def _centres(mask: Tensor | None) -> list[Tensor | None]:
    """The mask at the window centres of every scale."""
    if mask is None:
        return [None] * len(WINDOWS)
    result = []
    for scale, window in enumerate(WINDOWS):
        if scale:
            mask = crop(mask, window // 2)[:, ::2, ::2]
        result.append(crop(mask, window // 2))
    return result


def viff(fused: Tensor, mri: Tensor, pet: Tensor, mask: Tensor | None = None) -> Tensor:
    """VIFF: VIF for fusion, per scale from the source with the smaller gain; (B,), 2-D.

    Noise variance 0.005 * 255^2, scale weights (1, 0, 0.15, 1) / 2.15. Range 0 to 1 (can exceed),
    higher is better, 1 for three identical images; NaN where both sources are constant.
    Han, Cai, Cao, Xu, Information Fusion 14(2), 2013, with the selection rule of its published
    code.
    """
    described = levels(fused)
    from_mri = gains(described, levels(mri))
    from_pet = gains(described, levels(pet))
    return viff_from(from_mri, from_pet, mask)


def viff_from(mri: list[Gain], pet: list[Gain], mask: Tensor | None = None) -> Tensor:
    """`viff` of the two known channels."""
    total = 0.0
    empty = True
    for a, b, inside, weight in zip(mri, pet, _centres(mask), VIFF_WEIGHTS, strict=True):
        kept_a, held_a = _information(a, VIFF_NOISE)
        kept_b, held_b = _information(b, VIFF_NOISE)
        first = a.gain < b.gain
        kept = masked_mean(torch.where(first, kept_a, kept_b), inside)
        held = masked_mean(torch.where(first, held_a, held_b), inside)
        total = total + weight * (kept + VIFF_FLOOR) / (held + VIFF_FLOOR)
        empty = empty & (masked_mean(held_a + held_b, inside) == 0)
    return undefined_where(empty, total)
