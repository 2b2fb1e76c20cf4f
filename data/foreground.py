"""Where the head is, and how bright: what one stray or hot voxel must not decide.

The released code takes `mri > 0` for the head and the largest value for white. The paper's recipe
asks for more than one voxel: see `head` and `without_hot_voxels`. On volumes whose background is 0
and that have no outlier both are the same.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from data.settings import Recipe
from data.volume import Volume
from utils.errors import notice

DARK = 0.03  # of the MRI's 99th percentile: below it may be ripple or noise around the head
LEAST_PART = 0.1  # of the largest component; a smaller one is no part of the head
HOT = 3.0  # times the 99.9th percentile of what is above 0; a head has less (docs/data.md)

Box = tuple[slice, slice, slice]


def foreground(mri: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Where the recipe sees the head, cavities filled; (X, Y, Z) bool."""
    return head(mri) if recipe.robust else above_zero(mri)


def above_zero(mri: np.ndarray) -> np.ndarray:
    """As released: where the MRI is above 0, cavities filled; (X, Y, Z) bool."""
    return _filled(mri > 0)


def head(mri: np.ndarray) -> np.ndarray:
    """Where the MRI shows a head, cavities filled; (X, Y, Z) bool.

    What is brighter than 3 % of the 99th percentile and hangs together: no ripple, noise or stray
    voxel around it. An MRI that has nothing above 0 has no head.
    """
    positive = mri > 0
    if not positive.any():
        return positive
    return _filled(_large_parts(mri > DARK * np.percentile(mri[positive], 99)))


def box_of(mask: np.ndarray) -> Box:
    """The bounding box of a mask; the whole grid where nothing is true."""
    box = []
    for axis, side in enumerate(mask.shape):
        filled = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (filled[0], filled[-1] + 1) if filled.size else (0, side)
        box.append(slice(int(low), int(high)))
    return tuple(box)


def _large_parts(mask: np.ndarray) -> np.ndarray:
    """The largest component, diagonal neighbours included, and those a tenth as large."""
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0  # the background
    return (sizes >= LEAST_PART * sizes.max())[parts] & mask


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask with what it encloses: `scipy.ndimage.binary_fill_holes`, in one pass.

    That one peels the outside off voxel by voxel, which takes minutes at 512^3.
    """
    box = box_of(mask)
    outside, _ = ndimage.label(np.pad(~mask[box], 1, constant_values=True))
    filled = mask.copy()
    filled[box] = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return filled


def hot_limit(array: np.ndarray) -> float | None:
    """The value above which a volume's voxels are outliers, None where there is none.

    It is the 99.9th percentile of the values above 0, if the largest is three times as much.
    """
    positive = array[array > 0]
    if not positive.size:
        return None
    limit = float(np.percentile(positive, 99.9))
    return limit if array.max() > HOT * limit else None


def hot_remark(array: np.ndarray) -> str | None:
    """What to say of a volume with outliers, None where there is none."""
    limit = hot_limit(array)
    if limit is None:
        return None
    number, times = np.count_nonzero(array > HOT * limit), array.max() / limit
    return f"voxels up to {times:.0f} times as bright as the rest ({number} of them)"


def without_hot_voxels(pair: tuple[Volume, Volume], clip: bool) -> tuple[Volume, Volume]:
    """MRI and PET with outliers clipped, and a notice for each volume that has any.

    Args:
        clip: otherwise only the notice: the outliers stay white beside a dark head.
    """
    mri, pet = (_without_hot_voxels(volume, clip) for volume in pair)
    return mri, pet


def _without_hot_voxels(volume: Volume, clip: bool) -> Volume:
    limit = hot_limit(volume.array)
    if limit is None:
        return volume
    what = f"{volume.path}: {hot_remark(volume.array)}"
    if not clip:
        notice(f"{what}; the brightest is white, as released, and the rest is dark")
        return volume
    notice(f"{what}; what is above {limit:.4g}, the 99.9th percentile, is white")
    return replace(volume, array=np.minimum(volume.array, np.float32(limit)))


def scale_between(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bring low to 0 and high to 1, and clip what is beyond; float32.

    A volume at its own resolution has higher peaks than after the resize: with the ends of the
    resized one both are on one scale.
    """
    scaled = array.astype(np.float32)
    scaled -= np.float32(low)
    scaled /= np.float32(max(high - low, np.finfo(np.float32).tiny))  # a constant volume has none
    return np.clip(scaled, 0, 1, out=scaled)
