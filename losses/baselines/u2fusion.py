"""What U2Fusion is trained with (Xu et al., IEEE TPAMI 44(1), 2022).

It fuses slices; its loss asks for similarity to each source by how much information that has.
"""

import torch
from torch import nn
from torch.nn import functional as F

from losses.baselines.ssim2d import slice_ssim
from losses.baselines.vgg import Vgg16

MSE_WEIGHT = 20
SWAP_PROBABILITY = 0.5
# Divides the information; published for visible/infrared, the only task with two modalities.
TEMPERATURE = 3200
VGG_LAYERS = (3, 8, 15, 22, 29)  # after the last ReLU of each of the five blocks
VGG_SIDE = 224
CAFFE_MEANS = (103.939, 116.779, 123.68)  # blue, green, red


class U2FusionObjective(nn.Module):
    """mean [s1 (1 - SSIM(I1, F)) + s2 (1 - SSIM(I2, F))] + 20 mean [s1 MSE(F, I1) + s2 MSE(F, I2)].

    s1 + s2 = 1, for each pair by the information in its sources. Different from the released code:
    s belongs to each pair's own error there too, where a broadcast multiplied the means over the
    batch; and there is one task, so nothing ties the weights to those after an earlier one (elastic
    weight consolidation, whose factor was 0).

    While training, the sources change places in the network's input with probability 1/2, one draw
    a batch.

    Args:
        vgg: VGG-16 without batch normalisation; without it s1 = s2 = 1/2. The published input
            (blue, green, red from 0 to 255, less their means) belongs to the authors' Caffe
            weights, not to those that torchvision trained.
    """

    def __init__(self, vgg: Vgg16 | None = None) -> None:
        super().__init__()
        self.vgg = vgg

    def forward(
        self, method: nn.Module, mri: torch.Tensor, pet: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of fusing slices.

        Args:
            method: `(mri, pet) -> fused`.
            mri, pet: (N, 1, H, W) in [0, 1].

        Returns:
            The scalar to minimise, and its unweighted terms by source with each source's share,
            detached.
        """
        swapped = self.training and torch.rand(()).item() < SWAP_PROBABILITY
        fused = method(pet, mri) if swapped else method(mri, pet)
        with torch.autocast(mri.device.type, enabled=False):
            return self._compare(fused.float(), mri, pet)

    def _compare(
        self, fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of fused slices and its terms."""
        share = self._mri_share(mri, pet)  # N
        total = torch.zeros((), device=mri.device)
        terms = {}
        for name, source, weight in (("mri", mri, share), ("pet", pet, 1 - share)):
            dissimilarity = 1 - slice_ssim(source, fused)[0]  # N
            error = (fused - source).square().mean(dim=(1, 2, 3))  # N
            total = total + (weight * (dissimilarity + MSE_WEIGHT * error)).mean()
            terms[f"ssim/{name}"] = dissimilarity.detach().mean()
            terms[f"mse/{name}"] = error.detach().mean()
            terms[f"information/{name}"] = weight.detach().mean()
        return total, terms

    @torch.no_grad()
    def _mri_share(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """(N,): s of the MRI."""
        if self.vgg is None:
            return torch.full((len(mri),), 0.5, device=mri.device)
        measures = torch.stack([information(self.vgg, mri), information(self.vgg, pet)])  # 2, N
        return torch.softmax(measures / TEMPERATURE, dim=0)[0]


def information(vgg: Vgg16, images: torch.Tensor) -> torch.Tensor:
    """(N,): the mean over five layers of `feature_gradient` of VGG-16's features.

    Images are (N, 1, H, W) in [0, 1].
    """
    resized = F.interpolate(images, size=(VGG_SIDE, VGG_SIDE), mode="nearest")
    means = torch.tensor(CAFFE_MEANS, dtype=images.dtype, device=images.device)[:, None, None]
    coloured = 255 * resized - means  # N, 3, 224, 224: the means make three channels of one
    features = vgg(coloured, VGG_LAYERS)  # N, C, h, w for each layer
    return torch.stack([feature_gradient(maps) for maps in features]).mean(dim=0)


def feature_gradient(features: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N,): mean square of the 8 neighbours' mean less the pixel, 0 outside."""
    mean_of_9 = F.avg_pool2d(features, 3, stride=1, padding=1)
    # Mean of 8 neighbours - pixel = 9/8 (mean of 9 - pixel).
    difference = 9 / 8 * (mean_of_9 - features)
    return difference.square().mean(dim=(1, 2, 3))
