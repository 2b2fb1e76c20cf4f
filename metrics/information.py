"""Histogram metrics: NMI, MI in both conventions, Hossny's Q_MI, entropy, NCIE."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .images import selected, to_255, undefined_where

LN2 = math.log(2)
BLOCK = 2**17  # pixels binned at once: temporaries of this size stay in a CPU's cache
NMI_BINS, MI_BINS = 100, 10  # as released


class Histogram(NamedTuple):
    """The bin of every pixel of every image, and the entropies in nats."""

    bins: list[Tensor]  # B vectors of int32, each in 0..count-1
    count: int
    entropy: Tensor  # (B,)


def _entropy(counts: Tensor) -> Tensor:
    """Shannon entropy in nats of integer counts."""
    p = counts.double() / counts.sum()
    return -torch.xlogy(p, p).sum()


def _histogram(bins: list[Tensor], count: int) -> Histogram:
    entropy = [_entropy(torch.bincount(b, minlength=count)) for b in bins]
    return Histogram(bins, count, torch.stack(entropy))


def range_histogram(
    image: Tensor, count: int, mask: Tensor | None = None, precision: type[np.floating] = np.float64
) -> Histogram:
    """`count` equal bins between each image's own minimum and maximum, by numpy's rule.

    Bin edges are numpy's to the last digit, so a pixel that sits on an edge falls where it falls in
    `numpy.histogramdd` and scikit-image, given images of this `precision`: the released code has
    float32, which moves NMI by up to 2e-3 where grey levels are few. A constant image is put into
    one bin: entropy 0.
    """
    bins = [_bin(values, count, precision) for values in selected(image, mask)]
    return _histogram(bins, count)


def _bin(values: Tensor, count: int, precision: type[np.floating]) -> Tensor:
    """The bin of every value, int32; `range_histogram` has the rule."""
    if precision is np.float32:
        values = values.float().double()
    if not len(values):
        return values.int()
    low, high = (precision(v) for v in values.aminmax())
    return bin_between(values, low, high, count)


def bin_between(values: Tensor, low: np.floating, high: np.floating, count: int) -> Tensor:
    """The bin of each value, 0..count-1, of `count` equal bins by numpy's rule; int32."""
    if low == high:
        return torch.zeros(len(values), dtype=torch.int32, device=values.device)
    edges = torch.from_numpy(np.linspace(low, high, count + 1)).to(values)
    precision = np.finfo(type(low)).eps
    low, high = float(low), float(high)
    # The product below is off by round-off: next to an edge, compare with the edges themselves.
    relative = max(abs(low), abs(high)) / (high - low)
    round_off = 8 * count * precision * relative
    bins = torch.empty(len(values), dtype=torch.int32, device=values.device)
    for part, index in zip(values.split(BLOCK), bins.split(BLOCK), strict=True):
        position = (part - low).mul_(count / (high - low))
        index.copy_(position)
        near = (position.sub_(position.round()).abs_() < round_off).nonzero()[:, 0]
        index[near] = torch.bucketize(part[near], edges, right=True, out_int32=True) - 1
    return bins.clamp_(0, count - 1)


def grey_histogram(image: Tensor, mask: Tensor | None = None) -> Histogram:
    """256 bins of round(255 x), for an image in [0, 1]."""
    levels = to_255(image, "u8").to(torch.int32)
    return _histogram(selected(levels, mask), 256)


def stretched_histogram(image: Tensor, mask: Tensor | None = None) -> Histogram:
    """256 bins after each image is stretched from its own minimum and maximum to 0..255."""
    bins = []
    for values in selected(image, mask):
        low, high = values.min(), values.max()
        span = torch.where(high > low, high - low, torch.ones_like(low))
        bins.append(((values - low) / span * 255).round().to(torch.int32))
    return _histogram(bins, 256)


def mutual_information(fused: Histogram, source: Histogram) -> Tensor:
    """I = H_F + H_A - H_FA in nats, (B,)."""
    return fused.entropy + source.entropy - _joint_entropy(fused, source)


def _joint_entropy(fused: Histogram, source: Histogram) -> Tensor:
    """H_FA in nats, (B,)."""
    cells = fused.count * source.count
    entropies = []
    for f, s in zip(fused.bins, source.bins, strict=True):
        counts = torch.bincount(f * source.count + s, minlength=cells)
        entropies.append(_entropy(counts))
    return torch.stack(entropies)


