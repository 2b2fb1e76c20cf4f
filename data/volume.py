"""NIfTI volumes: read and check one, bring a PET onto its MRI's grid, write a result back.

Everything inside the project is (X, Y, Z) in RAS+ order: x to the Right, y to Anterior, z to
Superior. A stored volume gets there by flips and permutations of voxels alone (nibabel's closest
canonical orientation), never by interpolation, so that the way back is exact.

The affine is the one nibabel uses: the sform where its code is above 0, else the qform, else (both
codes 0) an assumed one: voxel sizes from the header, x running to the left, centre at 0 mm.
"""

import gzip
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import HeaderDataError

from data.grids import SMOOTH_ABOVE, Image, coarsening, sample, sides
from utils.errors import InputError, notice
from utils.files import replacing

# Two grids are one when no corner of their boxes differs by more than this part of the smallest
# voxel side: header fields are float32, and a rotation stored as a quaternion keeps 3e-4 rad.
GRID_TOLERANCE = 0.1
# sform and qform further apart than this at a corner of the volume are worth a notice.
FORMS_TOLERANCE_MM = 1.0
# Least part of the MRI's box that the PET's box has to cover.
LEAST_OVERLAP = 0.01
# Sum of negative over sum of positive values above which 0 cannot be the background.
MOST_NEGATIVE = 0.1

_FUSED_DESCRIPTION = b"DC2Fusion: fused MRI and PET, unitless, [0, 1]"
_LONGEST_HEADER = 540  # bytes; NIfTI-2
_CONVERT = "convert it to NIfTI first, for example with dcm2niix or mri_convert"

