"""NIfTI volumes: read and check one, bring a PET onto its MRI's grid, write a result back.

Everything inside the project is (X, Y, Z) in RAS+ order: x to the Right, y to Anterior, z to
Superior. A stored volume gets there by flips and permutations of voxels alone (nibabel's closest
canonical orientation), never by interpolation, so that the way back is exact.

There is one reading, `read_frames`, and one table of what it lets pass: `Rules`, with what the
programs, preparation and alignment each ask for.
"""

import gzip
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

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
from utils.files import check_readable, replacing

# Two grids are one when no corner of their boxes differs by more than this part of the smallest
# voxel side: header fields are float32, and a rotation stored as a quaternion keeps 3e-4 rad.
GRID_TOLERANCE = 0.1
# sform and qform further apart than this at a corner of the volume are a doubt.
FORMS_TOLERANCE_MM = 1.0
# Least part of the MRI's box that the PET's box has to cover.
LEAST_OVERLAP = 0.01
MOST_VOXELS = 1024**3  # of any scan
# What the regions below 0 may sum up to, as a part of those above: a volume with more was
# standardised, and its 0 is no background. By region, because the noise of a filtered
# backprojection and the ringing of a resampling are as much above 0 as below it in each.
MOST_BELOW = 0.1
_REGIONS = 8  # along each axis
COPY_AGAIN = "copy or download it again"
_FETCH_AGAIN = f"{COPY_AGAIN}, or make it available offline where a cloud keeps it"

