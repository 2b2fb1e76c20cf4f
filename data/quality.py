"""Whether volumes and pairs can be believed: what all programs say of them, in words.

Of a volume: hot and stray voxels, and the ripple of a resampling (`remarks_on_values`, in
preparation and training, too). Of a pair on one grid: whether the PET lies right.
No template and no registration, as preparation has them: a PET that lies right explains more of the
MRI than a copy of it that is shifted or turned over. Measured on the right pairs of the tests (SPM
templates, an ICBM head, synthetic heads), as shares of what the PET in its place explains (NMI
above 1): the best shifted copy 0.55 to 1.01, the best turned one 0.15 to 0.67. Of the same pairs
shifted by 10 mm along or across the axes, the best copy explains 1.15 to 3.4 times as much.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from data.foreground import LEAST_PART, head, hot_remark
from data.grids import Image, coarser, sides
from data.volume import ALIGNED, Volume
from utils.errors import notice

BINS = 32
_GRID_MM = 4.0  # voxels of the copies that are compared
_LEAST_HEAD = 1000  # voxels of these copies: of fewer a joint histogram says nothing
_SHIFTS = 1, 2, 3  # voxels of these copies
_CLEARLY = 1.1  # times as much has a shifted copy to explain
_BRAIN_MM = 110.0  # from the crown: what lies below may be outside any PET's field of view
_SIGNAL_ABOVE = 0.02  # of the 95th percentile in the head: inside the PET's field of view
_LEAST_FILLED = 0.1  # of a plane of the head: less is none of the PET's
_LEAST_COVER = 0.7  # a PET of the brain alone has no planes for the scalp and the face
_CLIP = 99.5  # percentile
_APART_MM = 8.0  # blocks of voxels: what no neighbouring ones join to the head lies apart
_FAINT = 1e-3  # of the 99th percentile: closer to 0 is 0
_LEAST_RIPPLE = 1e-3  # of the voxels; fewer below 0 are no ripple
# Along each axis, RAS+.
_ENDS = ("left", "right"), ("back", "front"), ("bottom", "top")
_TURNS = (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)  # left and right alone look too much alike


def nmi(
    first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None, bins: int = BINS
) -> float:
    """Normalised mutual information (H(a) + H(b)) / H(a, b) of two arrays of one shape, 1 to 2.

    From a joint histogram of `bins` x `bins` equal steps between each array's extremes inside the
    mask (Studholme et al., Pattern Recognition 32, 1999). 1 where either is constant.
    """
    if mask is not None:
        first, second = first[mask], second[mask]
    if not first.size or first.min() == first.max() or second.min() == second.max():
        return 1.0
    cells = _levels(first, bins) * bins + _levels(second, bins)
    counts = np.bincount(cells, minlength=bins * bins)
    joint = counts.reshape(bins, bins) / first.size
    separate = _entropy(joint.sum(0)) + _entropy(joint.sum(1))
    return float(separate / _entropy(joint))


def _levels(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    levels = (values.ravel() - low) * (bins / (high - low))
    return np.minimum(levels, bins - 1).astype(np.intp)


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return -float((shares * np.log(shares)).sum())


def strange_view(volume: Volume, limits: tuple[float, float]) -> str | None:
    """The field of view for people, where a side of it is outside the limits in mm; else None."""
    sizes = np.multiply(volume.array.shape, volume.voxel_mm)
    if limits[0] <= min(sizes) and max(sizes) <= limits[1]:
        return None
    return " x ".join(f"{size:.0f}" for size in sizes) + " mm"


def remarks_on_values(role: str, array: np.ndarray, voxel_mm: Sequence[float]) -> list[str]:
    """What is odd about the values of a volume, one line each; nothing of a clean one.

    Hot voxels of either; of an MRI, whose foreground decides, stray voxels and ripple, too. None of
    them is a part of the head, and none decides what is white (`data.foreground`).

    Args:
        role: "MRI" or "PET".
        array: (X, Y, Z).
        voxel_mm: its voxels' sides.
    """
    hot = hot_remark(array)
    return ([hot] if hot else []) + _remarks_on_foreground(role, array, voxel_mm)


def _remarks_on_foreground(role: str, array: np.ndarray, voxel_mm: Sequence[float]) -> list[str]:
    """Those of `remarks_on_values` that nothing else says."""
    if role != "MRI":
        return []
    return list(filter(None, (_stray_remark(array, voxel_mm), _ripple_remark(array))))


def _stray_remark(mri: np.ndarray, voxel_mm: Sequence[float]) -> str | None:
    """What to say of voxels above 0 apart from the head.

    Noise that fills the air reaches the head, so it is none.
    """
    counts = (mri > 0).astype(np.int32)
    for axis, side in enumerate(voxel_mm):
        starts = np.arange(0, counts.shape[axis], max(1, int(_APART_MM / side)))
        counts = np.add.reduceat(counts, starts, axis)
    parts, _ = ndimage.label(counts > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), counts.ravel()).astype(int)  # voxels above 0 in each
    number = sizes[sizes < LEAST_PART * sizes.max()].sum()
    if not number:
        return None
    noun, verb = ("voxels", "lie") if number > 1 else ("voxel", "lies")
    return f"{number} {noun} above 0 {verb} apart from the head: stray, no part of it"


def _ripple_remark(mri: np.ndarray) -> str | None:
    """What to say of values on both sides of 0 where there should be air."""
    if mri.min() >= 0 or mri.max() <= 0:
        return None
    bright = float(np.percentile(mri[mri > 0], 99))
    below = np.count_nonzero(mri < -_FAINT * bright) / mri.size
    if below < _LEAST_RIPPLE:
        return None
    depth = f"by up to {-float(mri.min()) / bright:.1%} of its 99th percentile"
    said = f"{below:.1%} of the voxels are below 0, {depth}"
    return f"{said}: ripple of a resampling or noise, no part of the head"


def say_remarks(mri: Volume, pet: Volume) -> list[str]:
    """What is odd about the values of a pair, said in a line each and returned.

    Hot voxels are not said here: who clips them says what became of them.
    """
    found = []
    for role, volume in (("MRI", mri), ("PET", pet)):
        hot = hot_remark(volume.array)
        others = _remarks_on_foreground(role, volume.array, volume.voxel_mm)
        for remark in others:
            notice(f"{volume.path}: {remark}")
        found += [f"{role}: {remark}" for remark in ([hot] if hot else []) + others]
    return found


def say_doubts(case: str, mri: Volume, pet: Volume) -> list[str]:
    """What speaks against a pair, each doubt said in a line and returned.

    Args:
        case: whose pair it is.
        mri, pet: on one grid, as `data.volume.read_pair` has them.
    """
    doubts = []
    if shown := strange_view(mri, ALIGNED["MRI"].view_mm):
        doubts.append(f"the MRI's field of view is {shown}, no head's: is its voxel size right?")
    doubts += doubts_of_place(mri, pet)
    for doubt in doubts:
        notice(f"{case}: {doubt}")
    return doubts + say_remarks(mri, pet)


def doubts_table(doubts: Mapping[str, Sequence[str]]) -> str:
    """The end of a batch: a line for each doubt, and how many cases have none.

    Args:
        doubts: of each case.
    """
    width = max(map(len, doubts), default=0)
    lines = []
    for case, found in doubts.items():
        lines += [f"{case:{width}}  {doubt}" for doubt in found]
    clear = sum(not found for found in doubts.values())
    return "\n".join([*lines, f"nothing speaks against {clear} of {len(doubts)} pairs"])


def doubts_of_place(mri: Volume, pet: Volume) -> list[str]:
    """What speaks against the PET's place on the MRI; nothing where the head is too small to tell.

    Args:
        mri, pet: on one grid.
    """
    inside = _copy(mri)
    region = head(inside.array)
    if np.count_nonzero(region) < _LEAST_HEAD:
        return []
    uptake = _copy(pet).array
    doubts = _doubts_of_cover(uptake, region, sides(inside.affine))
    explained = nmi(inside.array, uptake, region) - 1
    turned = max(nmi(inside.array, copy, region) for copy in _turned(uptake, region)) - 1
    best, way = _best_shift(inside.array, uptake, region, sides(inside.affine))
    shifted = best - 1
    if turned >= max(explained, shifted):
        doubts.append("the PET fits better turned over: is its orientation right?")
    elif shifted > _CLEARLY * explained:
        doubts.append(f"the PET fits better moved by {way}: is it aligned to the MRI?")
    return doubts


def _copy(volume: Volume) -> Image:
    """A coarse copy without outliers and without values below 0."""
    array = np.maximum(volume.array, 0)
    bright = array[array > 0]
    limit = np.percentile(bright, _CLIP) if bright.size else 0
    return coarser(Image(np.minimum(array, limit), volume.affine), _GRID_MM)


def _doubts_of_cover(pet: np.ndarray, region: np.ndarray, voxel_mm: np.ndarray) -> list[str]:
    """Axes along which the PET has nothing for much of the head's upper part."""
    planes = np.flatnonzero(region.any(axis=(0, 1)))
    upper = region.copy()
    upper[:, :, : max(0, planes[-1] - int(_BRAIN_MM / voxel_mm[2]))] = False
    signal = upper & (pet > _SIGNAL_ABOVE * np.percentile(pet[upper], 95))
    doubts = []
    for axis, (first, last) in enumerate(_ENDS):
        others = tuple({0, 1, 2} - {axis})
        there = upper.sum(axis=others)
        filled = signal.sum(axis=others) > _LEAST_FILLED * there
        share = filled.sum() / np.count_nonzero(there)
        if share < _LEAST_COVER:
            doubts.append(f"the PET covers only {share:.0%} of the head from {first} to {last}")
    return doubts


