"""From one scan of a download to one 3-D volume: DICOM or NIfTI, static or dynamic, with strict
checks.

`data.volume.read_volume` takes what a careful user hands over and says in a notice what it assumed.
Preparation works through thousands of files that nobody has looked at, so here an assumption is an
error with the option that allows it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from data.volume import Volume, corner_distance, read_volume
from preparation.read.dicom import Series, check_values, read_series
from preparation.read.nifti import check_affine, check_shape, read_stored, remarks, stored_header
from preparation.scans import Scan
from utils.errors import InputError

LEAST_SLICES = 16
LEAST_VIEW_MM, MOST_VIEW_MM = 100.0, 500.0
LEAST_VOXEL_MM, MOST_VOXEL_MM = 0.3, 8.0
MOST_NEGATIVE = 0.01  # of an MRI's maximum
SPIKE = 50  # times the 99.9 percentile
FULL_END = (
    0.6  # an MRI's end slice with this part of the fullest slice's tissue may not be the true end
)

_FILL = "repair these voxels or pass --fill-nonfinite"
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
    """

    average_frames: bool = False
    fill_nonfinite: bool = False
    assume_ras: bool = False
    prefer: str | None = None


@dataclass(frozen=True, eq=False)
class _Frames:
    """All frames of a scan on one grid: RAS+ arrays (X, Y, Z), with the first one's volume to put
    the result in.
    """

    arrays: list[np.ndarray]
    grid: Volume
    durations: tuple[float, ...] | None
    units: str
    notes: list[str]


