"""Write a volume as a classic DICOM series, one file for each plane; synthetic data only.

Explicit VR little endian, File Meta Information as the standard wants it, the same bytes for the
same arguments.
"""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.grids import sides
from utils.optional import need

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MOST_SIGNED = 32767


@dataclass(frozen=True)
class Planes:
    """A volume in the order in which a series stores it.

    Attributes:
        array: (columns, rows, planes), or (columns, rows, planes, frames) for a dynamic PET; values
            >= 0.
        affine: (4, 4) index in `array` -> RAS+ mm; its axes are orthogonal.
        durations: seconds for each frame.
    """

    array: np.ndarray
    affine: np.ndarray
    durations: tuple[float, ...] = ()


def sagittal(array: np.ndarray, affine: np.ndarray) -> Planes:
    """An (X, Y, Z) volume as sagittal planes.

    Columns run backwards, rows downwards, planes to the right.
    """
    stored = array.transpose(1, 2, 0)[::-1, ::-1]  # -Y, -Z, X
    x, y, z = affine[:3, :3].T
    return Planes(stored, _turned(affine, (-y, -z, x), _last(array) * [0, 1, 1]))


def transverse(array: np.ndarray, affine: np.ndarray, durations: tuple[float, ...] = ()) -> Planes:
    """An (X, Y, Z[, T]) volume as transverse planes from the top down.

    Columns run to the left, rows backwards.
    """
    stored = array[::-1, ::-1, ::-1]  # -X, -Y, -Z[, T]
    x, y, z = affine[:3, :3].T
    return Planes(stored, _turned(affine, (-x, -y, -z), _last(array)), durations)


def _last(array: np.ndarray) -> np.ndarray:
    """(3,) index of the last voxel."""
    return np.array(array.shape[:3]) - 1


def _turned(affine: np.ndarray, steps: tuple, first: np.ndarray) -> np.ndarray:
    """Affine with these steps (mm, one for each axis), from a voxel of the one given."""
    origin = (affine @ [*first, 1])[:3]
    turned = np.eye(4)
    turned[:3] = np.stack([*steps, origin], 1)
    return turned


@dataclass(frozen=True)
class About:
    """What the headers of a series say besides the image.

    Attributes:
        modality: "MR" or "PT".
        patient, description: as written; `key` makes the unique ids, which are the same for the
            same key.
        when: of the acquisition.
        tracer: of a PET, in words.
        extra: further elements by keyword.
        without_slope: PET planes, counted from 0, whose RescaleSlope is missing.
        uncorrected: of a PET, not corrected for attenuation and scatter.
    """

    modality: str
    patient: str
    description: str
    key: str
    when: datetime.datetime
    series_number: int = 1
    tracer: str = "FDG -- fluorodeoxyglucose"
    extra: Mapping[str, object] = field(default_factory=dict)
    without_slope: frozenset[int] = frozenset()
    uncorrected: bool = False


def write_series(files: Sequence[Path], planes: Planes, about: About) -> None:
    """Write the planes, frame by frame, to `files` (as many as there are planes in all frames).

    MR planes are stored as they are (whole numbers up to 65535), PET planes scaled by a slope of
    their own to 16 bits.

    Raises:
        InputError: pydicom is missing.
    """
    array = planes.array
    if array.ndim == 3:
        array = array[..., None]  # columns, rows, planes, frames
    dataset = _common(array.shape, planes.affine, about)
    if about.modality == "PT":
        _add_pet(dataset, array.shape, about)
    for keyword, value in about.extra.items():
        setattr(dataset, keyword, value)
    positions = (_LPS @ planes.affine)[:3]
    per_frame = array.shape[2]
    for number, file in enumerate(files):
        frame, k = divmod(number, per_frame)
        dataset.SOPInstanceUID = f"{dataset.SeriesInstanceUID}.{number + 1}"
        dataset.InstanceNumber = number + 1
        dataset.ImagePositionPatient = _decimals(positions @ [0, 0, k, 1])
        plane = array[:, :, k, frame].T
        if about.modality == "PT":
            _add_frame(dataset, planes, frame, number, about)
            plane = _scaled(dataset, plane, k not in about.without_slope)
        else:
            plane = np.rint(plane).astype("<u2")
        dataset.PixelData = np.ascontiguousarray(plane).tobytes()
        dataset.file_meta = _file_meta(dataset)
        dataset.save_as(file, enforce_file_format=True)


