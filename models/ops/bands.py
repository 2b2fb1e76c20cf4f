"""The head of bands: a volume's fine bands, and their sum by coefficients; fast and plain.

On a GPU the plain forms are taken: its libraries have a convolution and an interpolation that are
fast there, and matrix products in TF32 would be no differences of Gaussians any more.
"""

import torch
from torch.nn import functional as F

from models import ops
from models.ops.stream_maps import PATCH

SIGMAS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # voxels; what lies between two of them is a band
KERNEL = 7


def fine_bands(volume: torch.Tensor, kernels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The differences of Gaussians of a volume, finest first, and the volume at the widest.

    The fast form filters along one axis after the other. Beyond its border a volume goes on as it
    ends there.

    Args:
        volume: (B, 1, D, H, W), float32 or float64.
        kernels: (6, 7), see `gaussian_kernels`; of the volume's type and device.

    Returns:
        (B, 6, D, H, W) and (B, 1, D, H, W), which add up to the volume.
    """
    padded = F.pad(volume, (KERNEL // 2,) * 6, mode="replicate")
    if _is_plain(volume):
        fine = F.conv3d(padded, difference_of_gaussians(kernels))
        return fine, volume - fine.sum(dim=1, keepdim=True)
    number = len(SIGMAS)
    blurred = F.conv3d(padded, kernels.view(number, 1, KERNEL, 1, 1))
    blurred = F.conv3d(blurred, kernels.view(number, 1, 1, KERNEL, 1), groups=number)
    blurred = F.conv3d(blurred, kernels.view(number, 1, 1, 1, KERNEL), groups=number)
    levels = torch.cat((volume, blurred), dim=1)  # B, 7, D, H, W
    return levels[:, :-1] - levels[:, 1:], levels[:, -1:]


def interpolated(volume: torch.Tensor) -> torch.Tensor:
    """(B, C, D, H, W) -> (B, C, 4D, 4H, 4W), trilinear between the middles of patches.

    The fast form is a matrix product along each axis.
    """
    if _is_plain(volume):
        return F.interpolate(volume, scale_factor=PATCH, mode="trilinear")
    batch, channels, depth, height, width = volume.shape
    # The short products first: the last one, which makes the volume, is 4D x D.
    rows = volume.reshape(-1, width) @ _growth(width, volume).T  # .., 4W
    planes = _growth(height, volume) @ rows.view(-1, height, PATCH * width)  # .., 4H, 4W
    grown = _growth(depth, volume) @ planes.view(batch * channels, depth, -1)  # .., 4D, 4H 4W
    return grown.view(batch, channels, PATCH * depth, PATCH * height, PATCH * width)


def weighted_sum(coefficients: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """Bands times coefficients that are interpolated between the middles of patches, added up.

    The fast form adds band by band to what is there, so that no volume of all products is made.

    Args:
        coefficients: (B, C, D, H, W).
        bands: (B, C, 4D, 4H, 4W).

    Returns:
        (B, 1, 4D, 4H, 4W) in the bands' type.
    """
    if _is_plain(bands):
        return (interpolated(coefficients) * bands).sum(dim=1, keepdim=True)
    with torch.autocast(bands.device.type, enabled=False):
        smooth = interpolated(coefficients.to(bands.dtype))  # B, C, 4D, 4H, 4W
        total = smooth[:, :1] * bands[:, :1]
        for band in range(1, bands.shape[1]):
            one = slice(band, band + 1)
            total.addcmul_(smooth[:, one], bands[:, one])
        return total


def _is_plain(volume: torch.Tensor) -> bool:
    return ops.is_plain() or volume.device.type != "cpu"


def _growth(side: int, like: torch.Tensor) -> torch.Tensor:
    """(4 side, side): a row of weights for each voxel; the interpolation of unit vectors."""
    units = torch.eye(side, dtype=like.dtype, device=like.device)
    return F.interpolate(units[None], scale_factor=PATCH, mode="linear")[0].T


def gaussian_kernels() -> torch.Tensor:
    """(6, 7) float64: a Gaussian of each of SIGMAS along one axis; each sums to 1."""
    voxel = torch.arange(KERNEL, dtype=torch.float64) - KERNEL // 2
    weights = torch.exp(-0.5 * (voxel / torch.tensor(SIGMAS).double()[:, None]) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def difference_of_gaussians(kernels: torch.Tensor) -> torch.Tensor:
    """(6, 7) -> (6, 1, 7, 7, 7): what lies between two widths, finest first; each sums to 0."""
    point = F.pad(kernels.new_ones(1, 1), (KERNEL // 2,) * 2)
    along = torch.cat((point, kernels))
    cubes = torch.einsum("nd,nh,nw->ndhw", along, along, along)
    return (cubes[:-1] - cubes[1:])[:, None]