def _turned(pet: np.ndarray, region: np.ndarray) -> list[np.ndarray]:
    """The PET turned over or mirrored within the head's box, all but left and right alone."""
    filled = np.argwhere(region)
    ends = filled.min(axis=0) + filled.max(axis=0)
    copies = []
    for axes in _TURNS:
        copy = np.flip(pet, axes)
        for axis in axes:
            copy = _shifted(copy, axis, int(ends[axis]) - (pet.shape[axis] - 1))
        copies.append(copy)
    return copies


def _best_shift(
    mri: np.ndarray, pet: np.ndarray, region: np.ndarray, voxel_mm: np.ndarray
) -> tuple[float, str]:
    """The largest NMI of a shifted copy of the PET, and in words where that lies."""
    best, way = 0.0, ""
    for axis, ends in enumerate(_ENDS):
        for steps in _SHIFTS:
            for sign, end in zip((-1, 1), ends, strict=True):
                found = nmi(mri, _shifted(pet, axis, sign * steps), region)
                if found > best:
                    best, way = found, f"{steps * voxel_mm[axis]:.0f} mm to the {end}"
    return best, way


def _shifted(array: np.ndarray, axis: int, steps: int) -> np.ndarray:
    """The array moved by whole voxels, so that no interpolation smooths it; 0 comes after it."""
    moved = np.zeros_like(array)
    side = array.shape[axis]
    if abs(steps) >= side:
        return moved
    to, source = [slice(None)] * 3, [slice(None)] * 3
    to[axis] = slice(max(steps, 0), side + min(steps, 0))
    source[axis] = slice(max(-steps, 0), side - max(steps, 0))
    moved[tuple(to)] = array[tuple(source)]
    return moved