def nmi(
    fused: Tensor,
    source: Tensor,
    mask: Tensor | None = None,
    bins: int = NMI_BINS,
    precision: type[np.floating] = np.float64,
) -> Tensor:
    """NMI = (H_F + H_A) / H_FA, 100 bins between each image's own minimum and maximum; (B,).

    Range 1 (independent) to 2, higher is better, 2 for identical images (or any one-to-one map of
    the bins); NaN where an image is constant. Unchanged by an affine change of an image.
    Studholme, Hill, Hawkes, Pattern Recognition 32(1), 1999; equals scikit-image with `bins=100`.
    """
    f = range_histogram(fused, bins, mask, precision)
    s = range_histogram(source, bins, mask, precision)
    return nmi_from(f, s)


def nmi_from(fused: Histogram, source: Histogram) -> Tensor:
    """`nmi` of two images whose histograms are known."""
    ratio = (fused.entropy + source.entropy) / _joint_entropy(fused, source)
    return undefined_where((fused.entropy == 0) | (source.entropy == 0), ratio)


def nmi_of(counts: Tensor) -> Tensor:
    """`nmi` of two images whose joint histogram, (bins, bins) integers, is known."""
    fused, source = _entropy(counts.sum(1)), _entropy(counts.sum(0))
    return undefined_where((fused == 0) | (source == 0), (fused + source) / _entropy(counts))


def mi(fused: Tensor, source: Tensor, mask: Tensor | None = None, bins: int = MI_BINS) -> Tensor:
    """MI = H_F + H_A - H_FA in nats with 10 bins per image, as released; (B,).

    Range 0 to ln 10 = 2.303, higher is better, H_A for identical images.
    """
    f = range_histogram(fused, bins, mask)
    s = range_histogram(source, bins, mask)
    return mutual_information(f, s)


def mi_bits(fused: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """MI in bits of the 256 grey levels round(255 x); (B,). The field reports the sum over sources.

    Range 0 to 8 per source, higher is better, H_A for identical images.
    Qu, Zhang, Yan, Electronics Letters 38(7), 2002. Few pixels bias it upwards (2.2 bits for
    independent noise on 128 x 128): compare methods at one size only.
    """
    return mutual_information(grey_histogram(fused, mask), grey_histogram(source, mask)) / LN2


def entropy(fused: Tensor, mask: Tensor | None = None) -> Tensor:
    """EN: entropy in bits of the 256 grey levels round(255 x); (B,).

    Range 0 to 8, higher counts as better, but there is no reference: noise raises it.
    Roberts, van Aardt, Ahmed, J. Appl. Remote Sensing 2, 2008.
    """
    return grey_histogram(fused, mask).entropy / LN2


def q_mi(fused: Histogram, mri: Histogram, pet: Histogram) -> Tensor:
    """Q_MI = 2 [I(F,MRI) / (H_F + H_MRI) + I(F,PET) / (H_F + H_PET)] of stretched histograms; (B,).

    Range 0 to 2, higher is better, 2 for three identical images.
    Hossny, Nahavandi, Creighton, Electronics Letters 44(18), 2008.
    """
    from_mri = mutual_information(fused, mri) / (fused.entropy + mri.entropy)
    from_pet = mutual_information(fused, pet) / (fused.entropy + pet.entropy)
    return 2 * (from_mri + from_pet)


def ncie(fused: Tensor, mri: Tensor, pet: Tensor, mask: Tensor | None = None) -> Tensor:
    """NCIE = 1 + sum over i of (r_i / 3) log_256(r_i / 3); (B,).

    r_i are the eigenvalues of the 3 x 3 matrix of I(X, Y) (256 bins of the stretched images, log
    base 256) between MRI, PET and fused, with ones on the diagonal.
    Range 0.80188 to 1, higher is better. Identical images do not reach 1, because their mutual
    information is their entropy. NaN where an image is constant.
    Wang, Shen, Jin, chapter 19 of Image Fusion: Algorithms and Applications (ed. Stathaki), 2008.
    """
    f = stretched_histogram(fused, mask)
    m = stretched_histogram(mri, mask)
    p = stretched_histogram(pet, mask)
    return ncie_from(f, m, p, between=mutual_information(m, p))


def ncie_from(fused: Histogram, mri: Histogram, pet: Histogram, between: Tensor) -> Tensor:
    """`ncie` of known histograms; `between` is the mutual information of the sources in nats."""
    matrix = torch.eye(3, dtype=torch.float64).repeat(len(between), 1, 1)  # B, 3, 3
    pairs = {
        (0, 1): between,
        (0, 2): mutual_information(mri, fused),
        (1, 2): mutual_information(pet, fused),
    }
    for (i, j), information in pairs.items():
        matrix[:, i, j] = matrix[:, j, i] = information.cpu() / math.log(256)
    share = torch.linalg.eigvalsh(matrix).clamp(min=0) / 3  # B, 3
    value = 1 + torch.xlogy(share, share).sum(1) / math.log(256)
    constant = (fused.entropy == 0) | (mri.entropy == 0) | (pet.entropy == 0)
    return undefined_where(constant, value.to(between.device))
