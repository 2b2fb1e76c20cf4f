"""DILRAN: one encoder for both pictures, a fusion rule without parameters, one decoder.

Zhou, Xu, Zhang, "An Attention-based Multi-Scale Feature Learning Network for Multimodal Medical
Image Fusion", arXiv 2212.04661, and its extension "Edge-Enhanced Dilated Residual Attention Network
for Multimodal Medical Image Fusion", IEEE BIBM 2024, 4108-4111. Parameter names are those of the
authors' released state dict (`last.pt`), so that it loads as it is.

The network sees grey pictures only and its code holds no colour handling; the authors advise to
fuse the luma of a colour PET or SPECT in YCbCr.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from models.fusion_layer import addition, average, feature_energy_ratio, l1_norm

WIDTH = 64
DILATIONS = (1, 3, 5)
MAPS_AT_ONCE = 4
STATISTICS = ("batch", "running")


class ImageNorm(nn.BatchNorm2d):
    """BatchNorm2d whose evaluation mode can go on using each picture's own statistics.

    Args:
        statistics: what evaluation mode normalises by. "batch": mean and biased variance of the one
            picture, every sample by itself; the running averages stay as they are. "running": the
            running averages.

    Training mode is that of BatchNorm2d: statistics of the whole batch, running averages updated.
    """

    def __init__(self, width: int, statistics: str) -> None:
        super().__init__(width)
        self.statistics = statistics

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training or self.statistics == "running":
            return super().forward(x)
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


def attention(x: torch.Tensor) -> torch.Tensor:
    """U(x): 2x2 averages, spread over their pixels again, negative ones 0. Even H and W."""
    return F.interpolate(F.relu(F.avg_pool2d(x, 2)), scale_factor=2, mode="nearest")


def _conv3x3(in_width: int, out_width: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, kernel_size=3, padding=dilation, dilation=dilation)


class ResidualAttention(nn.Module):
    """The DILRAN block: one convolution g, repeated; z + U(z) (g(z) + g(g(z)) + g(g(g(z))))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_d = _conv3x3(WIDTH, WIDTH)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(N, 64, H, W) -> (N, 64, H, W)."""
        once = self.conv_d(z)
        twice = self.conv_d(once)
        return z + attention(z) * (once + twice + self.conv_d(twice))


class MultiScale(nn.Module):
    """Three dilated convolutions, joined, and the DILRAN block, with one shared norm."""

    def __init__(self, statistics: str) -> None:
        super().__init__()
        self.convd1, self.convd2, self.convd3 = (
            _conv3x3(WIDTH, WIDTH, dilation) for dilation in DILATIONS
        )
        self.reduce = nn.Conv2d(3 * WIDTH, WIDTH, kernel_size=1)
        self.bnorm1 = ImageNorm(WIDTH, statistics)
        self.dilran = ResidualAttention()

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """(N, 64, H, W) -> (N, 64, H, W)."""
        return self.bnorm1(self.dilran(self.bnorm1(self._joined_scales(y))))

    def _joined_scales(self, y: torch.Tensor) -> torch.Tensor:
        """`reduce` of the joined branches.

        Nothing stands between the branches and `reduce`, so the 1x1 convolution is folded into
        their kernels, which spares the map of 192 channels: two thirds of the time, differences of
        1e-6.
        """
        joined = self.reduce.bias.view(-1, 1, 1)
        shares = self.reduce.weight.flatten(1).split(WIDTH, dim=1)
        for share, branch in zip(shares, (self.convd1, self.convd2, self.convd3), strict=True):
            kernel = (share @ branch.weight.flatten(1)).view_as(branch.weight)
            bias = share @ branch.bias
            joined = joined + F.conv2d(
                y, kernel, bias, padding=branch.padding, dilation=branch.dilation
            )
        return joined


class Encoder(nn.Module):
    """Shallow features with attention, then the multi-scale features with attention."""

    def __init__(self, statistics: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTH, kernel_size=1)
        self.fe = MultiScale(statistics)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) -> (N, 64, H, W)."""
        y = x + attention(x) * self.conv1(x)
        return y + attention(y) * self.fe(y)


