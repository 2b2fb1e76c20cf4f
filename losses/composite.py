"""Likeness to the composite: a weighted sum of both sources, which an almost linear map reaches."""

import torch

from losses.gradient import gradient_distance
from losses.precision import at_least_float32
from losses.salient import salience, window_variance
from losses.ssim import C1, C2, blur, check_size

KEPT = 0.8  # of both sources' contrast at equal weights: SSIM with either is largest at 0.7
GAIN = 4.5  # of the gradient term


def composite(mri: torch.Tensor, pet: torch.Tensor, share: float) -> torch.Tensor:
    """KEPT (2 t MRI + 2 (1 - t) PET): what contrast and edges are compared with.

    Args:
        mri, pet: (B, 1, D, H, W), in [0, 1]; or what is linear in them.
        share: t, the MRI's share of the weights, 0 to 1.
    """
    return 2 * KEPT * (share * mri + (1 - share) * pet)


def composite_ssim_losses(
    fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor, share: float
) -> list[torch.Tensor]:
    """1/2 mean(1 - c) + 1/2 mean(n_s (1 - c_s)) + mean(n_s (1 - l_s)) for s = MRI, PET.

    l_s and c_s are the luminance and the contrast-structure factor of SSIM against source s, n_s
    its salience (see `losses.salient`), c the contrast-structure factor against the composite.
    Where one source is flat the other one sets the brightness, too: a masked PET does not ask for a
    black scalp.

    Args:
        fused: (B, 1, D, H, W), intensities around [0, 1].
        mri, pet: same shape, in [0, 1].
        share: the MRI's share of the weights, see `composite`.

    Returns:
        Two scalar tensors, MRI's and PET's term, float32 (float64 for float64 input), computed
        outside autocast.

    Raises:
        ValueError: if a side is shorter than the window of 11 voxels.
    """
    return CompositeSsim(mri, pet, share)(fused)


class CompositeSsim:
    """`composite_ssim_losses` of one pair, fused -> two terms: its own windows are computed once.

    Args and raises: as `composite_ssim_losses`.
    """

    @torch.no_grad()
    def __init__(self, mri: torch.Tensor, pet: torch.Tensor, share: float) -> None:
        check_size(mri)
        self.share = share
        with torch.autocast(mri.device.type, enabled=False):
            self.sources = [at_least_float32(source) for source in (mri, pet)]
            references = [*self.sources, composite(*self.sources, share)]
            # B, 1, D - 10, H - 10, W - 10 each
            means = [blur(volume) for volume in references]
            self.means = means[:2]
            self.variances = list(map(window_variance, references, means))
            self.weights = salience(*self.variances[:2])

    def __call__(self, fused: torch.Tensor) -> list[torch.Tensor]:
        """The MRI's and the PET's term of a fused volume."""
        with torch.autocast(fused.device.type, enabled=False):
            fused = at_least_float32(fused)
            mean_f = blur(fused)
            variance_f = blur(fused * fused) - mean_f * mean_f
            covariances = [
                blur(fused * source) - mean_f * mean
                for source, mean in zip(self.sources, self.means, strict=True)
            ]
            covariances.append(composite(*covariances, self.share))  # the composite is linear
            unlike = [
                1 - (2 * covariance + C2) / (variance_f + variance + C2)
                for covariance, variance in zip(covariances, self.variances, strict=True)
            ]
            with_composite = unlike[-1].mean()
            losses = []
            for weight, mean, different in zip(self.weights, self.means, unlike, strict=False):
                luminance = (2 * mean_f * mean + C1) / (mean_f * mean_f + mean * mean + C1)
                structure = (with_composite + (weight * different).mean()) / 2
                losses.append(structure + (weight * (1 - luminance)).mean())
            return losses


def composite_gradient_losses(
    fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor, share: float
) -> list[torch.Tensor]:
    """GAIN times the mean over voxels of |grad fused - grad composite|, for both sources.

    The two values are one: the share has weighed the sources already.

    Args and returns: as `composite_ssim_losses`.
    """
    with torch.autocast(fused.device.type, enabled=False):
        wanted = composite(at_least_float32(mri), at_least_float32(pet), share)
        loss = GAIN * gradient_distance(at_least_float32(fused), wanted)
        return [loss, loss]
