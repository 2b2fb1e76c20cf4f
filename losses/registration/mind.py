"""MIND-SSC: images compared by how alike the places around each voxel are, whatever their contrast.

Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using
self-similarities", MICCAI 2013. It compares within a contrast and across MRI contrasts; between PET
and MRI a free warp can do better by it than the true one does.
"""

import torch
from torch.nn import functional as F

from losses.precision import at_least_float32
from losses.registration.boxes import box_mean

DISTANCE = 2  # voxels between a voxel and its six neighbours
BOX = 5
NEIGHBOURS = ((-1, 0, 0), (0, 0, -1), (0, -1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0))
_LEAST, _MOST = 1e-3, 1e3  # of a voxel's variance, beside the mean one


def mind_loss(warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the descriptors; 0 for equal images; symmetric.

    Args:
        warped: (B, 1, D, H, W).
        fixed: same.
    """
    with torch.autocast(warped.device.type, enabled=False):
        difference = descriptor(at_least_float32(warped)) - descriptor(at_least_float32(fixed))
        return difference.square().mean()


def descriptor(image: torch.Tensor) -> torch.Tensor:
    """exp(-M/V) of the twelve pairs of neighbours: (B, 1, D, H, W) -> (B, 12, D, H, W) in (0, 1].

    S of a pair is the mean over a 5x5x5 box of the squared difference of the image moved to one
    neighbour and to the other, borders replicated; M = S - min over the pairs, V = its mean over
    the pairs, kept within a thousandth and a thousand times its mean over the batch. A constant
    image gives 1 everywhere.
    """
    moved = [_moved(image, offset) for offset in NEIGHBOURS]
    squares = torch.cat([(moved[a] - moved[b]).square() for a, b in neighbour_pairs()], dim=1)
    reach = (BOX // 2,) * 6
    distances = box_mean(F.pad(squares, reach, mode="replicate"), BOX, 0)  # B, 12, D, H, W
    distances = distances - distances.amin(dim=1, keepdim=True)
    variance = distances.mean(dim=1, keepdim=True)  # B, 1, D, H, W
    usual = variance.mean().detach()
    variance = variance.clamp(usual * _LEAST, usual * _MOST)
    tiny = torch.finfo(variance.dtype).tiny  # where all is constant: 0 / tiny instead of 0 / 0
    return (-distances / variance.clamp(min=tiny)).exp()


def neighbour_pairs() -> list[tuple[int, int]]:
    """The twelve pairs (a, b), a > b, of neighbours that are not opposite each other."""
    pairs = []
    for a, first in enumerate(NEIGHBOURS):
        for b, second in enumerate(NEIGHBOURS[:a]):
            if sum((i - j) ** 2 for i, j in zip(first, second, strict=True)) == 2:
                pairs.append((a, b))
    return pairs


def _moved(image: torch.Tensor, offset: tuple[int, int, int]) -> torch.Tensor:
    """The image at every voxel plus DISTANCE times an offset, borders replicated."""
    padded = F.pad(image, (DISTANCE,) * 6, mode="replicate")
    for axis, step in enumerate(offset, start=2):
        start = DISTANCE * (1 + step)
        padded = padded.narrow(axis, start, image.shape[axis])
    return padded