# nibabel reports what it repairs in a header on its own logger; the checks here speak instead.
_silent = logging.getLogger("dc2fusion.header")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D volume with the grid that it lies on and the stored form to go back to.

    Attributes:
        array: (X, Y, Z) float32, RAS+ order, in the units of the file (scl_slope applied).
        affine: (4, 4) float64, voxel index of `array` -> RAS+ millimetres.
        header: the stored NIfTI-1 or NIfTI-2 header, without extensions.
        stored_affine: (4, 4) float64 of the array as stored.
        stored_shape: shape as stored; (X, Y, Z, 1) where the file is 4-D with one frame.
        orientation: (3, 2) nibabel orientation from the stored axes to RAS+.
        path: the file that the values came from.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    stored_affine: np.ndarray
    stored_shape: tuple[int, ...]
    orientation: np.ndarray
    path: Path

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Voxel sides along the axes of `array`, in mm."""
        return tuple(float(side) for side in sides(self.affine))


def read_volume(path: str | os.PathLike) -> Volume:
    """Read and check a `.nii` or `.nii.gz` file.

    A fourth axis of length 1 is dropped. Header codes, units and forms that other programs could
    read differently are said in a notice.

    Raises:
        InputError: the file is missing, unreadable, no single-file NIfTI, cut short, no 3-D volume
            of real numbers, holds NaN or infinity, is constant, or has no usable voxel size or
            affine.
    """
    path = Path(path)
    with _file_errors(path):
        compressed = _is_compressed(path)
        opener = gzip.open if compressed else open
        with opener(path, "rb") as stream:
            start = stream.read(_LONGEST_HEADER)
            header = _parse_header(path, start)
            shape = _check_shape(path, header)
            affine = _read_affine(path, header)
            stored = read_values(path, stream, header, shape, start).reshape(shape[:3])
    _check_values(path, stored)
    orientation = io_orientation(affine)
    array = apply_orientation(stored, orientation)
    return Volume(
        array=np.ascontiguousarray(array),
        affine=affine @ inv_ornt_aff(orientation, stored.shape),
        header=header,
        stored_affine=affine,
        stored_shape=shape,
        orientation=orientation,
        path=path,
    )


def resample_to(moving: Volume, reference: Volume, order: int = 1) -> Volume:
    """Sample `moving` at the voxel centres of `reference`, by the two affines.

    As `data.grids.sample`, with a notice where a Gaussian goes first.

    Args:
        order: of the spline, 0 to 5; 1 is trilinear.

    Returns:
        the values of `moving` on the grid and in the stored form of `reference`.
    """
    factors = coarsening(moving.affine, reference.affine)
    if (factors > SMOOTH_ABOVE).any():
        steps = " x ".join(f"{factor:.2g}" for factor in factors)
        notice(f"{moving.path}: smoothed before sampling {steps} times more coarsely")
    image = Image(moving.array, moving.affine)
    sampled = sample(image, reference.array.shape, reference.affine, order=order)
    return _on_grid_of(reference, sampled, moving)


def read_pair(mri_path: str | os.PathLike, pet_path: str | os.PathLike) -> tuple[Volume, Volume]:
    """Read an MRI and its PET, both on the MRI's grid.

    A PET on another grid is resampled by the affines, with a notice. Two grids count as one when
    the shapes are equal and no corner differs by more than a tenth of the smallest MRI voxel side.

    Negative values: in the MRI they stay and count as background (the foreground is mri > 0); in
    the PET they are set to 0; both with a notice. A volume whose negative values sum up to more
    than a tenth of its positive ones is refused: it was standardised, and its 0 is no background.

    Raises:
        InputError: a file that `read_volume` refuses, no voxel above 0, too much below 0, or a PET
            that covers less than 1 % of the MRI's field of view or is 0 in all of it.
    """
    mri, pet = read_volume(mri_path), read_volume(pet_path)
    if os.path.samefile(mri.path, pet.path):
        notice(f"{pet.path}: is the MRI and the PET at once")
    mri_negative, pet_negative = _count_negative(mri, "MRI"), _count_negative(pet, "PET")
    if mri_negative:
        notice(f"{mri.path}: {mri_negative} voxels below 0 count as background")
    if pet_negative:
        notice(f"{pet.path}: {pet_negative} voxels below 0 set to 0")
        pet = replace(pet, array=np.maximum(pet.array, 0))
    return mri, _onto_mri(pet, mri)


def check_output(
    path: str | os.PathLike, inputs: Iterable[str | os.PathLike] = (), overwrite: bool = False
) -> None:
    """Refuse, before any work is done, a name that `write_like` could or should not write to.

    Raises:
        InputError: not a .nii or .nii.gz name, one of the inputs, a folder, a parent that is no
            folder, or a file that exists while `overwrite` is False.
    """
    path = Path(path)
    _suffix(path, "name the output .nii or .nii.gz")
    if os.path.isdir(path):
        raise InputError(path, "is a folder", "name a file in it")
    there = os.path.exists(path)
    for source in inputs:
        if there and os.path.exists(source) and os.path.samefile(path, source):
            raise InputError(path, "is also an input", "choose another name for the output")
    parent = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if not os.path.isdir(parent):
        raise InputError(path, f"{parent} is not a folder", "choose another place for the output")
    if there and not overwrite:
        raise InputError(path, "is already there", "choose another name or pass --overwrite")


def write_like(path: str | os.PathLike, array: np.ndarray, reference: Volume) -> None:
    """Write an RAS+ array in the stored form of `reference`, so that one overlays the other.

    The file has the reference's 3-D shape, sform, qform, their codes, and units; NIfTI-1 or NIfTI-2
    like the reference; float32 with slope 1 and display range [0, 1]. Header extensions and the
    fields that describe the reference's values are not taken over. The file appears in one step: it
    is written beside its place and renamed into it.

    Args:
        path: ends in .nii or .nii.gz; missing folders are made.
        array: (X, Y, Z), finite, same shape as `reference.array`; intended range [0, 1].

    Raises:
        InputError: another suffix, or a place that cannot be written to.
        ValueError: `array` has another shape than the reference or is not finite.
    """
    path = Path(path)
    _suffix(path, "name the output .nii or .nii.gz")
    if array.shape != reference.array.shape:
        raise ValueError(f"array of shape {array.shape} for a grid of {reference.array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("array to be written holds NaN or infinity")
    image = _stored_image(array, reference)
    with replacing(path) as part:
        nib.save(image, part)


# Reading: bytes to header, header to affine, bytes to values -------------------------------------


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system, gzip and nibabel raise into one line about `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path") from error
    except PermissionError as error:
        raise InputError(path, "permission denied", "make it readable") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = "the compressed data are cut short or damaged"
        raise InputError(path, problem, COPY_AGAIN) from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputError(path, problem, "check the file and the disk") from error
    except HeaderDataError as error:
        raise InputError(path, f"the header is damaged ({error})", COPY_AGAIN) from error
    except MemoryError as error:
        problem = "the volume does not fit into memory"
        raise InputError(path, problem, "resample it to larger voxels first") from error


def _suffix(path: Path, remedy: str) -> str:
    """'.nii' or '.nii.gz', whichever `path` ends in, upper case allowed."""
    name = path.name.lower()
    for suffix in (".nii.gz", ".nii"):
        if name.endswith(suffix):
            return suffix
    raise InputError(path, "the name does not end in .nii or .nii.gz", remedy)


def _is_compressed(path: Path) -> bool:
    """Whether the file is gzip data, after checks that it is a file and that its name agrees."""
    if path.is_dir():
        raise InputError(path, "is a folder", "name a .nii or .nii.gz file in it")
    with open(path, "rb") as stream:
        start = stream.read(_LONGEST_HEADER)
    if not start:
        raise InputError(path, "the file is empty", COPY_AGAIN)
    suffix = _suffix(path, _CONVERT)
    compressed = start[:2] == b"\x1f\x8b"
    if compressed and suffix == ".nii":
        problem = "the data are gzip-compressed but the name ends in .nii"
        raise InputError(path, problem, f"rename it to {path.name}.gz")
    if not compressed and suffix == ".nii.gz":
        if _nifti_class(start) is None:
            raise InputError(path, f"not a NIfTI: {_what_it_is(start)}", _CONVERT)
        problem = "the data are not gzip-compressed but the name ends in .nii.gz"
        raise InputError(path, problem, f"rename it to {path.name[:-3]}")
    return compressed


def _nifti_class(start: bytes) -> type[nib.Nifti1Header] | None:
    """The header class whose magic string the first bytes hold, None without any."""
    if start[344:348] in (b"n+1\0", b"ni1\0"):
        return nib.Nifti1Header
    if start[4:8] in (b"n+2\0", b"ni2\0"):
        return nib.Nifti2Header
    return None


def _what_it_is(start: bytes) -> str:
    """Name the format of a file that is no NIfTI by its first bytes."""
    if start[128:132] == b"DICM":
        return "it is a DICOM file"
    if start[:2] == b"PK":
        return "it is a zip archive"
    if start[:7] == b"MATRIX7":
        return "it is an ECAT file"
    if start[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        return "it is an Analyze header, which holds no orientation"
    if start.lstrip()[:1] == b"<":
        return "it is a web page or XML"
    return "it has no NIfTI header"


def _parse_header(path: Path, start: bytes) -> nib.Nifti1Header:
    """The header in the first bytes of the (uncompressed) data, without extensions.

    nibabel mends small faults (such as a qfac of 0) and would set a voxel size of 0 to 1, so the
    sizes are looked at before.
    """
    kind = _nifti_class(start)
    if kind is None:
        raise InputError(path, f"not a NIfTI: {_what_it_is(start)}", _CONVERT)
    size = kind.template_dtype.itemsize
    if len(start) < size:
        raise InputError(path, "the file is cut short within the header", COPY_AGAIN)
    header = kind(start[:size], check=False)
    if header["magic"].item()[:2] == b"ni":
        problem = "it is one half of a two-file NIfTI (.hdr and .img)"
        raise InputError(path, problem, "save it as a single .nii or .nii.gz file")
    sizes = header["pixdim"][1:4]
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        sides = " x ".join(f"{size:g}" for size in sizes)
        raise InputError(path, f"the voxel size is {sides} mm", "correct the header's pixdim")
    if not header.single_vox_offset <= header["vox_offset"] < np.inf:
        raise HeaderDataError(f"vox_offset is {header['vox_offset']:g}")
    header.check_fix(logger=_silent, error_level=40)
    return header


def _check_shape(path: Path, header: nib.Nifti1Header) -> tuple[int, ...]:
    """The stored shape, after checks that it and the data type are those of one 3-D volume."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7 or (header["dim"][1 : count + 1] < 1).any():
        raise HeaderDataError(f"dim is {header['dim'].tolist()}")
    shape = tuple(int(side) for side in header["dim"][1 : count + 1])
    kind = header.get_data_dtype()
    if kind.fields is not None:
        raise InputError(path, "it is a colour (RGB) image", "give the scalar volume")
    if kind.kind == "c":
        raise InputError(path, "its data are complex", "save the magnitude first")
    if math.prod(shape[3:]) > 1:
        frames = " x ".join(str(side) for side in shape[3:] if side > 1)
        problem = f"it has {frames} frames, not one"
        raise InputError(path, problem, "average the frames or choose one first")
    if len(shape) < 3 or min(shape[:3]) < 2:
        sides = " x ".join(str(side) for side in shape)
        raise InputError(path, f"its shape is {sides}, a slice or less", "give a 3-D volume")
    return shape


