"""PSNR, SSIM and NMI of large volumes, a block at a time: memory does not grow with the volume.

They are those of `metrics.score`, volume protocol without a mask: the same windows and bins, so
that only the order of summation differs.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from . import information as info
from . import ssim
from .psnr import psnr_of

NAMES = ("psnr", "ssim", "nmi")
PLANES = 8  # of the first axis that are binned at once
WINDOWS = 64  # of SSIM a side of a block: its arrays stay in a CPU's cache


def score_in_blocks(
    fused: Sequence[np.ndarray], mri: np.ndarray, pet: np.ndarray
) -> list[dict[str, float]]:
    """Score several fused volumes of one subject.

    Args:
        fused, mri, pet: (X, Y, Z) arrays of one shape, intensities in [0, 1].

    Returns:
        for each fused volume {"psnr_mri": .., "psnr_pet": .., "ssim_mri": .., and so on}; NaN where
        a formula has no value.
    """
    sources = {"mri": mri, "pet": pet}
    errors, counts = _errors_and_counts(fused, list(sources.values()))
    similarity = _similarity(fused, list(sources.values()))
    scores = []
    for i in range(len(fused)):
        values = {}
        for j, name in enumerate(sources):
            values[f"psnr_{name}"] = float(psnr_of(errors[i, j] / mri.size))
            values[f"ssim_{name}"] = float(similarity[i, j])
            values[f"nmi_{name}"] = float(info.nmi_of(counts[i, j]))
        scores.append(values)
    return scores


def _errors_and_counts(
    fused: Sequence[np.ndarray], sources: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Of each fused volume and source: the sum of squared differences, the joint histogram."""
    bins = info.NMI_BINS
    errors = torch.zeros(len(fused), len(sources), dtype=torch.float64)
    counts = torch.zeros(len(fused), len(sources), bins, bins, dtype=torch.int64)
    volumes = [*fused, *sources]
    ranges = [(np.float64(volume.min()), np.float64(volume.max())) for volume in volumes]
    for start in range(0, len(volumes[0]), PLANES):
        slabs = [_values(volume[start : start + PLANES]).flatten() for volume in volumes]
        binned = [info.bin_between(s, *r, bins) for s, r in zip(slabs, ranges, strict=True)]
        for i, j in product(range(len(fused)), range(len(sources))):
            k = len(fused) + j
            errors[i, j] += (slabs[i] - slabs[k]).square_().sum()
            joint = torch.bincount(binned[i] * bins + binned[k], minlength=bins**2)
            counts[i, j] += joint.view(bins, bins)
    return errors, counts


def _similarity(fused: Sequence[np.ndarray], sources: Sequence[np.ndarray]) -> Tensor:
    """Mean SSIM of each fused volume to each source; NaN where no window fits in."""
    total = torch.zeros(len(fused), len(sources), dtype=torch.float64)
    shape = [side - ssim.WINDOW + 1 for side in sources[0].shape]
    if min(shape) < 1:
        return total + math.nan
    for block in _blocks(shape):
        known = [ssim.moments(_values(source[block])[None]) for source in sources]
        for i, volume in enumerate(fused):
            mine = ssim.moments(_values(volume[block])[None])
            for j, other in enumerate(known):
                total[i, j] += ssim.ssim_from(mine, other).item() * mine.mean.numel()
    return total / math.prod(shape)


def _blocks(windows: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The voxels that each block of windows reaches."""
    starts = [range(0, side, WINDOWS) for side in windows]
    for corner in product(*starts):
        block = []
        for start, side in zip(corner, windows, strict=True):
            block.append(slice(start, min(start + WINDOWS, side) + ssim.WINDOW - 1))
        yield tuple(block)


def _values(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float64))
