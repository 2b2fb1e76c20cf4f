"""What an auto-encoder makes of single slices, for the losses that compare it with them."""

import torch
from torch import nn


def reconstruction(method: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of an auto-encoder, and the part of the slices that it was given.

    Args:
        method: has `reconstruct(image)`, and `multiple`; rows and columns beyond are left out.
        image: (N, 1, H, W) in [0, 1].

    Returns:
        Output, on the method's own scale, and image, of one shape.
    """
    height, width = image.shape[-2:]
    height -= height % method.multiple
    width -= width % method.multiple
    image = image[..., :height, :width]
    return method.reconstruct(image), image
