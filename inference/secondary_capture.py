"""A colour volume as a DICOM series of secondary captures, in the MRI's frame of reference.

A result that came out of a network is no acquisition: secondary capture says so, and viewers still
lay it over the MRI, because every plane has its position.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.grids import sides
from data.volume import Volume, to_stored
from utils.errors import InputError
from utils.files import replacing_folder
from utils.optional import need

if TYPE_CHECKING:
    from pydicom import Dataset

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NOTE = "MRI and PET fused by a network: luminance is the fused volume, hue the PET. Research only."
# Of the MRI's series with --keep-patient, else empty or new.
PATIENT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName", "SpecificCharacterSet",
)  # fmt: skip
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_WANTED = np.diag([1.0, 1.0, -1.0])  # a picture's axes run to the left, the back and the feet
_SAME_DIRECTION = 0.999  # cosine
_SAME_PLACE_MM = 0.1


def read_series(folder: Path) -> list[Dataset]:
    """The headers of the MRI's DICOM series, one a plane.

    Raises:
        InputError: pydicom is missing, or the folder holds no series or several.
    """
    pydicom = need("pydicom")
    headers = []
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputError(folder, problem, "give the folder of the MRI's DICOM series") from error
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
        if "ImagePositionPatient" in header and "ImageOrientationPatient" in header:
            headers.append(header)
    series = {header.get("SeriesInstanceUID") for header in headers}
    if len(series) != 1:
        problem = f"{len(series)} series of single planes with positions in this folder"
        raise InputError(folder, problem, "give the folder of the MRI's own DICOM series")
    return headers


def write_series(
    folder: Path,
    rgb: np.ndarray,
    mri: Volume,
    description: str,
    source: Path | None = None,
    keep_patient: bool = False,
) -> None:
    """Write a folder of secondary captures, `0001.dcm` and so on; a folder that is there goes.

    Args:
        rgb: (X, Y, Z, 3) uint8 sRGB in RAS+ order on the grid of `mri`.
        description: of the series.
        source: folder of the DICOM series that the MRI was converted from. The planes are then
            its planes, and lie in its frame of reference.
        keep_patient: take patient and study over from it, too.

    Raises:
        InputError: pydicom is missing, the series is none or lies elsewhere, or the disk refuses.
    """
    headers = read_series(source) if source else []
    planes, affine = _planes(to_stored(rgb, mri), _LPS @ mri.stored_affine, headers, source)
    dataset = _common(planes.shape, affine, description)
    if headers:
        dataset.FrameOfReferenceUID = headers[0].get("FrameOfReferenceUID", _uid())
    if headers and keep_patient:
        for keyword in PATIENT:
            if keyword in headers[0]:
                setattr(dataset, keyword, headers[0].get(keyword))
    with replacing_folder(folder) as part:
        for k in range(planes.shape[2]):
            _write_plane(part / f"{k + 1:04d}.dcm", dataset, planes[:, :, k], affine, k)


def _planes(
    stored: np.ndarray, affine: np.ndarray, headers: Sequence[Dataset], source: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Colours as (columns, rows, planes, 3), and the affine from there to LPS+ mm.

    Planes are those of the series, without one those of the stored third axis, upright.

    Raises:
        InputError: the series' planes are not those of the stored grid.
    """
    directions = affine[:3, :3] / sides(affine)
    if headers:
        cosines = np.array(headers[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
        axes = [int(np.abs(directions.T @ cosine).argmax()) for cosine in cosines]
        agreement = [abs(directions[:, a] @ c) for a, c in zip(axes, cosines, strict=True)]
        if axes[0] == axes[1] or min(agreement) < _SAME_DIRECTION:
            raise _lies_elsewhere(source)
    else:
        axes = sorted((0, 1), key=lambda axis: int(np.abs(directions[:, axis]).argmax()))
        cosines = [_WANTED[np.abs(directions[:, axis]).argmax()] for axis in axes]
    order = [*axes, 3 - sum(axes)]
    planes = stored.transpose(*order, 3)
    affine = affine[:, [*order, 3]]
    for axis, cosine in enumerate(cosines):
        if affine[:3, axis] @ cosine < 0:
            planes = np.flip(planes, axis)
            affine = affine.copy()
            affine[:, 3] += affine[:, axis] * (planes.shape[axis] - 1)
            affine[:, axis] *= -1
    if headers:
        there = np.array([header.ImagePositionPatient for header in headers], dtype=float)
        mine = affine[:3, 3] + np.arange(planes.shape[2])[:, None] * affine[:3, 2]
        apart = np.linalg.norm(there[:, None] - mine[None], axis=-1).min(axis=1)
        if len(headers) != len(mine) or apart.max() > _SAME_PLACE_MM:
            raise _lies_elsewhere(source)
    return planes, affine


def _lies_elsewhere(source: Path | None) -> InputError:
    problem = "its planes are not those of the MRI's NIfTI"
    remedy = "give the series that the NIfTI was converted from, or leave the folder out"
    return InputError(source, problem, remedy)


def _common(shape: Sequence[int], affine: np.ndarray, description: str) -> Dataset:
    """What all planes have in common."""
    dataset = need("pydicom").Dataset()
    now = datetime.datetime.now()
    voxel_mm = sides(affine)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.Modality, dataset.ConversionType = SECONDARY_CAPTURE, "OT", "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    for keyword in PATIENT[:4] + ("StudyID", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, keyword, "")
    dataset.PatientOrientation = dataset.Laterality = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _uid(), _uid()
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = _uid(), ""
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = now.strftime("%Y%m%d")
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = now.strftime("%H%M%S")
    dataset.SeriesDescription, dataset.SeriesNumber = description[:64], "9001"
    dataset.DerivationDescription, dataset.Manufacturer = NOTE, "DC2Fusion"
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    axes = affine[:3, :3] / voxel_mm
    dataset.ImageOrientationPatient = _decimals([*axes[:, 0], *axes[:, 1]])
    dataset.PixelSpacing = _decimals([voxel_mm[1], voxel_mm[0]])  # between rows, between columns
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimals([voxel_mm[2]])[0]
    dataset.Columns, dataset.Rows = shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    return dataset


def _write_plane(
    file: Path, dataset: Dataset, plane: np.ndarray, affine: np.ndarray, k: int
) -> None:
    """Write plane k, (columns, rows, 3)."""
    pydicom = need("pydicom")
    dataset.SOPInstanceUID, dataset.InstanceNumber = _uid(), k + 1
    dataset.ImagePositionPatient = _decimals(affine[:3, 3] + k * affine[:3, 2])
    pixels = np.ascontiguousarray(plane.transpose(1, 0, 2)).tobytes()  # rows, columns, 3
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(file, enforce_file_format=True)


def _uid() -> str:
    return str(need("pydicom.uid").generate_uid(prefix="2.25."))


def _decimals(values) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{float(value) + 0.0:.9g}" for value in values]
