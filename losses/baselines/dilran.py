"""What DILRAN is trained with (Zhou et al., arXiv 2212.04661), and its two terms.

It is an auto-encoder: its loss compares single slices with what it makes of them, by squared error,
Sobel edges and VGG-16's features.
"""

import torch
from torch import nn
from torch.nn import functional as F

from losses.baselines.reconstruction import reconstruction
from losses.baselines.vgg import Vgg16

EDGE_WEIGHT = PERCEPTUAL_WEIGHT = 0.2
# The last layer before each of the first three poolings: in the released code, which keeps tensors
# that later layers change in place, the first two after their ReLU and the third before it.
VGG_LAYERS = (5, 12, 21)
_SOBEL_X = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
_SOBEL_Y = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))


class DilranObjective(nn.Module):
    """mean (out - x)^2 + 0.2 G(out, x) + 0.2 P(out, x).

    G is `sobel_loss`, P `perceptual_loss`.

    Args:
        vgg: VGG-16 with batch normalisation; without it P is left out.
    """

    def __init__(self, vgg: Vgg16 | None = None) -> None:
        super().__init__()
        self.vgg = vgg

    def forward(
        self, method: nn.Module, image: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of reconstructing slices.

        Args:
            method: has `reconstruct(image)`, on the scale of `image`, and `multiple`; rows and
                columns beyond are left out.
            image: (N, 1, H, W) in [0, 1].

        Returns:
            The scalar to minimise, and its unweighted terms, detached.
        """
        output, image = reconstruction(method, image)
        with torch.autocast(image.device.type, enabled=False):
            output = output.float()
            terms = {"mse": F.mse_loss(output, image), "sobel": sobel_loss(output, image)}
            total = terms["mse"] + EDGE_WEIGHT * terms["sobel"]
            if self.vgg is not None:
                terms["perceptual"] = perceptual_loss(self.vgg, output, image)
                total = total + PERCEPTUAL_WEIGHT * terms["perceptual"]
        return total, {name: value.detach() for name, value in terms.items()}


def sobel_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """mean (|Sx output| - |Sx target|)^2 + mean (|Sy output| - |Sy target|)^2, a scalar.

    0 for identical slices. Sx and Sy are the 3 x 3 Sobel filters without padding; slices are
    (N, 1, H, W).
    """
    kernels = output.new_tensor((_SOBEL_X, _SOBEL_Y))[:, None]  # 2, 1, 3, 3
    edges = F.conv2d(output, kernels).abs()  # N, 2, H - 2, W - 2
    wanted = F.conv2d(target, kernels).abs()
    return (edges - wanted).square().mean(dim=(0, 2, 3)).sum()


def perceptual_loss(vgg: Vgg16, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum over three layers of the mean squared difference of features; 0 for identical slices.

    Slices, (N, 1, H, W) in [0, 1], are repeated to three channels and, as published, not normalised
    for ImageNet.
    """
    with torch.no_grad():
        wanted = vgg(target.expand(-1, 3, -1, -1), VGG_LAYERS)
    given = vgg(output.expand(-1, 3, -1, -1), VGG_LAYERS)  # N, C, h, w for each layer
    total = torch.zeros((), device=output.device)
    for ours, theirs in zip(given, wanted, strict=True):
        total = total + F.mse_loss(ours, theirs)
    return total
