"""From one scan of a download to one 3-D volume: DICOM or NIfTI, static or dynamic.

What is refused stands in `data.volume.PREPARED`. Preparation works through thousands of files that
nobody has looked at, so here an assumption is an error with the option that allows it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from data.foreground import HOT, hot_remark
from data.quality import remarks_on_values
from data.volume import PREPARED, Rules, Volume, check_background, check_grid, check_not_blank
from preparation.read.dicom import DOWNLOAD_OR_ALLOW, Series, read_series
from preparation.read.dicom_header import DOWNLOAD_AGAIN
from preparation.read.nifti import read_nifti
from preparation.scans import Scan
from utils.errors import InputError

# An MRI's end slice with this part of the fullest slice's tissue may not be the true end.
FULL_END = 0.6
# Cosine between a stack's direction and the body's from which on its lower end lies in the neck.
RISING = 0.25

_COREGISTERED = re.compile(r"co-?reg", re.IGNORECASE)

AlignFrames = Callable[[list[np.ndarray], np.ndarray], list[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A scan as one volume.

    Attributes:
        volume: (X, Y, Z) float32, RAS+; finite; a PET may hold values below 0, which belong at 0 in
            the result.
        frames: how many it was made of.
        units: of a PET, as its DICOM headers name them; "" when unknown.
        notes: what the user should know, one line each.
    """

    volume: Volume
    frames: int
    units: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Allowed:
    """What the user allows that is an error by default.

    Attributes:
        average_frames: frames of unknown duration count the same.
        fill_nonfinite: NaN and infinity become 0.
        assume_ras: a NIfTI without orientation is stored in RAS+ order around the centre.
        prefer: "sform" or "qform", where the two of a NIfTI differ.
        fewer_slices: a DICOM series may have fewer slices than its headers or XML promise.
    """

    average_frames: bool = False
    fill_nonfinite: bool = False
    assume_ras: bool = False
    prefer: str | None = None
    fewer_slices: bool = False


@dataclass(frozen=True, eq=False)
class _Frames:
    """All frames of a scan: RAS+ arrays (X, Y, Z) and the volume to put the result in."""

    arrays: list[np.ndarray]
    grid: Volume
    durations: tuple[float, ...] | None
    units: str
    notes: list[str]


def load_scan(
    scan: Scan, align_frames: AlignFrames | None = None, allowed: Allowed | None = None
) -> Loaded:
    """Read a scan, average its frames, and check that it is a volume of a head.

    The frames of a dynamic PET are averaged, weighted by their duration; blank ones, such as those
    before the injection, are left out.

    Args:
        scan: its files; several NIfTI files are frames.
        align_frames: (frames, affine) -> frames, brings the frames of a raw dynamic PET together
            before they are averaged; not called for images that are described as co-registered.
        allowed: what is not to be an error.

    Raises:
        InputError: the scan cannot be read or converted right, is no volume of a head, or holds
            values that cannot be used; one line that names the file or the series.
    """
    allowed = allowed or Allowed()
    rules = replace(
        PREPARED[scan.modality],
        prefer=allowed.prefer,
        assume_ras=allowed.assume_ras,
        fill_nonfinite=allowed.fill_nonfinite,
    )
    read = _from_dicom if scan.format == "dicom" else _from_nifti
    frames = read(scan, rules, allowed)
    array = frames.arrays[0]
    if len(frames.arrays) > 1:
        array = _average(scan, frames, align_frames, allowed)
    check_not_blank(scan.where, array)
    check_background(scan.where, array, scan.modality)
    notes = (*frames.notes, *_remarks_on_values(scan.modality, array, frames.grid.voxel_mm))
    return Loaded(replace(frames.grid, array=array), len(frames.arrays), frames.units, notes)


def _from_nifti(scan: Scan, rules: Rules, _: Allowed) -> _Frames:
    """The frames of one or several NIfTI files."""
    volumes = read_nifti(scan, rules)
    notes = []
    for volume in volumes:
        notes += volume.remarks
    arrays = [volume.array for volume in volumes]
    return _Frames(arrays, volumes[0], scan.frame_durations, "", list(dict.fromkeys(notes)))


def _from_dicom(scan: Scan, rules: Rules, allowed: Allowed) -> _Frames:
    """The frames of a DICOM series, checked."""
    series = read_series(
        scan.files, scan.modality, scan.image_id, scan.description, allowed.fewer_slices
    )
    notes = list(series.notes)
    if series.frames > 1 and not rules.frames:
        raise InputError(scan.where, f"{series.frames} volumes, not one", "choose the T1 series")
    if scan.modality == "MRI" and scan.matrix_z not in (None, series.slices):
        found = f"{series.slices} of {scan.matrix_z} slices (Matrix Z of its XML)"
        if series.slices > scan.matrix_z:
            raise InputError(scan.where, found, DOWNLOAD_AGAIN)
        if not allowed.fewer_slices:
            raise InputError(scan.where, found, DOWNLOAD_OR_ALLOW)
        notes.append(f"{found} are there, as allowed")
    _check_length(scan, series, rules)
    check_grid(scan.where, series.array.shape[:3], series.affine, rules)
    arrays = [series.array]
    if series.frames > 1:
        arrays = list(np.moveaxis(series.array, 3, 0))
    grid = _in_memory(arrays[0], series.affine, scan.where)
    durations = series.frame_durations or scan.frame_durations
    notes += _full_ends(scan, series)
    return _Frames(arrays, grid, durations, series.units, notes)


