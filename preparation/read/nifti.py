"""NIfTI files read with checks of the header as it is stored, before any reader mends it in
silence.

For files that nobody has looked at: where programs would disagree about the header, there is an
    error, not a choice.
"""

import gzip
import math
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from data.volume import COPY_AGAIN, FORMS_TOLERANCE_MM, corner_distance, read_values
from preparation.read.dicom import MOST_VOXELS
from preparation.read.dicom_planes import refuse_foreign
from utils.errors import InputError

MOST_SHEAR = 1e-3  # cosine between two image axes
ZOOM_TOLERANCE = 0.01  # between pixdim and the affine's columns, relative

_LAST_CODE = 5  # of the coordinate systems that a form can be in
_CORRECT_HEADER = "correct the header or download the scan again"


def stored_header(file: Path) -> nib.Nifti1Header | None:
    """The header as it is stored, not mended; None where `read_volume` will not get as far as the
    header either.
    """
    try:
        if file.suffix.lower() in (".hdr", ".img"):
            problem = "an Analyze or two-file image, Analyze has no orientation"
            raise InputError(file, problem, "convert it to a single .nii or .nii.gz first")
        refuse_foreign(file)
        with open(file, "rb") as stream:
            start = stream.read(540)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(file, "rb") as stream:
                start = stream.read(540)
    except (OSError, EOFError, zlib.error):
        return None
    for kind, magic in ((nib.Nifti1Header, start[344:348]), (nib.Nifti2Header, start[4:8])):
        size = kind.template_dtype.itemsize
        if magic in (b"n+1\0", b"n+2\0") and len(start) >= size:
            return kind(start[:size], check=False)
    return None


