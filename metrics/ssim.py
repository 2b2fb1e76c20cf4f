"""Structural similarity, single- and multi-scale, by the valid border rule."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from .images import TooSmall, crop, filter_valid, gaussian, masked_mean

WINDOW, SIGMA = 11, 1.5
BLOCK = 8  # rows or planes
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 of the paper, L = 1

# The first four of Wang's five weights, renormalised: five scales need more than 160 pixels.
SCALE_WEIGHTS = tuple(w / 0.8668 for w in (0.0448, 0.2856, 0.3001, 0.2363))


class Moments(NamedTuple):
    """An image with its windowed mean, the square of that, and variance."""

    image: Tensor  # (B, *spatial)
    mean: Tensor  # (B, *(spatial - 10))
    square: Tensor  # same
    variance: Tensor  # same


def moments(image: Tensor) -> Moments:
    """What SSIM needs to know of one image."""
    taps = gaussian(WINDOW, SIGMA)
    mean = filter_valid(image, taps)
    square = mean**2
    variance = filter_valid(image**2, taps).sub_(square)
    return Moments(image, mean, square, variance)


def ssim(fused: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean SSIM over the window centres (in the mask), for images in [0, 1]; (B,), 2-D or 3-D.

    SSIM = (2 mu_F mu_A + C1)(2 s_FA + C2) / ((mu_F^2 + mu_A^2 + C1)(s_F^2 + s_A^2 + C2)), Gaussian
    window of 11 per axis, sigma 1.5, population moments, only windows that lie inside the image.
    Range -1 to 1, higher is better, 1 for identical images.
    Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004. torchmetrics from 1.4.2 on pads the
    border and gives up to 0.1 more; the published tables are older than that.
    """
    return ssim_from(moments(fused), moments(source), mask)


def ssim_from(fused: Moments, source: Moments, mask: Tensor | None = None) -> Tensor:
    """`ssim` of two images whose moments are known."""
    return masked_mean(_map(fused, source, luminance=True), crop(mask, WINDOW // 2))


def _map(fused: Moments, source: Moments, luminance: bool) -> Tensor:
    """SSIM of every window; without the factor of luminance, its contrast-structure part."""
    values = filter_valid(fused.image * source.image, gaussian(WINDOW, SIGMA))
    # In place and in blocks, whose temporaries stay in the cache: memory is what a volume costs.
    for start in range(0, values.shape[1], BLOCK):
        rows = (slice(None), slice(start, start + BLOCK))
        value = values[rows]
        product = fused.mean[rows] * source.mean[rows]
        variances = fused.variance[rows] + source.variance[rows]
        value.sub_(product).mul_(2).add_(C2).div_(variances.add_(C2))
        if luminance:
            squares = fused.square[rows] + source.square[rows]
            value.mul_(product.mul_(2).add_(C1)).div_(squares.add_(C1))
    return values


def ms_ssim(fused: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """Multi-scale SSIM over four scales, for images in [0, 1]; (B,), 2-D or 3-D, sides >= 88.

    MS-SSIM = product over scales 1..3 of CS_s^w_s, times SSIM_4^w_4, with CS the mean of the
    contrast-structure map, SSIM the mean SSIM, each scale the 2-average of the one before, and
    w = (0.0448, 0.2856, 0.3001, 0.2363) / 0.8668. A negative CS counts as 0.
    Range 0 to 1, higher is better, 1 for identical images.
    Wang, Simoncelli, Bovik, Asilomar 2003, whose fifth scale does not fit into 128 pixels.
    """
    return ms_ssim_from(pyramid(fused), pyramid(source), mask)


def pyramid(image: Tensor) -> list[Moments]:
    """The moments of an image at each of the four scales."""
    shortest = min(image.shape[1:])
    needed = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
    if shortest < needed:
        raise TooSmall(f"a side of {shortest} pixels does not hold four scales, {needed} does")
    levels = [moments(image)]
    while len(levels) < len(SCALE_WEIGHTS):
        levels.append(moments(_halve(levels[-1].image)))
    return levels


def ms_ssim_from(fused: list[Moments], source: list[Moments], mask: Tensor | None = None) -> Tensor:
    """`ms_ssim` of two images whose pyramids are known."""
    first = fused[0].image
    result = torch.ones(len(first), dtype=torch.float64, device=first.device)
    for f, s, weight in zip(fused, source, SCALE_WEIGHTS, strict=True):
        values = _map(f, s, luminance=f is fused[-1])
        mean = masked_mean(values, crop(mask, WINDOW // 2))  # B
        result = result * mean.clamp(min=0) ** weight
        if mask is not None:
            mask = _halve(mask.double()) >= 0.5
    return result


def _halve(image: Tensor) -> Tensor:
    """Average over blocks of two per axis; an odd last plane is dropped."""
    pool = avg_pool2d if image.ndim == 3 else avg_pool3d
    return pool(image[:, None], 2)[:, 0]