def load_scan(
    scan: Scan, align_frames: AlignFrames | None = None, allowed: Allowed | None = None
) -> Loaded:
    """Read a scan, average its frames, and check that it is a volume of a head.

    The frames of a dynamic PET are averaged, weighted by their duration.

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
    frames = _from_dicom(scan) if scan.format == "dicom" else _from_nifti(scan, allowed)
    notes = frames.notes
    arrays = [_usable(scan, array, allowed, notes) for array in frames.arrays]
    if len(arrays) > 1:
        array = _average(scan, replace(frames, arrays=arrays), align_frames, allowed)
    else:
        array = arrays[0]
    _check_range(scan, array, notes)
    return Loaded(replace(frames.grid, array=array), len(arrays), frames.units, tuple(notes))


def check_head(source: object, shape: Sequence[int], affine: np.ndarray, modality: str) -> None:
    """Refuse a grid that cannot hold a head.

    Args:
        source: the file or series for the message.
        shape: (X, Y, Z), with as many slices as the last or any other axis.
        affine: (4, 4), voxel index -> mm.
        modality: "MRI" or "PET"; a PET scanner's ring is wider than any head.

    Raises:
        InputError: fewer than 16 slices, voxels outside 0.3 to 8 mm, or a field of view below 100
            mm or above 500 mm (PET 1000).
    """
    if len(shape) != 3 or min(shape) < LEAST_SLICES:
        sides = " x ".join(str(side) for side in shape)
        problem = f"{sides} voxels are not a volume, at least {LEAST_SLICES} slices are needed"
        raise InputError(source, problem, "choose another image of this scan")
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    views, most = sides * shape, MOST_VIEW_MM * (2 if modality == "PET" else 1)
    if views.min() < LEAST_VIEW_MM or views.max() > most:
        worst = views.max() if views.max() > most else views.min()
        problem = f"field of view {worst:.4g} mm (a head needs {LEAST_VIEW_MM:g} to {most:g})"
        raise InputError(
            source, problem, "are the units wrong? choose another image or correct the header"
        )
    if sides.min() < LEAST_VOXEL_MM or sides.max() > MOST_VOXEL_MM:
        shown = " x ".join(f"{side:.4g}" for side in sides)
        problem = f"voxels of {shown} mm ({LEAST_VOXEL_MM:g} to {MOST_VOXEL_MM:g} are usual)"
        raise InputError(
            source, problem, "are the units wrong? choose another image or correct the header"
        )


# DICOM -------------------------------------------------------------------------------------------


def _from_dicom(scan: Scan) -> _Frames:
    """The frames of a DICOM series, checked."""
    series = read_series(scan.files, scan.modality, scan.image_id, scan.description)
    if scan.modality == "MRI":
        if series.frames > 1:
            raise InputError(
                scan.where, f"{series.frames} volumes, not one", "choose the T1 series"
            )
        if scan.matrix_z is not None and scan.matrix_z != series.slices:
            problem = f"{series.slices} of {scan.matrix_z} slices (Matrix Z of its XML)"
            raise InputError(scan.where, problem, "download the series again")
    check_head(scan.where, series.array.shape[:3], series.affine, scan.modality)
    notes = [*series.notes, *_full_ends(scan, series)]
    arrays = [series.array] if series.frames == 1 else list(np.moveaxis(series.array, 3, 0))
    grid = _in_memory(arrays[0], series.affine, scan.where)
    return _Frames(
        arrays, grid, series.frame_durations or scan.frame_durations, series.units, notes
    )


def _full_ends(scan: Scan, series: Series) -> list[str]:
    """Remark on an MRI whose end slice is full of tissue where nothing says how many slices there
    should be.
    """
    if scan.modality != "MRI" or scan.matrix_z is not None:
        return []
    slices = np.moveaxis(series.array, series.slice_axis, 0)
    tissue = (slices > 0.1 * np.percentile(series.array, 99)).mean(axis=(1, 2))
    full = tissue[[0, -1]].max() / tissue.max() if tissue.max() else 0
    if full <= FULL_END:
        return []
    return [
        f"an end slice holds {full:.0%} of the tissue of the fullest: end slices may be missing"
    ]


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


# NIfTI -------------------------------------------------------------------------------------------


def _from_nifti(scan: Scan, allowed: Allowed) -> _Frames:
    """The frames of one or several NIfTI files, checked."""
    if scan.modality == "MRI" and len(scan.files) > 1:
        raise InputError(scan.where, f"{len(scan.files)} files, not one volume", "choose one")
    notes, arrays, grid = [], [], None
    for file in scan.files:
        volumes = _read_nifti(file, scan.modality, allowed, notes)
        grid = grid or volumes[0]
        shape = grid.array.shape
        if (
            volumes[0].array.shape != shape
            or corner_distance(shape, volumes[0].affine, grid.affine) > 0.1
        ):
            problem = f"not on the grid of the first frame, {scan.files[0].name}"
            raise InputError(file, problem, "keep the frames of one scan in the folder")
        arrays += [volume.array for volume in volumes]
    return _Frames(arrays, grid, scan.frame_durations, "", list(dict.fromkeys(notes)))


def _read_nifti(file: Path, modality: str, allowed: Allowed, notes: list[str]) -> list[Volume]:
    """The frames of one file; a fault of the header is found before the data are read."""
    header = stored_header(file)
    if header is None:
        return [read_volume(file)]  # which says what is wrong with the file
    shape = check_shape(file, header, modality)
    affine = check_affine(file, header, allowed.assume_ras, allowed.prefer)
    check_head(file, shape[:3], affine, modality)
    notes += remarks(header, shape)
    oriented = max(int(header["sform_code"]), int(header["qform_code"])) > 0
    if (
        math.prod(shape[3:]) == 1
        and oriented
        and allowed.prefer is None
        and not allowed.fill_nonfinite
    ):
        try:
            return [read_volume(file)]
        except InputError as error:
            if not _holds_nonfinite(file, header, shape, affine):
                raise
            raise InputError(file, error.problem, _FILL) from error
    return _read_frames(file, header, shape, affine)


def _holds_nonfinite(
    file: Path, header: nib.Nifti1Header, shape: tuple[int, ...], affine: np.ndarray
) -> bool:
    """Whether NaN or infinity is what keeps a file from being used; asked only when it was refused."""
    try:
        return not all(
            np.isfinite(frame.array).all() for frame in _read_frames(file, header, shape, affine)
        )
    except InputError:
        return False


def _read_frames(
    file: Path, header: nib.Nifti1Header, shape: tuple[int, ...], affine: np.ndarray
) -> list[Volume]:
    """Each frame of a file as an RAS+ volume under `affine`; values are not looked at."""
    stored = read_stored(file, header, shape).reshape(*shape[:3], -1)
    orientation = io_orientation(affine)
    in_order = affine @ inv_ornt_aff(orientation, shape[:3])
    frames = np.moveaxis(apply_orientation(stored, orientation), 3, 0)
    return [
        Volume(np.ascontiguousarray(frame), in_order, header, affine, shape[:3], orientation, file)
        for frame in frames
    ]


# Values ------------------------------------------------------------------------------------------


def _usable(scan: Scan, array: np.ndarray, allowed: Allowed, notes: list[str]) -> np.ndarray:
    """A frame with NaN and infinity at 0, if that is allowed; else they are refused, and so are
    blank frames.
    """
    wrong = int((~np.isfinite(array)).sum())
    if wrong and allowed.fill_nonfinite:
        notes.append(f"{wrong} voxels that were NaN or infinite set to 0")
        array = np.where(np.isfinite(array), array, np.float32(0))
    check_values(scan.where, array, _FILL)
    return array


def _average(
    scan: Scan, frames: _Frames, align_frames: AlignFrames | None, allowed: Allowed
) -> np.ndarray:
    """The mean of the frames in float32, weighted by duration; aligned first when they are raw."""
    count, durations = len(frames.arrays), frames.durations
    if durations is None and not allowed.average_frames:
        problem = f"{count} frames of unknown duration"
        raise InputError(scan.where, problem, "average them as equally long with --average-frames")
    if durations is not None and (
        len(durations) != count or not all(0 < length < math.inf for length in durations)
    ):
        shown = ", ".join(f"{length:g}" for length in durations)
        raise InputError(
            scan.where, f"{count} frames with durations of {shown} s", "correct FrameDuration"
        )
    arrays = frames.arrays
    align = align_frames is not None and not _COREGISTERED.search(scan.description)
    if align:
        arrays = align_frames(arrays, frames.grid.affine)
    weights = durations or (1.0,) * count
    total = np.zeros(arrays[0].shape, np.float64)
    for weight, array in zip(weights, arrays, strict=True):
        total += weight * array
    how = "weighted by duration" if durations else "as equally long"
    frames.notes.append(f"{count} frames {'aligned and ' if align else ''}averaged, {how}")
    return (total / sum(weights)).astype(np.float32)


def _check_range(scan: Scan, array: np.ndarray, notes: list[str]) -> None:
    """Spikes and values below 0."""
    lowest, highest = float(array.min()), float(array.max())
    usual = float(np.percentile(array, 99.9))
    if usual > 0 and highest > SPIKE * usual:
        notes.append(
            f"the maximum is {highest / usual:.0f} times the 99.9 percentile: clipped for registration"
        )
    if lowest >= 0:
        return
    if scan.modality == "MRI" and lowest < -MOST_NEGATIVE * max(highest, 0):
        problem = f"the MRI has values down to {lowest:.4g} (maximum {highest:.4g})"
        raise InputError(scan.where, problem, "give it before standardisation, background at 0")
    notes.append(f"{int((array < 0).sum())} voxels below 0 (down to {lowest:.4g}), 0 in the result")