def check_shape(file: Path, header: nib.Nifti1Header, modality: str) -> tuple[int, ...]:
    """The stored shape, after checks that these can be the values of a volume or of a PET's frames."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7 or (header["dim"][1 : count + 1] < 1).any():
        raise InputError(
            file, f"the header is damaged (dim is {header['dim'].tolist()})", _CORRECT_HEADER
        )
    shape = tuple(int(side) for side in header["dim"][1 : count + 1])
    sides = " x ".join(map(str, shape))
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(file, f"{sides} voxels, more than any scan", _CORRECT_HEADER)
    try:
        kind = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise InputError(
            file, f"the header is damaged (data type {header['datatype']})", _CORRECT_HEADER
        ) from error
    if kind.fields is not None:
        raise InputError(file, "it is a colour image", "give the scalar volume")
    if kind.kind == "c":
        raise InputError(file, "its data are complex", "save the magnitude first")
    if len(shape) < 3:
        raise InputError(
            file, f"{sides} voxels are not a volume", "choose another image of this scan"
        )
    if math.prod(shape[3:]) > 1 and (modality == "MRI" or len(shape) > 4):
        raise InputError(file, f"{sides} voxels are not a volume", "choose the T1 image")
    voxel = header["pixdim"][1:4]
    if not (np.isfinite(voxel) & (voxel > 0)).all():
        shown = " x ".join(f"{side:g}" for side in voxel)
        fault = "negative voxel size" if (voxel < 0).any() else "voxel size 0"
        raise InputError(file, f"{fault} ({shown} mm)", "correct the header's pixdim")
    return shape


def check_affine(
    file: Path, header: nib.Nifti1Header, assume_ras: bool, prefer: str | None
) -> np.ndarray:
    """The (4, 4) affine of the stored array, after checks that all programs would agree on it."""
    unit = {1: "metres", 3: "microns"}.get(int(header["xyzt_units"]) & 7)
    if unit:
        raise InputError(
            file, f"units are {unit}", "correct the header's xyzt_units, or the voxel size as well"
        )
    header = header.copy()
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # qfac: 0 means 1
    for field in ("sform_code", "qform_code"):
        if not 0 <= header[field] <= _LAST_CODE:
            raise InputError(
                file, f"the header is damaged ({field} is {header[field]})", _CORRECT_HEADER
            )
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not sform and not qform:
        return _assumed(file, header, assume_ras)
    forms = {}
    for name, there in (("sform", sform), ("qform", qform)):
        if there:
            forms[name] = _form(file, header, name)
    if len(forms) == 2:
        apart = corner_distance(header.get_data_shape()[:3], *forms.values())
        if apart > FORMS_TOLERANCE_MM and prefer is None:
            problem = f"sform and qform differ by {apart:.1f} mm"
            raise InputError(file, problem, "choose --prefer sform or --prefer qform")
    name = prefer if prefer in forms else next(iter(forms))
    _check_axes(file, header, forms[name])
    return forms[name]


def remarks(header: nib.Nifti1Header, shape: tuple[int, ...]) -> list[str]:
    """What readers do without a word."""
    notes = []
    slope = float(header["scl_slope"])
    if slope == 0 or not math.isfinite(slope):
        notes.append(
            f"the scaling factor is {'NaN' if math.isnan(slope) else f'{slope:g}'}, taken as no scaling"
        )
    if len(shape) > 3 and math.prod(shape[3:]) == 1:
        notes.append("a fourth axis of length 1 was dropped")
    return notes


def read_stored(file: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    """All values of a file under a checked header: float32 of `shape` as stored, scaled; may hold
    NaN and infinity.

    Raises:
        InputError: the data are cut short or damaged.
    """
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        if int(header["vox_offset"]) < header.sizeof_hdr:
            raise HeaderDataError(f"vox_offset is {header['vox_offset']}")
        with opener(file, "rb") as stream:
            return read_values(file, stream, header, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(file, "the data are cut short or damaged", COPY_AGAIN) from error
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise InputError(
            file, "the header is damaged (offset or scaling)", _CORRECT_HEADER
        ) from error
    except MemoryError as error:
        raise InputError(
            file, "the image does not fit into memory", "average or resample it first"
        ) from error


def _assumed(file: Path, header: nib.Nifti1Header, assume_ras: bool) -> np.ndarray:
    """RAS+ around the centre, for a header without orientation."""
    if not assume_ras:
        raise InputError(
            file, "no orientation: left and right unknown", "--assume-ras if you know better"
        )
    sides = header["pixdim"][1:4].astype(np.float64)
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -sides * (np.array(header.get_data_shape()[:3]) - 1) / 2
    return affine


def _form(file: Path, header: nib.Nifti1Header, name: str) -> np.ndarray:
    """sform or qform; refused when it is no map from voxels to mm."""
    try:
        affine = np.asarray(
            header.get_sform() if name == "sform" else header.get_qform(), dtype=np.float64
        )
        sides = np.linalg.norm(affine[:3, :3], axis=0)
        usable = (
            np.isfinite(affine).all()
            and sides.all()
            and abs(np.linalg.det(affine[:3, :3] / sides)) > 1e-6
        )
    except (ValueError, HeaderDataError):  # a quaternion longer than 1
        usable = False
    if not usable:
        raise InputError(
            file, f"affine is not usable (the {name} is singular or not finite)", _CORRECT_HEADER
        )
    return affine


def _check_axes(file: Path, header: nib.Nifti1Header, affine: np.ndarray) -> None:
    """The image axes are at right angles and as long as the voxel size says."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / sides
    shear = np.abs(directions.T @ directions - np.eye(3)).max()
    if shear > MOST_SHEAR:
        degrees = np.degrees(np.arcsin(min(1.0, shear)))
        problem = f"image axes are sheared by {degrees:.2g} degrees (gantry tilt?)"
        raise InputError(file, problem, "resample it to a rectangular grid first")
    voxel = header["pixdim"][1:4]
    if (np.abs(sides / voxel - 1) > ZOOM_TOLERANCE).any():
        one, two = (" x ".join(f"{side:.4g}" for side in some) for some in (voxel, sides))
        raise InputError(
            file, f"voxel size and affine disagree ({one} mm, {two} mm)", _CORRECT_HEADER
        )
