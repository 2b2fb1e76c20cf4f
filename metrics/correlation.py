"""Pearson correlation of images: CC and the sum of correlations of differences."""

from typing import NamedTuple

from torch import Tensor

from .images import flat, is_constant, masked_mean, masked_sum, spread_over, undefined_where


class Centred(NamedTuple):
    """An image minus its mean, 0 outside the mask, with its norm and whether it is constant."""

    image: Tensor  # (B, *spatial)
    norm: Tensor  # (B,)
    constant: Tensor  # (B,) boolean


def centred(image: Tensor, mask: Tensor | None = None) -> Centred:
    """What a correlation needs to know of one image."""
    mean = masked_mean(image, mask)  # B
    deviation = image - spread_over(mean, image)  # B, *spatial
    if mask is not None:
        deviation = deviation * mask
    return Centred(deviation, flat(deviation).norm(dim=1), is_constant(image, mask))


def correlation(first: Centred, second: Centred) -> Tensor:
    """Pearson r, (B,); NaN where an image is constant."""
    product = masked_sum(first.image * second.image, None)  # B
    r = product / (first.norm * second.norm)
    return undefined_where(first.constant | second.constant, r)


def cc(fused: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """CC = Pearson correlation of fused and source; (B,), 2-D or 3-D.

    Range -1 to 1, higher is better, 1 for identical images; NaN where an image is constant.
    Unchanged by an affine change of an image.
    """
    return correlation(centred(fused, mask), centred(source, mask))


def scd(fused: Tensor, mri: Tensor, pet: Tensor, mask: Tensor | None = None) -> Tensor:
    """SCD = r(F - PET, MRI) + r(F - MRI, PET); (B,), 2-D or 3-D.

    Range -2 to 2, higher counts as better; 2 for the plain sum of the sources, one value for every
    linear mix of them, and NaN for a copy of a source (and so for identical images), where a
    difference is constant. Aslantas, Bendes, AEUe 69(12), 2015.
    """
    from_mri = correlation(centred(fused - pet, mask), centred(mri, mask))
    from_pet = correlation(centred(fused - mri, mask), centred(pet, mask))
    return from_mri + from_pet