def _check_length(scan: Scan, series: Series, rules: Rules) -> None:
    """Refuse a PET of a whole body, with what can be done to use its head."""
    length = series.slices * float(np.linalg.norm(series.affine[:3, series.slice_axis]))
    if scan.modality == "PET" and length > rules.view_mm[1]:
        problem = f"{series.slices} slices over {length:.0f} mm, a whole body and no head"
        remedy = "copy the files of the head's slices to another folder and pass --fewer-slices"
        raise InputError(scan.where, problem, remedy)


def _full_ends(scan: Scan, series: Series) -> list[str]:
    """Remark on full end slices of an MRI where nothing says how many slices there should be.

    The lower end of a stack that runs up, also obliquely, lies in the neck and is full.
    """
    if scan.modality != "MRI" or scan.matrix_z is not None:
        return []
    slices = np.moveaxis(series.array, series.slice_axis, 0)
    tissue = (slices > 0.1 * np.percentile(series.array, 99)).mean(axis=(1, 2))
    step = series.affine[:3, series.slice_axis]
    upwards = step[2] / np.linalg.norm(step)
    ends = [0, -1]
    if abs(upwards) > RISING:
        ends = [-1] if upwards > 0 else [0]
    full = tissue[ends].max() / tissue.max() if tissue.max() else 0
    if full <= FULL_END:
        return []
    held = f"an end slice holds {full:.0%} of the tissue of the fullest"
    return [f"{held}: end slices may be missing"]


def _in_memory(array: np.ndarray, affine: np.ndarray, path: Path) -> Volume:
    """An RAS+ array as a volume that is stored as it is."""
    identity = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
    header = _scanner_header(array.shape, affine)
    return Volume(array, affine, header, affine, array.shape, identity, path)


def _scanner_header(shape: tuple[int, ...], affine: np.ndarray) -> nib.Nifti1Header:
    """float32, mm, sform and qform of code 1: scanner coordinates (2 would claim an alignment)."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm")
    return header


def _average(
    scan: Scan, frames: _Frames, align_frames: AlignFrames | None, allowed: Allowed
) -> np.ndarray:
    """The mean of the frames in float32, weighted by duration; aligned first when they are raw.

    A frame with one value everywhere is left out, with a note.
    """
    count, durations = len(frames.arrays), frames.durations
    if durations is None:
        if not allowed.average_frames:
            problem = f"{count} frames of unknown duration"
            remedy = "average them as equally long with --average-frames"
            raise InputError(scan.where, problem, remedy)
    elif len(durations) != count or not all(0 < length < math.inf for length in durations):
        shown = ", ".join(f"{length:g}" for length in durations)
        problem = f"{count} frames with durations of {shown} s"
        raise InputError(scan.where, problem, "correct FrameDuration")
    arrays = frames.arrays
    kept = [index for index, array in enumerate(arrays) if array.min() < array.max()]
    if not kept:
        return arrays[0]
    if len(kept) < count:
        blank = [str(number) for number in range(1, count + 1) if number - 1 not in kept]
        which = f"frame{'s' if len(blank) > 1 else ''} {', '.join(blank)} of {count}"
        frames.notes.append(f"{which} left out: one value everywhere")
    align = align_frames is not None and not _COREGISTERED.search(scan.description)
    align = align and len(kept) > 1
    if align:
        arrays = align_frames(arrays, frames.grid.affine)
    weights = durations or (1.0,) * count
    total = np.zeros(arrays[0].shape, np.float64)
    for index in kept:
        total += weights[index] * arrays[index]
    how = "weighted by duration" if durations else "as equally long"
    frames.notes.append(f"{len(kept)} frames {'aligned and ' if align else ''}averaged, {how}")
    return (total / sum(weights[index] for index in kept)).astype(np.float32)


def _remarks_on_values(
    modality: str, array: np.ndarray, voxel_mm: tuple[float, float, float]
) -> list[str]:
    """What is odd about the values, with what is done about them here."""
    remarks = remarks_on_values(modality, array, voxel_mm)
    lowest = float(array.min())
    if hot := hot_remark(array):
        limit = "times the 99.9 percentile of what is above 0"
        said = f"{hot}, above {HOT:g} {limit}: clipped for registration"
        remarks[remarks.index(hot)] = said
    if lowest < 0:
        below = int((array < 0).sum())
        remarks.append(f"{below} voxels below 0 (down to {lowest:.4g}), 0 in the result")
    return remarks