def _read_affine(path: Path, header: nib.Nifti1Header) -> np.ndarray:
    """The (4, 4) float64 affine that nibabel would use, checked; choices are said in a notice."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except ValueError as error:  # a quaternion longer than 1
        raise HeaderDataError(f"qform: {error}") from error
    lengths = sides(affine)
    unusable = not np.isfinite(affine).all() or (lengths == 0).any()
    if unusable or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        form = "sform" if sform_code > 0 else "qform"
        raise InputError(path, f"the {form} is singular", "correct the header's orientation")
    if sform_code > 0 and qform_code > 0:
        _compare_forms(path, header, affine)
    if sform_code <= 0 and qform_code <= 0:
        notice(
            f"{path}: the header names no orientation (sform and qform codes are 0); "
            "assumed LAS (x runs to the left) around the centre, left and right may be swapped"
        )
    unit = {1: "metre", 3: "micron"}.get(int(header["xyzt_units"]) & 7)
    if unit:
        notice(f"{path}: the header's unit of length is {unit}; its numbers are taken as mm")
    return affine


def _compare_forms(path: Path, header: nib.Nifti1Header, sform: np.ndarray) -> None:
    """Say so when the qform, which other programs may prefer, lies elsewhere than the sform."""
    try:
        apart = corner_distance(header.get_data_shape()[:3], sform, header.get_qform())
    except ValueError:  # a quaternion longer than 1
        apart = math.nan
    if not apart <= FORMS_TOLERANCE_MM:
        how = f"differ by up to {apart:.3g} mm" if math.isfinite(apart) else "contradict"
        notice(f"{path}: sform and qform {how}; the sform is used")


def _check_values(path: Path, values: np.ndarray) -> None:
    """Refuse NaN, infinity and volumes of one value."""
    missing = int(np.isnan(values).sum())
    infinite = int(np.isinf(values).sum())
    if missing or infinite:
        counts = [f"{missing} NaN"] * (missing > 0) + [f"{infinite} infinite"] * (infinite > 0)
        problem = f"it holds {' and '.join(counts)} of {values.size} voxels"
        raise InputError(path, problem, "repair these voxels or set them to 0 first")
    if values.min() == values.max():
        value = values.flat[0]
        problem = f"all voxels are {value:g}" if value else "it is empty, all voxels are 0"
        raise InputError(path, problem, "give the image itself, not a blank one")


# Pairs -------------------------------------------------------------------------------------------


def _count_negative(volume: Volume, role: str) -> int:
    """Number of voxels below 0 in a volume whose background may well be 0."""
    array = volume.array
    below, above = -float(array[array < 0].sum()), float(array[array > 0].sum())
    if above == 0:
        raise InputError(volume.path, f"no voxel of the {role} is above 0", "give positive values")
    if below > MOST_NEGATIVE * above:
        problem = f"the {role} has too much below 0 ({below / above:.0%} of what is above)"
        raise InputError(volume.path, problem, "give it before standardisation, background at 0")
    return int((array < 0).sum())


def _onto_mri(pet: Volume, mri: Volume) -> Volume:
    """The PET on the MRI's grid: as it is when it lies there already, else resampled."""
    shapes_agree = pet.array.shape == mri.array.shape
    apart = corner_distance(mri.array.shape, mri.affine, pet.affine) if shapes_agree else math.inf
    if apart <= GRID_TOLERANCE * min(mri.voxel_mm):
        return _on_grid_of(mri, pet.array, pet)
    covered = _covered(mri, pet)
    if covered < LEAST_OVERLAP:
        problem = f"the PET covers {covered:.1%} of the MRI {mri.path} (PET {_extent(pet)}; MRI {_extent(mri)})"
        raise InputError(pet.path, problem, "register the PET to the MRI first, see docs/data.md")
    if shapes_agree:
        how = f"corners differ by up to {apart:.3g} mm"
    else:
        how = f"{_times(pet.array.shape)} against {_times(mri.array.shape)} voxels"
    notice(f"{pet.path}: not on the grid of its MRI ({how}); resampled to it by the affines")
    resampled = resample_to(pet, mri)
    if not resampled.array.any():
        problem = f"the PET is 0 everywhere inside the MRI {mri.path}"
        raise InputError(pet.path, problem, "register the PET to the MRI first, see docs/data.md")
    return resampled