_FUSED_DESCRIPTION = b"DC2Fusion: fused MRI and PET, unitless, [0, 1]"
_COLOUR_DESCRIPTION = b"DC2Fusion: fused MRI and PET as luminance, PET as hue, sRGB"
_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])  # NIfTI's DT_RGB24
_LONGEST_HEADER = 540  # bytes; NIfTI-2
FORMS = "sform", "qform"
_LAST_CODE = 5  # of the coordinate systems that a form can be in
_ANOTHER_SPACE = 2  # aligned to something else
# Beyond 1, of a quaternion's squared length: rounding to float32, here and there twice. The NIfTI
# reference code shortens any; 1e-5 is a turn of 0.2 degrees.
_QUATERNION_ROUNDING = 1e-5
_DEFLATE_LIMIT = 1032  # the most bytes that one byte of a gzip stream can stand for
_CONVERT = "convert it to NIfTI first, for example with dcm2niix or mri_convert"
_CORRECT = "correct the header's orientation"
_UNSTANDARDISED = "give it before standardisation, background at 0"

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
        stored_shape: shape as stored, with a fourth axis where the file has one.
        orientation: (3, 2) nibabel orientation from the stored axes to RAS+.
        path: the file that the values came from.
        remarks: what the reading did that is neither an error nor worth a notice.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header
    stored_affine: np.ndarray
    stored_shape: tuple[int, ...]
    orientation: np.ndarray
    path: Path
    remarks: tuple[str, ...] = ()

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Voxel sides along the axes of `array`, in mm."""
        return tuple(float(side) for side in sides(self.affine))


# Rules -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """What is refused, what is said and what passes; the defaults limit next to nothing.

    Attributes:
        frames: whether a fourth axis may hold the frames of one scan.
        least_voxels, most_voxels: along each axis; in the whole file.
        view_mm, usual_view_mm: least and most side of the field of view; outside the usual ones
            there is a warning.
        voxel_mm: least and most voxel side.
        most_shear: cosine between two image axes.
        most_stretch: between the header's voxel size and the length of the affine's columns,
            relative.
        doubts: what a header is that programs read differently: forms that lie apart, no form, a
            code that does not exist, a unit other than mm. "notice" says which reading is taken.
        prefer: "sform" or "qform", which is taken where the header has it; nothing is asked of the
            other one then.
        assume_ras: a header without a form is in RAS+ order around the centre, without a doubt.
        fill_nonfinite: NaN and infinity become 0, with a remark; else they are errors.
    """

    frames: bool = False
    least_voxels: int = 2
    most_voxels: float = math.inf
    view_mm: tuple[float, float] = (0, math.inf)
    usual_view_mm: tuple[float, float] = (0, math.inf)
    voxel_mm: tuple[float, float] = (0, math.inf)
    most_shear: float = math.inf
    most_stretch: float = math.inf
    doubts: Literal["notice", "error"] = "notice"
    prefer: Literal["sform", "qform"] | None = None
    assume_ras: bool = False
    fill_nonfinite: bool = False


# train, infer and evaluate take what a careful user hands over.
PROGRAMS = Rules(most_voxels=MOST_VOXELS, voxel_mm=(0.05, 50))
# Preparation works through thousands of files that nobody has looked at: a doubt is an error.
_PREPARED_MRI = Rules(
    least_voxels=16,
    most_voxels=MOST_VOXELS,
    view_mm=(100, 500),
    voxel_mm=(0.3, 8),
    most_shear=1e-3,
    most_stretch=0.01,
    doubts="error",
)
# A PET scanner's ring is wider than any head.
_PREPARED_PET = replace(_PREPARED_MRI, frames=True, view_mm=(100, 1000))
PREPARED = {"MRI": _PREPARED_MRI, "PET": _PREPARED_PET}
# What a registration can be tried with.
ALIGNED = {
    "MRI": Rules(view_mm=(80, 500), usual_view_mm=(100, 350)),
    "PET": Rules(view_mm=(80, 1000), usual_view_mm=(100, 350)),
}


# Reading -----------------------------------------------------------------------------------------


def read_volume(path: str | os.PathLike) -> Volume:
    """Read and check a `.nii` or `.nii.gz` file of one volume by the rules of the programs.

    Raises:
        InputError: as `read_frames`.
    """
    return read_frames(path, PROGRAMS)[0]


def read_frames(path: str | os.PathLike, rules: Rules) -> list[Volume]:
    """Read and check a `.nii` or `.nii.gz` file.

    The affine is the NIfTI standard's: the sform where its code is above 0, else the qform, else
    (both codes 0) an assumed one: voxel sizes from the header, x running to the left, centre at 0
    mm. A fault of the header is found before the data are read.

    Args:
        path: the file.
        rules: what is refused and what is said.

    Returns:
        one volume for each frame.

    Raises:
        InputError: the file is missing, not downloaded, unreadable, no single-file NIfTI, cut
            short, holds no real numbers, is constant, has no usable voxel size or affine, or breaks
            a rule.
    """
    path = Path(path)
    # What a header's odd numbers overflow to is found by the checks; NumPy need not say it too.
    with _file_errors(path), np.errstate(over="ignore", invalid="ignore"):
        opener = gzip.open if _is_compressed(path) else open
        with opener(path, "rb") as stream:
            start = stream.read(_LONGEST_HEADER)
            header = _read_header(path, start, rules)
            shape = _read_shape(path, header, rules)
            affine = _read_affine(path, header, rules)
            check_grid(path, shape, affine, rules)
            stored, passed_over = _read_values(path, stream, header, shape, start)
    orientation = io_orientation(affine)
    volumes = []
    frames = np.moveaxis(stored.reshape(*shape[:3], -1), 3, 0)
    for number, frame in enumerate(frames, start=1):
        name = f"frame {number}" if len(frames) > 1 else "it"
        frame, filled = _finite(path, frame, name, rules)
        volume = Volume(
            array=np.ascontiguousarray(apply_orientation(frame, orientation)),
            affine=affine @ inv_ornt_aff(orientation, frame.shape),
            header=header,
            stored_affine=affine,
            stored_shape=shape,
            orientation=orientation,
            path=path,
            remarks=(*_remarks(header, shape), *passed_over, *filled),
        )
        volumes.append(volume)
    return volumes


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


def first_bytes(path: Path) -> bytes:
    """The bytes that `kind_of` needs. Raises OSError."""
    with open(path, "rb") as stream:
        return stream.read(_LONGEST_HEADER)


def _is_compressed(path: Path) -> bool:
    """Whether the file is gzip data, after checks that it is a file and that its name agrees."""
    if path.is_dir():
        raise InputError(path, "is a folder", "name a .nii or .nii.gz file in it")
    check_readable(path)
    start = first_bytes(path)
    if not start:
        raise InputError(path, "the file is empty", _FETCH_AGAIN)
    suffix = _suffix(path, _CONVERT)
    kind = kind_of(start)
    if kind == "gzip" and suffix == ".nii":
        problem = "the data are gzip-compressed but the name ends in .nii"
        raise InputError(path, problem, f"rename it to {path.name}.gz")
    if kind != "gzip" and suffix == ".nii.gz":
        if kind != "nifti":
            raise _no_nifti(path, start)
        problem = "the data are not gzip-compressed but the name ends in .nii.gz"
        raise InputError(path, problem, f"rename it to {path.name[:-3]}")
    return kind == "gzip"


KINDS = {
    "dicom": "a DICOM file",
    "gzip": "a compressed file",
    "archive": "a zip archive",
    "ecat": "an ECAT file",
    "interfile": "an Interfile header",
    "analyze": "an Analyze header, which holds no orientation",
    "page": "a web page or XML",
}
_SIGNATURES = {
    b"PK\3\4": "archive",
    b"MATRIX": "ecat",
    # the size of the header, which a NIfTI-1 begins with as well
    b"\x5c\x01\0\0": "analyze",
    b"\0\0\x01\x5c": "analyze",
}


def kind_of(start: bytes) -> str:
    """What a file is by its `first_bytes`: "nifti", a key of `KINDS`, or "" when nobody knows."""
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    if _header_class(start) is not None:
        return "nifti"
    if start[128:132] == b"DICM":
        return "dicom"
    for magic, kind in _SIGNATURES.items():
        if start.startswith(magic):
            return kind
    if start.lstrip(b"!")[:9].upper() == b"INTERFILE":
        return "interfile"
    return "page" if start.lstrip()[:1] == b"<" else ""


def _header_class(start: bytes) -> type[nib.Nifti1Header] | None:
    """The header class whose magic string the first bytes hold, None without any."""
    if start[344:348] in (b"n+1\0", b"ni1\0"):
        return nib.Nifti1Header
    if start[4:8] in (b"n+2\0", b"ni2\0"):
        return nib.Nifti2Header
    return None


def _no_nifti(path: Path, start: bytes) -> InputError:
    kind = kind_of(start)
    what = f"it is {KINDS[kind]}" if kind in KINDS else "it has no NIfTI header"
    remedy = COPY_AGAIN if kind == "page" else _CONVERT  # such as the page of a login
    return InputError(path, f"not a NIfTI: {what}", remedy)


def _read_header(path: Path, start: bytes, rules: Rules) -> nib.Nifti1Header:
    """The header in the first bytes of the (uncompressed) data, without extensions.

    nibabel mends small faults (such as a qfac of 0), would set a voxel size of 0 to 1 and forget a
    form whose code does not exist, so these are looked at before.
    """
    kind = _header_class(start)
    if kind is None:
        raise _no_nifti(path, start)
    size = kind.template_dtype.itemsize
    if len(start) < size:
        raise InputError(path, "the file is cut short within the header", COPY_AGAIN)
    header = kind(start[:size], check=False)
    if header["magic"].item()[:2] == b"ni":
        problem = "it is one half of a two-file NIfTI (.hdr and .img)"
        raise InputError(path, problem, "save it as a single .nii or .nii.gz file")
    _check_voxel_size(path, header)
    if not header.single_vox_offset <= header["vox_offset"] < np.inf:
        raise HeaderDataError(f"vox_offset is {header['vox_offset']:g}")
    try:
        header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise HeaderDataError(f"data type {header['datatype']}") from error
    _mend_codes(path, header, rules)
    header.check_fix(logger=_silent, error_level=40)
    return header


def _mend_codes(path: Path, header: nib.Nifti1Header, rules: Rules) -> None:
    """Doubt codes that do not exist: one too high has a form all the same, one below 0 has none.

    The NIfTI reference code takes a form whose code is any above 0; nibabel would forget it. What
    the user prefers is taken, and nothing is asked of the other form.
    """
    for name, other in (FORMS, FORMS[::-1]):
        code = int(header[f"{name}_code"])
        if 0 <= code <= _LAST_CODE:
            continue
        meant = _ANOTHER_SPACE if code > 0 else 0
        if rules.prefer != other and not (rules.prefer and meant):
            usable = [name] if meant else []
            usable += [other] if 0 < header[f"{other}_code"] <= _LAST_CODE else []
            choice = " or ".join(f"--prefer {form}" for form in sorted(usable, reverse=True))
            _doubt(
                path,
                rules,
                said=f"{name}_code is {code}, which does not exist; taken as {meant}",
                problem=f"the header is damaged ({name}_code is {code})",
                remedy=f"choose {choice}" if choice else COPY_AGAIN,
            )
        header[f"{name}_code"] = meant


def _check_voxel_size(path: Path, header: nib.Nifti1Header) -> None:
    """Three finite sides above 0."""
    stored = header["pixdim"][1:4]
    if (np.isfinite(stored) & (stored > 0)).all():
        return
    shown = " x ".join(f"{side:g}" for side in stored)
    fault = "voxel size not finite"
    if (stored == 0).any():
        fault = "voxel size 0"
    if (stored < 0).any():
        fault = "negative voxel size"
    raise InputError(path, f"{fault} ({shown} mm)", "correct the header's pixdim")


def _read_shape(path: Path, header: nib.Nifti1Header, rules: Rules) -> tuple[int, ...]:
    """The stored shape, after checks that it and the data type are those of one scan."""
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7 or (header["dim"][1 : axes + 1] < 1).any():
        raise HeaderDataError(f"dim is {header['dim'].tolist()}")
    shape = tuple(int(side) for side in header["dim"][1 : axes + 1])
    counts = " x ".join(str(count) for count in shape)
    if math.prod(shape) > rules.most_voxels:
        raise InputError(path, f"{counts} voxels, more than any scan", COPY_AGAIN)
    kind = header.get_data_dtype()
    if kind.fields is not None:
        raise InputError(path, "it is a colour (RGB) image", "give the scalar volume")
    if kind.kind == "c":
        raise InputError(path, "its data are complex", "save the magnitude first")
    if math.prod(shape[3:]) > 1 and (not rules.frames or len(shape) > 4):
        frames = " x ".join(str(side) for side in shape[3:] if side > 1)
        problem = f"{counts} voxels are not a volume: it has {frames} frames, not one"
        raise InputError(path, problem, "average the frames or choose one first")
    return shape


def _remarks(header: nib.Nifti1Header, shape: tuple[int, ...]) -> list[str]:
    """What readers do without a word."""
    remarks = []
    slope = float(header["scl_slope"])
    if slope == 0 or not math.isfinite(slope):
        shown = "NaN" if math.isnan(slope) else f"{slope:g}"
        remarks.append(f"the scaling factor is {shown}, taken as no scaling")
    if len(shape) > 3 and math.prod(shape[3:]) == 1:
        remarks.append("a fourth axis of length 1 was dropped")
    return remarks


# Affine ------------------------------------------------------------------------------------------


def _read_affine(path: Path, header: nib.Nifti1Header, rules: Rules) -> np.ndarray:
    """The (4, 4) float64 affine of the stored array, checked."""
    unit = {1: "metre", 3: "micron"}.get(int(header["xyzt_units"]) & 7)
    if unit:
        _doubt(
            path,
            rules,
            said=f"the header's unit of length is {unit}; its numbers are taken as mm",
            problem=f"units are {unit}s",
            remedy="correct the header's xyzt_units, or the voxel size as well",
        )
    _shorten_quaternion(header)
    if rules.prefer and header[f"{rules.prefer}_code"] > 0:
        affine = _preferred_form(path, header, rules.prefer)
    else:
        forms = _read_forms(path, header, rules)
        if not forms:
            return _assume_affine(path, header, rules)
        if len(forms) == 2:
            _compare_forms(path, header, forms, rules)
        affine = next(iter(forms.values()))
    _check_axes(path, header, affine, rules)
    return affine


def _doubt(path: Path, rules: Rules, said: str, problem: str, remedy: str) -> None:
    """A notice of the reading that is taken, or an error, as the rules have it."""
    if rules.doubts == "error":
        raise InputError(path, problem, remedy)
    notice(f"{path}: {said}")


def _shorten_quaternion(header: nib.Nifti1Header) -> None:
    """Mend a quaternion that rounding has made longer than 1, which nibabel would refuse."""
    fields = "quatern_b", "quatern_c", "quatern_d"
    vector = np.array([header[field] for field in fields], dtype=np.float64)
    squared = float(vector @ vector)
    if 1 < squared <= 1 + _QUATERNION_ROUNDING:
        for field, value in zip(fields, vector / math.sqrt(squared), strict=True):
            header[field] = value


def _preferred_form(path: Path, header: nib.Nifti1Header, name: str) -> np.ndarray:
    """The form that the user asked for, whatever the other one is like."""
    try:
        return _read_form(path, header, name)
    except InputError as error:
        other = FORMS[1 - FORMS.index(name)]
        remedy = f"choose --prefer {other}" if header[f"{other}_code"] > 0 else _CORRECT
        raise InputError(path, error.problem, remedy) from error


def _read_forms(path: Path, header: nib.Nifti1Header, rules: Rules) -> dict[str, np.ndarray]:
    """The usable ones of sform and qform, in this order."""
    forms, faults = {}, {}
    for name in FORMS:
        if header[f"{name}_code"] <= 0:
            continue
        try:
            forms[name] = _read_form(path, header, name)
        except InputError as error:
            faults[name] = error
    if faults and not forms:
        raise next(iter(faults.values()))
    for fault in faults.values():
        (usable,) = forms
        if usable == "sform":
            said = "sform and qform contradict; the sform is used"
        elif header.get_sform()[:3].any() and rules.doubts == "notice":
            raise fault
        else:
            said = "the sform is empty, all zero; the qform is used"
            header["sform_code"] = 0  # nor is it to be in what is written like this volume
        _doubt(path, rules, said, fault.problem, f"choose --prefer {usable}")
    return forms


def _read_form(path: Path, header: nib.Nifti1Header, name: str) -> np.ndarray:
    """sform or qform; refused when it is no map from voxels to mm."""
    try:
        form = header.get_sform() if name == "sform" else header.get_qform()
    except ValueError as error:  # a quaternion longer than 1
        problem = f"affine is not usable, the header is damaged ({name}: {error})"
        raise InputError(path, problem, _CORRECT) from error
    affine = np.asarray(form, dtype=np.float64)
    lengths = sides(affine)
    if np.isfinite(affine).all() and lengths.all():
        if abs(np.linalg.det(affine[:3, :3] / lengths)) >= 1e-6:
            return affine
    problem = f"affine is not usable (the {name} is singular or not finite)"
    raise InputError(path, problem, _CORRECT)


def _assume_affine(path: Path, header: nib.Nifti1Header, rules: Rules) -> np.ndarray:
    """Voxel sizes around the centre, for a header without orientation."""
    to_the_left = header.get_base_affine()
    if rules.assume_ras:
        return np.diag([-1.0, 1.0, 1.0, 1.0]) @ to_the_left
    _doubt(
        path,
        rules,
        said="the header names no orientation (sform and qform codes are 0); "
        "assumed LAS (x runs to the left) around the centre, left and right may be swapped",
        problem="no orientation: left and right unknown",
        remedy="--assume-ras if you know better",
    )
    return to_the_left


def _compare_forms(
    path: Path, header: nib.Nifti1Header, forms: dict[str, np.ndarray], rules: Rules
) -> None:
    """Doubt forms that lie apart: other programs may prefer the other one."""
    shape = (*header.get_data_shape(), 1, 1)[:3]
    apart = corner_distance(shape, forms["sform"], forms["qform"])
    if apart > FORMS_TOLERANCE_MM:
        _doubt(
            path,
            rules,
            said=f"sform and qform differ by up to {apart:.3g} mm; the sform is used",
            problem=f"sform and qform differ by {apart:.1f} mm",
            remedy="choose --prefer sform or --prefer qform",
        )


def _check_axes(path: Path, header: nib.Nifti1Header, affine: np.ndarray, rules: Rules) -> None:
    """The image axes are at right angles and as long as the voxel size says."""
    lengths = sides(affine)
    directions = affine[:3, :3] / lengths
    shear = np.abs(directions.T @ directions - np.eye(3)).max()
    if shear > rules.most_shear:
        degrees = np.degrees(np.arcsin(min(1.0, shear)))
        problem = f"image axes are sheared by {degrees:.2g} degrees (gantry tilt?)"
        raise InputError(path, problem, "resample it to a rectangular grid first")
    voxel = header["pixdim"][1:4]
    if (np.abs(lengths / voxel - 1) > rules.most_stretch).any():
        stored = " x ".join(f"{side:.4g}" for side in voxel)
        meant = " x ".join(f"{side:.4g}" for side in lengths)
        problem = f"voxel size and affine disagree ({stored} mm, {meant} mm)"
        raise InputError(path, problem, _CORRECT)


def _read_values(
    path: Path, stream: BinaryIO, header: nib.Nifti1Header, shape: tuple[int, ...], start: bytes
) -> tuple[np.ndarray, list[str]]:
    """All values as float32 of `shape`, slope and intercept applied, and a remark on surplus bytes.

    The values may hold NaN and infinity. Read to the end of the file, where gzip compares its
    checksum; `start` is what was read before.
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
    remarks = _read_to_the_end(stream)
    values = np.frombuffer(content, kind, math.prod(shape), offset).reshape(shape, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is for the caller to count
        if slope is not None and (slope, intercept) != (1.0, 0.0):
            values = values.astype(np.float64) * slope + intercept
        return values.astype(np.float32), remarks


def _read_to_the_end(stream: BinaryIO) -> list[str]:
    """Have the checksum compared; a remark where something else follows the compressed data."""
    try:
        while stream.read(1 << 20):
            pass
    except gzip.BadGzipFile as error:
        # The file begins as gzip, so this is about what comes after a whole one.
        if not str(error).startswith("Not a gzipped file"):
            raise
        return ["bytes behind the compressed data were not read"]
    return []


# Grid and values, of DICOM series as well --------------------------------------------------------


def check_grid(source: object, shape: Sequence[int], affine: np.ndarray, rules: Rules) -> None:
    """Refuse a grid outside `least_voxels`, `view_mm` or `voxel_mm`.

    Args:
        source: the file or series that the error is about.
        shape: three axes, and those of frames.
        affine: (4, 4), voxel index -> mm.
    """
    if len(shape) < 3 or min(shape[:3]) < rules.least_voxels:
        counts = " x ".join(str(count) for count in shape)
        needed = f"at least {rules.least_voxels} slices are needed"
        remedy = "choose another image of this scan, a 3-D volume"
        raise InputError(source, f"{counts} voxels are not a volume, {needed}", remedy)
    remedy = "are the units wrong? choose another image or correct the header"
    voxel = sides(affine)
    views = voxel * shape[:3]
    least, most = rules.view_mm
    if views.min() < least or views.max() > most:
        worst = views.max() if views.max() > most else views.min()
        problem = f"field of view {worst:.4g} mm (a head needs {least:g} to {most:g})"
        raise InputError(source, problem, remedy)
    least, most = rules.voxel_mm
    if voxel.min() < least or voxel.max() > most:
        shown = " x ".join(f"{side:.4g}" for side in voxel)
        problem = f"voxels of {shown} mm ({least:g} to {most:g} are usual)"
        raise InputError(source, problem, remedy)


def _finite(
    path: Path, values: np.ndarray, name: str, rules: Rules
) -> tuple[np.ndarray, list[str]]:
    """A frame's values, checked; NaN and infinity at 0 and counted where the rules allow that.

    Where the rules allow frames, a blank one is none's fault: it is left out when they are put
    together.
    """
    remedy = "repair these voxels or set them to 0 first"
    if rules.doubts == "error":
        remedy = "repair these voxels or pass --fill-nonfinite"
    remarks = []
    if rules.fill_nonfinite:
        finite = np.isfinite(values)
        if not finite.all():
            where = "" if name == "it" else f" in {name}"
            count = int((~finite).sum())
            remarks.append(f"{count} voxels{where} that were NaN or infinite set to 0")
            values = np.where(finite, values, np.float32(0))
    check_finite(path, values, remedy, name)
    if not rules.frames:
        check_not_blank(path, values)
    return values, remarks


def check_finite(source: object, values: np.ndarray, remedy: str, name: str = "it") -> None:
    """Raise InputError, with this remedy, for NaN and infinity; `name`: of the frame."""
    missing = int(np.isnan(values).sum())
    infinite = int(np.isinf(values).sum())
    if missing or infinite:
        counts = [f"{missing} NaN"] * (missing > 0) + [f"{infinite} infinite"] * (infinite > 0)
        problem = f"{name} holds {' and '.join(counts)} of {values.size} voxels"
        raise InputError(source, problem, remedy)


def check_not_blank(source: object, values: np.ndarray) -> None:
    """Raise InputError for one value only."""
    if values.min() == values.max():
        value = values.flat[0]
        problem = f"all voxels are {value:g}" if value else "it is empty, all voxels are 0"
        raise InputError(source, problem, "give the image itself, not a blank one")


def check_background(source: object, values: np.ndarray, role: str) -> None:
    """Refuse a volume whose 0 cannot be the background: one that was standardised.

    Its regions below 0 sum up to more than `MOST_BELOW` of those above, or none is above.

    Args:
        source: the file or series that the error is about.
        values: (X, Y, Z), finite.
        role: "MRI" or "PET".

    Raises:
        InputError: it is one.
    """
    sums = values
    for axis, side in enumerate(values.shape):
        starts = np.linspace(0, side, min(_REGIONS, side), endpoint=False).astype(int)
        sums = np.add.reduceat(sums, starts, axis, dtype=np.float64)
    below, above = -float(sums[sums < 0].sum()), float(sums[sums > 0].sum())
    if below > MOST_BELOW * above:
        reach = f"values down to {values.min():.4g}, maximum {values.max():.4g}"
        problem = f"the {role} has too much below 0 ({reach}), so 0 is not its background"
        raise InputError(source, problem, _UNSTANDARDISED)


# Pairs -------------------------------------------------------------------------------------------


def read_pair(mri_path: str | os.PathLike, pet_path: str | os.PathLike) -> tuple[Volume, Volume]:
    """Read an MRI and its PET, both on the MRI's grid.

    A PET on another grid is resampled by the affines, with a notice. Two grids count as one when
    the shapes are equal and no corner differs by more than a tenth of the smallest MRI voxel side.

    Negative values: in the MRI they stay and count as background (the foreground is mri > 0); in
    the PET they are set to 0; both with a notice. `check_background` says how much is too much.

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


def _count_negative(volume: Volume, role: str) -> int:
    """Number of voxels below 0 in a volume whose background may well be 0."""
    array = volume.array
    if array.max() <= 0:
        raise InputError(volume.path, f"no voxel of the {role} is above 0", "give positive values")
    check_background(volume.path, array, role)
    return int((array < 0).sum())


def _onto_mri(pet: Volume, mri: Volume) -> Volume:
    """The PET on the MRI's grid: as it is when it lies there already, else resampled."""
    shapes_agree = pet.array.shape == mri.array.shape
    apart = corner_distance(mri.array.shape, mri.affine, pet.affine) if shapes_agree else math.inf
    if apart <= GRID_TOLERANCE * min(mri.voxel_mm):
        return _on_grid_of(mri, pet.array, pet)
    covered = _covered(mri, pet)
    if covered < LEAST_OVERLAP:
        extents = f"PET {_extent(pet)}; MRI {_extent(mri)}"
        problem = f"the PET covers {covered:.1%} of the MRI {mri.path} ({extents})"
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


def _on_grid_of(reference: Volume, array: np.ndarray, source: Volume) -> Volume:
    """`array` as a volume on the grid of `reference`, with the name of the file it came from."""
    return replace(reference, array=array, path=source.path, remarks=source.remarks)


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
    """Largest distance in mm of the same corner of a grid of `shape` under two (4, 4) affines."""
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


def write_colour_like(path: str | os.PathLike, rgb: np.ndarray, reference: Volume) -> None:
    """Write RAS+ colours in the stored form of `reference`, as `write_like`; NIfTI's DT_RGB24.

    Args:
        rgb: (X, Y, Z, 3) uint8 sRGB on the grid of the reference.

    Raises:
        InputError: another suffix, or a place that cannot be written to.
    """
    path = Path(path)
    _suffix(path, "name the output .nii or .nii.gz")
    array = np.ascontiguousarray(rgb, dtype=np.uint8).view(_RGB)[..., 0]
    with replacing(path) as part:
        nib.save(_stored_image(array, reference), part)


def to_stored(array: np.ndarray, reference: Volume) -> np.ndarray:
    """An RAS+ array, (X, Y, Z) or with axes behind, in the stored orientation of `reference`."""
    ras = axcodes2ornt("RAS")
    return apply_orientation(array, ornt_transform(ras, reference.orientation))


def _stored_image(array: np.ndarray, reference: Volume) -> nib.Nifti1Image:
    """An image in the reference's stored orientation, its header cleared of what is not shared.

    Args:
        array: values to be stored as float32 for a display of [0, 1], or colours of type `_RGB`.
    """
    is_colour = array.dtype == _RGB
    kind_of_values = _RGB if is_colour else np.dtype(np.float32)
    stored = to_stored(array, reference)
    header = reference.header.copy()
    header.set_data_dtype(kind_of_values)
    header.set_intent("none")
    header["cal_min"], header["cal_max"] = 0.0, 0.0 if is_colour else 1.0
    description = _COLOUR_DESCRIPTION if is_colour else _FUSED_DESCRIPTION
    header["aux_file"], header["descrip"] = b"", description
    two = isinstance(header, nib.Nifti2Header)
    kind = nib.Nifti2Image if two else nib.Nifti1Image
    # With an affine beside the header nibabel may rewrite the forms and their codes. It resets data
    # offset and slope, which belong to the stored values, by itself.
    return kind(np.ascontiguousarray(stored, dtype=kind_of_values), None, header)
