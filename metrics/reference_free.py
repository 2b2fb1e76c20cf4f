"""Metrics of the fused image alone: SD, SF, AG (EN is a histogram metric, `information.entropy`).

All three rise with noise and with contrast stretching: report them, never select by them. Images
are on the 0..255 scale.
"""

import torch
from torch import Tensor

from .images import masked_mean, spread_over


def standard_deviation(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """SD = population standard deviation of a 0..255 image; (B,), 2-D or 3-D.

    Range 0 to 127.5, higher counts as better. It has no reference, so no value for a copy.
    """
    mean = spread_over(masked_mean(image, mask), image)
    return masked_mean((image - mean) ** 2, mask).sqrt()


def spatial_frequency(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """SF = sqrt(sum over axes of the mean squared first difference) of a 0..255 image; (B,).

    Range 0 and up, higher counts as better. A difference counts when both pixels are in the mask.
    Eskicioglu, Fisher, IEEE Trans. Commun. 43(12), 1995, with the third axis added in 3-D; the
    means are over the differences there are, not over the pixels.
    """
    total = torch.zeros(len(image), dtype=image.dtype, device=image.device)
    for axis in range(1, image.ndim):
        both = None
        if mask is not None:
            length = mask.shape[axis] - 1
            both = mask.narrow(axis, 0, length) & mask.narrow(axis, 1, length)
        total = total + masked_mean(image.diff(dim=axis) ** 2, both)
    return total.sqrt()


def average_gradient(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """AG = mean of sqrt((sum over axes of g^2) / axes) of a 0..255 image; (B,), 2-D or 3-D.

    g are central differences, one-sided at the border. Range 0 and up, higher counts as better.
    Cui, Feng, Xu, Li, Chen, Optics Communications 341, 2015.
    """
    axes = tuple(range(1, image.ndim))
    squares = torch.zeros_like(image)
    for gradient in torch.gradient(image, dim=axes):
        squares += gradient**2
    return masked_mean((squares / len(axes)).sqrt(), mask)