def uid(key: str) -> str:
    """A valid unique id made of a text, the same for the same text."""
    return f"2.25.{int.from_bytes(hashlib.sha256(key.encode()).digest()[:15], 'big')}"


def _common(shape: tuple[int, ...], affine: np.ndarray, about: About):
    """What all files of the series have in common."""
    dataset = need("pydicom").Dataset()
    dataset.preamble = b"\0" * 128
    voxel_mm = sides(affine)
    axes = (_LPS[:3, :3] @ affine[:3, :3]) / voxel_mm
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = PET_STORAGE if about.modality == "PT" else MR_STORAGE
    dataset.Modality = about.modality
    dataset.Manufacturer = "Synthetic"
    dataset.PatientName = dataset.PatientID = about.patient
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = uid(about.key + " study")
    dataset.SeriesInstanceUID = uid(about.key)
    dataset.FrameOfReferenceUID = uid(about.key + " frame of reference")
    dataset.SeriesDescription = about.description
    dataset.SeriesNumber = about.series_number
    day, time = about.when.strftime("%Y%m%d"), about.when.strftime("%H%M%S")
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = day
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = time
    dataset.ImageType = ["ORIGINAL", "PRIMARY"] + ["M", "ND"] * (about.modality == "MR")
    dataset.ImageOrientationPatient = _decimals([*axes[:, 0], *axes[:, 1]])
    dataset.PixelSpacing = _decimals([voxel_mm[1], voxel_mm[0]])  # between rows, between columns
    dataset.SliceThickness = _decimals([voxel_mm[2]])[0]
    dataset.Columns, dataset.Rows = shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(about.modality == "PT")
    return dataset


def _add_pet(dataset, shape: tuple[int, ...], about: About) -> None:
    """The PET module: units, decay, counts of planes and frames, tracer."""
    pydicom = need("pydicom")
    dataset.Units, dataset.DecayCorrection = "BQML", "START"
    by_maps = [] if about.uncorrected else ["ATTN", "SCAT"]
    dataset.CorrectedImage = ["NORM", "DTIM", *by_maps, "DECY"]
    dataset.SeriesType = ["DYNAMIC" if shape[3] > 1 else "STATIC", "IMAGE"]
    dataset.NumberOfSlices = shape[2]
    if shape[3] > 1:
        dataset.NumberOfTimeSlices = shape[3]
    code = pydicom.Dataset()
    code.CodeValue = "C-111A1"
    code.CodingSchemeDesignator = "SRT"
    code.CodeMeaning = "^18^Fluorine"
    dose = pydicom.Dataset()
    dose.Radiopharmaceutical = about.tracer
    dose.RadionuclideTotalDose = "185000000"
    dose.RadionuclideHalfLife = "6586.2"  # seconds, of fluorine-18
    dose.RadionuclideCodeSequence = [code]
    dataset.RadiopharmaceuticalInformationSequence = [dose]


def _add_frame(dataset, planes: Planes, frame: int, number: int, about: About) -> None:
    """Times of a plane's frame, in milliseconds from the series' beginning."""
    durations = planes.durations or (1800.0,)
    start = sum(durations[:frame])
    dataset.ActualFrameDuration = round(durations[frame] * 1000)
    dataset.FrameReferenceTime = _decimals([1000 * (start + durations[frame] / 2)])[0]
    dataset.AcquisitionTime = (about.when + datetime.timedelta(seconds=start)).strftime("%H%M%S")
    dataset.ImageIndex = number + 1


def _scaled(dataset, plane: np.ndarray, with_slope: bool) -> np.ndarray:
    """The plane in 16 bits; its slope goes to the header."""
    slope = _decimals([max(float(plane.max()), 1.0) / _MOST_SIGNED])[0]
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, "0"
    if not with_slope:
        del dataset.RescaleSlope, dataset.RescaleIntercept
    return np.minimum(np.rint(plane / float(slope)), _MOST_SIGNED).astype("<i2")


def _decimals(values) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{float(value) + 0.0:.9g}" for value in values]


def _file_meta(dataset):
    meta = need("pydicom").dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    meta.ImplementationClassUID = uid("DC2Fusion")
    meta.ImplementationVersionName = "DC2FUSION"
    return meta