def _on_grid_of(reference: Volume, array: np.ndarray, source: Volume) -> Volume:
    """`array` as a volume on the grid of `reference`, with the name of the file it came from."""
    return replace(reference, array=array, path=source.path)


def _covered(reference: Volume, moving: Volume) -> float:
    """Part of the reference's box that lies inside the moving one's, on at most 48^3 points."""
    axes = [np.linspace(0, side - 1, min(side, 48)) for side in reference.array.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    to_moving = np.linalg.inv(moving.affine) @ reference.affine
    inside = points @ to_moving[:3, :3].T + to_moving[:3, 3]
    limits = np.array(moving.array.shape) - 0.5
    return float(((inside >= -0.5) & (inside <= limits)).all(axis=1).mean())


# Geometry ----------------------------------------------------------------------------------------


def _corners(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """(8, 3) outer corners of the voxel box in mm."""
    ends = [(-0.5, side - 0.5) for side in shape]
    indices = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    return indices @ affine[:3, :3].T + affine[:3, 3]


def corner_distance(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    """Largest distance in mm between the same corner of a grid of `shape` under two (4, 4) affines."""
    apart = _corners(shape, first) - _corners(shape, second)
    return float(np.linalg.norm(apart, axis=1).max())


def _extent(volume: Volume) -> str:
    """The field of view for a message: 'x -90..90, y -126..90, z -72..108 mm'."""
    corners = _corners(volume.array.shape, volume.affine)
    ranges = zip("xyz", corners.min(axis=0), corners.max(axis=0), strict=True)
    return ", ".join(f"{axis} {low:.0f}..{high:.0f}" for axis, low, high in ranges) + " mm"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


# Writing -----------------------------------------------------------------------------------------


def _stored_image(array: np.ndarray, reference: Volume) -> nib.Nifti1Image:
    """An image in the reference's stored orientation, its header cleared of what is not shared."""
    ras = axcodes2ornt("RAS")
    stored = apply_orientation(array, ornt_transform(ras, reference.orientation))
    header = reference.header.copy()
    header.set_data_dtype(np.float32)
    header.set_intent("none")
    header["cal_min"], header["cal_max"] = 0.0, 1.0
    header["aux_file"], header["descrip"] = b"", _FUSED_DESCRIPTION
    two = isinstance(header, nib.Nifti2Header)
    kind = nib.Nifti2Image if two else nib.Nifti1Image
    # With an affine beside the header nibabel may rewrite the forms and their codes. It resets data
    # offset and slope, which belong to the stored values, by itself.
    return kind(np.ascontiguousarray(stored, dtype=np.float32), None, header)


COPY_AGAIN = "copy or download it again"


_DEFLATE_LIMIT = 1032  # the most bytes that one byte of a gzip stream can stand for


def read_values(
    path: Path,
    stream: BinaryIO,
    header: nib.Nifti1Header,
    shape: tuple[int, ...],
    start: bytes = b"",
) -> np.ndarray:
    """All values, read to the end of the file, where gzip compares its checksum.

    Args:
        path: the file, for its size and for messages.
        stream: the file, opened with `gzip.open` where it is compressed.
        header: what the values' type, place and scaling are taken from.
        shape: of the stored array.
        start: what was read from the stream before.

    Returns:
        float32 of `shape`, slope and intercept applied; may hold NaN and infinity.

    Raises:
        InputError: fewer values than the header promises.
        OSError, EOFError, zlib.error: from the stream.
    """
    kind, offset = header.get_data_dtype(), header.get_data_offset()
    slope, intercept = header.get_slope_inter()
    needed = offset + math.prod(shape) * kind.itemsize
    # A header that promises more than the file can hold must not reserve the memory for it.
    most = path.stat().st_size * (_DEFLATE_LIMIT if isinstance(stream, gzip.GzipFile) else 1)
    content = start + stream.read(needed - len(start)) if needed <= most else start
    if len(content) < needed:
        problem = f"cut short: {needed} bytes promised by the header are not all there"
        raise InputError(path, problem, COPY_AGAIN)
    while stream.read(1 << 20):
        pass
    values = np.frombuffer(content, kind, math.prod(shape), offset).reshape(shape, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is for the caller to count
        if slope is not None and (slope, intercept) != (1.0, 0.0):
            values = values.astype(np.float64) * slope + intercept
        return values.astype(np.float32)
