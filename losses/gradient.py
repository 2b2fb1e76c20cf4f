"""Edges: the fused volume is asked for the stronger of the sources' gradients, or for their sum."""

import torch
from torch.nn import functional as F

from losses.precision import at_least_float32

GAIN = 3.0  # of the additive term, found by its optima: see docs/measures.md
_EPS = 1e-12  # keeps the root differentiable where a volume is flat
_SMALL = 1e-3  # intensity per voxel below which the distance turns from a cone into a bowl


def gradient_losses(
    fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor
) -> list[torch.Tensor]:
    """Mean over voxels of m_s | |grad fused| - |grad s| | for s = MRI, PET.

    m_s is 1 where the source's gradient is the stronger of the two, 1/2 where both are equal, else
    0, so that the edges of both sources are kept rather than the MRI's alone. 0 if the fused volume
    has the stronger edge everywhere; lower is better.

    Args:
        fused: (B, 1, D, H, W), intensities around [0, 1].
        mri: same shape, in [0, 1].
        pet: same shape, in [0, 1].

    Returns:
        Two scalar tensors, MRI's and PET's term, float32 (float64 for float64 input), computed
        outside autocast.
    """
    with torch.autocast(fused.device.type, enabled=False):
        with torch.no_grad():
            edge_mri = gradient_magnitude(at_least_float32(mri))  # B, 1, D, H, W
            edge_pet = gradient_magnitude(at_least_float32(pet))
            mri_share = 0.5 * (1 + torch.sign(edge_mri - edge_pet))  # 1, 1/2 or 0
        edge = gradient_magnitude(at_least_float32(fused))
        mri_term = mri_share * (edge - edge_mri).abs()
        pet_term = (1 - mri_share) * (edge - edge_pet).abs()
        return [mri_term.mean(), pet_term.mean()]


def additive_gradient_losses(
    fused: torch.Tensor, mri: torch.Tensor, pet: torch.Tensor
) -> list[torch.Tensor]:
    """GAIN times the mean over voxels of |grad fused - grad MRI - grad PET|, for both sources.

    Whatever rises or falls in one source is to rise or fall by as much in the fused volume,
    whatever the other one does there: an edge or a lesion that only one source shows arrives in
    full. Least for the sum of both sources, and a constant added to it; lower is better.

    The two values are one: how the sources are weighed against each other here is not a matter of
    the gradients, which do not compete, and only the sum of both weights counts.

    Args and returns: as `gradient_losses`.
    """
    with torch.autocast(fused.device.type, enabled=False):
        wanted = at_least_float32(mri) + at_least_float32(pet)
        loss = GAIN * gradient_distance(at_least_float32(fused), wanted)
        return [loss, loss]


def gradient_distance(fused: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean over voxels of |grad fused - grad wanted|, a bowl where that is below 0.001."""
    return gradient_magnitude(fused - wanted, _SMALL**2).mean()  # the gradient is linear


def gradient_magnitude(volume: torch.Tensor, eps: float = _EPS) -> torch.Tensor:
    """sqrt(gx^2 + gy^2 + gz^2 + eps), (B, 1, D, H, W), in intensity per voxel.

    Each component is the 3-D Sobel kernel [1,2,1] x [1,2,1] x [-1,0,1] / 32 with replicated
    borders.
    """
    padded = F.pad(volume, (1,) * 6, mode="replicate")  # B, 1, D + 2, H + 2, W + 2
    smooth_w = _smooth(padded, 4)  # B, 1, D + 2, H + 2, W
    along_d = _difference(_smooth(smooth_w, 3), 2)  # B, 1, D, H, W
    along_h = _difference(_smooth(smooth_w, 2), 3)
    smooth_d = _smooth(padded, 2)  # B, 1, D, H + 2, W + 2
    along_w = _difference(_smooth(smooth_d, 3), 4)
    return torch.sqrt(along_d.square() + along_h.square() + along_w.square() + eps)


def _smooth(volume: torch.Tensor, axis: int) -> torch.Tensor:
    """[1, 2, 1] / 4 along an axis, two voxels shorter."""
    inner = volume.shape[axis] - 2
    before = volume.narrow(axis, 0, inner)
    here = volume.narrow(axis, 1, inner)
    after = volume.narrow(axis, 2, inner)
    return (before + 2 * here + after) / 4


def _difference(volume: torch.Tensor, axis: int) -> torch.Tensor:
    """[-1, 0, 1] / 2 along an axis, two voxels shorter."""
    inner = volume.shape[axis] - 2
    before = volume.narrow(axis, 0, inner)
    after = volume.narrow(axis, 2, inner)
    return (after - before) / 2
