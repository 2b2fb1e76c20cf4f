"""Bring a PET onto its MRI's grid, or both onto a template's, with figures to judge the result by.

PET to MRI is rigid, MRI to template affine; neither bends the anatomy that the fusion is meant to
show. Both are found on clipped copies of 2 mm; the values that come out are those of the scans,
interpolated once through the product of the matrices.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from data.displacement import Displacement, sample_through
from data.grids import Image, carry, sample, sides
from data.quality import nmi, strange_view
from data.volume import ALIGNED, Volume, check_background
from preparation.align.pose import find_pose, grown
from preparation.align.quality import measure, peak
from preparation.align.registration import register, working_copy
from preparation.align.template import (
    BRAIN_FOUND,
    MNI_AFFINE,
    MNI_SHAPE,
    Template,
    find_brain,
    load_template,
)
from preparation.align.warp import Network, measure_field, warp_flags
from utils.errors import InputError, notice

SPACES, MASKS = ("mri", "mni"), ("none", "head", "brain")
_BRAIN_RIM_MM, _HEAD_RIM_MM = 5.0, 4.0  # what `mask` leaves around the brain and around the head
# Movement between frames, at the corners of the field of view: less is not worth an interpolation,
# more is an error.
_LEAST_FRAME_MOTION_MM, _MOST_FRAME_MOTION_MM = 0.3, 20.0
# Signal of a frame, as a part of the clearest one's: from here on it can be the reference; below
# this its motion is not looked for.
_REFERENCE, _WEAK = 0.6, 0.4
_COARSE_MM = 5.0  # sigma that parts coarse structure from fine


@dataclass(frozen=True)
class AlignOptions:
    """How to align.

    Attributes:
        space: "mri": the MRI's own grid; "mni": 182 x 218 x 182 voxels of 1 mm in the template's
            space.
        template: a T1 template in MNI152 space; None takes nilearn's packaged one. It also gives
            the brain in which the result is judged, in either space.
        mask: what is kept of both volumes: "none" keeps all, "head" cuts the air away, "brain" all
            but the brain and 5 mm around it.
        warp: the network of a learned step after the affine one, for space "mni"; None for none.
        working_mm: voxel side that registration works at.
    """

    space: str = "mri"
    template: Path | None = None
    mask: str = "none"
    warp: Network | None = None
    working_mm: float = 2.0

    def __post_init__(self) -> None:
        if self.space not in SPACES or self.mask not in MASKS:
            given = f"space {self.space!r} and mask {self.mask!r}"
            raise ValueError(f"{given}: not of {SPACES} and {MASKS}")
        if self.warp and self.space != "mni":
            raise ValueError("a head is warped onto a template, in space 'mni'")


@dataclass(frozen=True)
class Aligned:
    """A pair on one grid.

    Arrays are (X, Y, Z) float32 in RAS+ order, finite, >= 0, 0 outside the field of view.

    Attributes:
        mri, pet: the two volumes, in the units of the scans.
        affine: (4, 4) voxel index -> world mm, of both.
        space: "mri" or "mni".
        template: name of the template.
        transforms: (4, 4) nested lists, RAS+ mm: "pet_to_mri", "mri_to_template", "mri_to_output",
            "pet_to_output".
        figures: see `preparation.align.quality.measure`, and "mri_peak", "pet_peak"; with a field
            also those of `preparation.align.warp.measure_field`.
        warnings: lines for people.
        field: the learned one that comes after the matrices, None where there is none. One that is
            not believed (`preparation.align.warp.warp_flags`) is kept, and the volumes are those
            without it.
        affine_mri: with a field the MRI without it, to be seen beside the warped one.
    """

    mri: np.ndarray
    pet: np.ndarray
    affine: np.ndarray
    space: str
    template: str
    transforms: dict[str, list[list[float]]]
    figures: dict[str, float | str]
    warnings: tuple[str, ...]
    field: Displacement | None = None
    affine_mri: np.ndarray | None = None


def align_pair(mri: Volume, pet: Volume, options: AlignOptions | None = None) -> Aligned:
    """Align a PET to its MRI, and both to a template if asked for.

    The same input gives the same bytes. A poor result is no error:
    `preparation.align.quality.judge` says so.

    Raises:
        InputError: a volume that no registration can take (NaN, infinity, one value, nothing above
            0, an MRI with much below 0, no head's size), ANTs gives up, antspyx or nilearn is
            missing.
    """
    options = options or AlignOptions()
    warnings = [*check_volume(mri, "MRI"), *check_volume(pet, "PET")]
    template = load_template(options.template)
    mri_image = Image(mri.array, mri.affine)
    pet_image = Image(pet.array, pet.affine)
    fixed = working_copy(mri_image, options.working_mm)
    moving = working_copy(pet_image, options.working_mm)
    fit = find_brain(fixed, template, options.working_mm)
    found = fit.correlation >= BRAIN_FOUND
    region = fit.brain if found else head_mask(fixed)
    if not region.any():
        raise InputError(mri.path, "no head was found in the MRI", "look at it in a viewer")
    pose = find_pose(fixed, moving, region, metric_mask=found)
    figures = measure(fixed, moving, fit, region, pose)
    figures |= {"mri_peak": peak(mri.array), "pet_peak": peak(pet.array)}

    mri_to_output = fit.matrix if options.space == "mni" else np.eye(4)
    transforms = {
        "pet_to_mri": pose.matrix,
        "mri_to_template": fit.matrix,
        "mri_to_output": mri_to_output,
        "pet_to_output": mri_to_output @ pose.matrix,  # the PET goes to the MRI first
    }
    if options.space == "mni":
        shape, affine = MNI_SHAPE, MNI_AFFINE
        mri_values = sample(mri_image, shape, affine, mri_to_output)
    else:
        # Its own grid: nothing to interpolate.
        shape, affine = mri.array.shape, mri.affine
        mri_values = mri.array
    pet_values = sample(pet_image, shape, affine, transforms["pet_to_output"])
    inside = True
    if options.mask != "none":
        kept = _kept(options.mask, fixed, region)
        inside = sample(kept, shape, affine, mri_to_output) > 0.5
    aligned = Aligned(
        mri=np.where(inside, np.maximum(mri_values, 0), np.float32(0)),
        pet=np.where(inside, np.maximum(pet_values, 0), np.float32(0)),
        affine=np.array(affine),
        space=options.space,
        template=template.name,
        transforms={name: matrix.tolist() for name, matrix in transforms.items()},
        figures=figures,
        warnings=tuple(warnings),
    )
    if options.warp is None:
        return aligned
    sources = {"mri": mri_image, "pet": pet_image}
    if options.mask != "none":
        sources["kept"] = kept
    return bent(aligned, sources, transforms, template, options.warp)


def bent(
    aligned: Aligned,
    sources: dict[str, Image],
    transforms: dict[str, np.ndarray],
    template: Template,
    network: Network,
) -> Aligned:
    """A pair on the template with the learned field behind its matrices, one interpolation each.

    Args:
        sources: "mri" and "pet" as they were read, and "kept" on the MRI's grid with a mask.
        transforms: the matrices by name.
    """
    grid = aligned.mri.shape, aligned.affine
    field = network.field(Image(aligned.mri, aligned.affine), template.head)
    matrices = {"mri": transforms["mri_to_output"], "pet": transforms["pet_to_output"]}
    matrices["kept"] = transforms["mri_to_output"]
    found = {}
    for name, image in sources.items():
        found[name] = sample_through(image, *grid, field, matrices[name])
    inside = found["kept"] > 0.5 if "kept" in found else True
    for name in ("mri", "pet"):
        found[name] = np.where(inside, np.maximum(found[name], 0), np.float32(0))
    measured = measure_field(field, aligned.mri, found["mri"], aligned.affine, template)
    about = {"figures": aligned.figures | measured, "field": field, "affine_mri": aligned.mri}
    if warp_flags(measured):
        return replace(aligned, **about)
    return replace(aligned, mri=found["mri"], pet=found["pet"], **about)


def align_frames(frames: Sequence[np.ndarray], affine: np.ndarray) -> list[np.ndarray]:
    """Align the frames of a dynamic PET rigidly to the first one that has a clear signal.

    Frames without one, such as the first of a scan from the injection on, would be turned by their
    noise: they are moved with the nearest frame that has one, with a notice. A frame whose movement
    cannot be believed (more than 20 mm at a corner of the field of view, or less agreement than
    before) is left where it is, with a notice.

    Args:
        frames: (X, Y, Z) arrays of one shape, finite; a blank one is as good as any other.
        affine: (4, 4) voxel index -> world mm, of all.

    Returns:
        float32 arrays; the reference as it was.

    Raises:
        InputError: a frame with NaN or infinity, nothing above 0 in any, or ANTs is not installed.
    """
    copies = [_frame_copy(number, frame, affine) for number, frame in enumerate(frames, start=1)]
    signals = [_signal(copy) for copy in copies]
    best = max(signals)
    if best == 0:
        remedy = "leave the scan out or take its averaged version"
        raise InputError("PET frames", "none has anything to align by", remedy)
    reference = next(i for i, signal in enumerate(signals) if signal >= _REFERENCE * best)
    matrices = {reference: np.eye(4)}
    for i, signal in enumerate(signals):
        if signal >= _WEAK * best and i != reference:
            matrix = _frame_motion(i + 1, copies[reference], copies[i], frames[i].shape, affine)
            if matrix is not None:
                matrices[i] = matrix
    _tell_of_weak_frames(len(frames), matrices, reference)
    aligned = []
    for i, frame in enumerate(frames):
        values = np.asarray(frame, dtype=np.float32)
        matrix = matrices[_nearest(i, matrices)]
        if _largest_motion(matrix, values.shape, affine) > _LEAST_FRAME_MOTION_MM:
            values = sample(Image(values, affine), values.shape, affine, matrix)
        aligned.append(values)
    return aligned


def _frame_copy(number: int, frame: np.ndarray, affine: np.ndarray) -> Image | None:
    """The working copy of a frame, None when there is nothing above 0 to make it of."""
    if not np.isfinite(frame).all():
        remedy = "leave the scan out or take its averaged version"
        raise InputError(f"PET frame {number}", "holds NaN or infinity", remedy)
    if not (frame > 0).any():
        return None
    return working_copy(Image(frame, affine), 2.0)


def _signal(copy: Image | None) -> float:
    """How clearly a frame shows something: spread of its coarse structure over that of its fine.

    Measured: 3.7 for a clean synthetic PET, 1.0 with noise of half of the brain in it, 0.3 to 0.7
    for noise alone, also where it fills the scanner's ring.
    """
    if copy is None or copy.array.min() == copy.array.max():
        return 0.0
    sigma = _COARSE_MM / sides(copy.affine)
    coarse = ndimage.gaussian_filter(copy.array, sigma)
    return float(coarse.std() / max(float((copy.array - coarse).std()), 1e-6 * coarse.std()))


def _frame_motion(
    number: int, reference: Image, copy: Image, shape: tuple[int, ...], affine: np.ndarray
) -> np.ndarray | None:
    """The motion (4, 4) that brings a frame to the reference; None where ANTs finds none.

    The identity, with a notice, where the motion is not believed.
    """
    try:
        matrix = register(reference, copy, start=np.eye(4))
    except InputError as error:
        if error.kind == "package":
            raise
        notice(f"PET frame {number}: {error.problem}")
        return None
    moved = _largest_motion(matrix, shape, affine)
    if moved <= _LEAST_FRAME_MOTION_MM:
        return matrix
    if moved > _MOST_FRAME_MOTION_MM or not _fits_better(reference, copy, matrix):
        distance = f"an alignment by {moved:.0f} mm is not believed"
        notice(f"PET frame {number}: {distance}; left as it is")
        return np.eye(4)
    return matrix


def _tell_of_weak_frames(count: int, matrices: Collection[int], reference: int) -> None:
    for i in range(count):
        if i not in matrices:
            moved = f"moved with frame {_nearest(i, matrices) + 1}"
            notice(f"PET frame {i + 1}: its signal is too weak to be aligned by; {moved}")
    if reference:
        first = f"frame {reference + 1} is the first with a clear signal"
        notice(f"PET frames: {first}; the others are aligned to it")


def _nearest(index: int, known: Collection[int]) -> int:
    """The known frame that lies nearest in time, of two the earlier one."""
    return min(known, key=lambda other: (abs(other - index), other))


def _fits_better(reference: Image, copy: Image, matrix: np.ndarray) -> bool:
    """Whether a frame moved by the matrix agrees with the reference at least as well as before."""
    before = sample(copy, reference.array.shape, reference.affine)
    after = sample(copy, reference.array.shape, reference.affine, matrix)
    return nmi(reference.array, after) >= nmi(reference.array, before)


def _largest_motion(matrix: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> float:
    """Largest distance in mm that a corner of the grid is moved by."""
    ends = list(itertools.product(*[(0, side - 1) for side in shape]))
    corners = carry(affine, np.array(ends))  # (8, 3)
    motion = carry(matrix, corners) - corners
    return float(np.linalg.norm(motion, axis=1).max())


def check_volume(volume: Volume, role: str) -> list[str]:
    """Refuse what registration cannot take; returns warnings.

    ANTs never returns from an infinite voxel. Values below 0 that belong at 0 are no matter of
    registration; `preparation.read.scan` tells of them.
    """
    array, path, rules = volume.array, volume.path, ALIGNED[role]
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        problem = f"{wrong} of {array.size} voxels of the {role} are NaN or infinite"
        raise InputError(path, problem, "repair these voxels or set them to 0 first")
    low, high = float(array.min()), float(array.max())
    if low == high:
        problem = f"the {role} is constant, all voxels are {low:g}"
        raise InputError(path, problem, "give the image itself")
    if high <= 0:
        raise InputError(path, f"no voxel of the {role} is above 0", "give positive values")
    # Within the clipping limits everything is one value: registration would have nothing to go by.
    limits = np.percentile(array[array > 0], (0.5, 99.5))
    if limits[0] == limits[1]:
        problem = f"nearly all voxels of the {role} above 0 are {limits[0]:g}"
        raise InputError(path, problem, "give the image itself")
    check_background(path, array, role)
    if shown := strange_view(volume, rules.view_mm):
        problem = f"the {role}'s field of view is {shown}, no head's"
        raise InputError(path, problem, "check voxel size and units")
    if shown := strange_view(volume, rules.usual_view_mm):
        return [f"{role}: the field of view is unusual, {shown}"]
    return []


def head_mask(mri: Image) -> np.ndarray:
    """The head in a working copy: the largest bright part, closed and filled."""
    counts, edges = np.histogram(mri.array, 128)
    threshold = _otsu(counts, (edges[:-1] + edges[1:]) / 2)
    bright = mri.array > threshold / 2  # dark tissue belongs to the head, too
    parts, count = ndimage.label(ndimage.binary_opening(bright))
    if not count:
        return bright
    sizes = np.bincount(parts.ravel())[1:]  # without what is 0, which is no part
    largest = parts == 1 + int(np.argmax(sizes))
    closed = ndimage.binary_closing(np.pad(largest, 6), iterations=5)[6:-6, 6:-6, 6:-6]
    return ndimage.binary_fill_holes(closed)


def _otsu(counts: np.ndarray, values: np.ndarray) -> float:
    """The threshold that parts a histogram into the two most different classes (Otsu 1979)."""
    below = np.cumsum(counts)
    above = below[-1] - below
    weighted = np.cumsum(counts * values)
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty class at both ends
        mean_below = weighted / below
        mean_above = (weighted[-1] - weighted) / above
        between = below * above * (mean_below - mean_above) ** 2
    return float(values[int(np.nanargmax(between))])


def _kept(mask: str, mri: Image, region: np.ndarray) -> Image:
    """What `mask` keeps, on the grid of the MRI's working copy."""
    if mask == "brain":
        kept = grown(region, mri.affine, _BRAIN_RIM_MM)
    else:
        kept = grown(head_mask(mri), mri.affine, _HEAD_RIM_MM)
    return Image(kept, mri.affine)