class Decoder(nn.Module):
    """Three convolutions without activation."""

    def __init__(self) -> None:
        super().__init__()
        self.recon_conv = nn.Sequential(
            _conv3x3(WIDTH, WIDTH), _conv3x3(WIDTH, 32), _conv3x3(32, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, 64, H, W) -> (N, 1, H, W)."""
        return self.recon_conv(features)


def sfnn(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """w1 f1 + w2 f2 with the two weights of `sfnn_weights`."""
    w1, w2 = (w.view(-1, 1, 1, 1) for w in sfnn_weights(f1, f2))
    return (w1 * f1 + w2 * f2).to(f1.dtype)


def sfnn_weights(f1: torch.Tensor, f2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """N_k^2 / (N1^2 + N2^2) for k = 1, 2, (N,) each: two scalars for a whole picture.

    N_k is the largest nuclear norm (sum of singular values) among the 64 channel maps of f_k, (N,
    64, H, W), after a softmax over the channels.
    """
    n1, n2 = (largest_nuclear_norm(f).square() for f in (f1, f2))
    return n1 / (n1 + n2), n2 / (n1 + n2)


def largest_nuclear_norm(features: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N,), the largest nuclear norm among the maps of a softmax over C.

    A nuclear norm is at most sqrt(min(H, W)) times the Frobenius norm. Maps are decomposed in the
    order of that bound until no bound exceeds the largest norm found: a few of the 64 as a rule,
    with the result of all. (Eigenvalues of the Gram matrices would be quicker than singular values,
    but their roots are off by 7e-5 in float32.)
    """
    maps = features.softmax(dim=1, dtype=torch.promote_types(features.dtype, torch.float32))
    bounds, order = (maps.flatten(2).norm(dim=2) * min(maps.shape[2:]) ** 0.5).sort(
        dim=1, descending=True
    )
    largest = maps.new_zeros(len(maps))
    for channels, bound in zip(
        order.split(MAPS_AT_ONCE, dim=1), bounds.split(MAPS_AT_ONCE, dim=1), strict=True
    ):
        if (bound[:, 0] <= largest).all():
            break
        chosen = maps.take_along_dim(channels[:, :, None, None], dim=1)
        largest = torch.maximum(largest, torch.linalg.svdvals(chosen).sum(dim=-1).amax(dim=1))
    return largest


def fl1n(f1: torch.Tensor, f2: torch.Tensor) -> torch.Tensor:
    """w1 f1 + w2 f2 with w_k = |f_k|_1 / (|f1|_1 + |f2|_1), over all that belongs to a picture."""
    return l1_norm(f1.unsqueeze(1), f2.unsqueeze(1)).squeeze(1)


RULES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sfnn": sfnn,
    "fl1n": fl1n,
    "fer": feature_energy_ratio,
    "average": average,
    "addition": addition,
}


class DILRAN(nn.Module):
    """The DILRAN network on slices of even height and width: the authors' v5, their best.

    Args:
        rule: how the encoder features of MRI and PET become one, a name in `RULES`. The authors
            test with "sfnn" and train on pairs with "fl1n".
        statistics: what evaluation mode normalises by, see `ImageNorm`. The released code never
            leaves training mode and tests one picture at a time, which is "batch" here; its weights
            need it. "running" is what an evaluation mode would do: the norm is shared by two
            tensors of different distribution, and its running averages fit neither.

    Raises:
        ValueError: for an unknown name.
    """

    multiple = 2
    one_slice = False  # statistics and weights of the rule are those of each picture, in any batch
    padding = "replicate"
    UNUSED = ("fe.conv_id.*", "fe.conv2.*", "fe.bnorm.*", "fe.fe.dilran.bnorm.*")

    def __init__(self, rule: str = "sfnn", statistics: str = "batch") -> None:
        super().__init__()
        for value, known in ((rule, RULES), (statistics, STATISTICS)):
            if value not in known:
                raise ValueError(f"DILRAN does not know {value!r}, choose from {', '.join(known)}")
        self.fuse_features = RULES[rule]
        self.fe = Encoder(statistics)
        self.recon = Decoder()

    def forward(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        """Fuse slices (N, 1, H, W) in [0, 1], H and W even.

        Returns:
            The fused slices (N, 1, H, W) as the decoder gives them: unbounded, a picture in [0, 1]
            but for few values around it. Swapping the inputs changes nothing.
        """
        if mri.is_cpu and not self.training:
            # One at a time stays in the caches: 1.5 times as quick.
            pairs = zip(mri.split(1), pet.split(1), strict=True)
            return torch.cat([self._fuse(*pair) for pair in pairs])
        return self._fuse(mri, pet)

    def _fuse(self, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
        return self.recon(self.fuse_features(self.fe(pet), self.fe(mri)))

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        """Encode and decode one picture without fusion, as in the authors' training.

        Args:
            image: (N, 1, H, W) in [0, 1], H and W even.

        Returns:
            (N, 1, H, W) on the scale of the input, not clipped.
        """
        return self.recon(self.fe(image))
