"""Small DICOM series for tests: a head-like phantom as PET or MR, to be spoiled in memory and then
written.

series = pet_series()
series.planes[5].RescaleSlope = 0
files = series.write(tmp_path)
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (26, 22, 18)  # columns, rows, slices
VOXEL_MM = (5.0, 5.5, 6.5)
PET_CLASS, MR_CLASS = "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.4"
ROOT = "1.2.826.0.1.3680043.8.498"


@dataclass
class DicomSeries:
    """Planes in order (frame by frame), not yet written, with the truth.

    Attributes:
        planes: pydicom data sets, slice k of frame t at index t * slices + k.
        values: (columns, rows, slices, frames) float64 in real units.
        affine: (4, 4) from (column, row, slice) to RAS+ mm.
    """

    planes: list
    values: np.ndarray
    affine: np.ndarray

    def write(self, folder: Path, seed: int = 0) -> list[Path]:
        """Write the planes under shuffled names and return the files."""
        folder.mkdir(parents=True, exist_ok=True)
        order = np.random.default_rng(seed).permutation(len(self.planes))
        files = [folder / f"{place:04d}.dcm" for place in order]
        for plane, file in zip(self.planes, files, strict=True):
            write_plane(plane, file)
        return files


def write_plane(plane, file: Path) -> None:
    """Write one data set, with preamble and file meta."""
    plane.file_meta.MediaStorageSOPInstanceUID = plane.SOPInstanceUID
    plane.save_as(file, enforce_file_format=True)


def pet_series(
    durations: tuple[float, ...] = (1200.0,), degrees: float = 8.0, uid: str = "1"
) -> DicomSeries:
    """A PET in BQML with another slope in each slice; frame t is 1 + t/10 times as bright.

    Args:
        durations: of the frames in s.
        degrees: by which the scanner's axes are turned.
        uid: end of the SeriesInstanceUID.
    """
    affine = _affine(degrees)
    head = phantom(affine) * 6000
    values = np.stack([head * (1 + 0.1 * frame) for frame in range(len(durations))], axis=-1)
    planes, start = [], 0.0
    for frame, duration in enumerate(durations):
        for k in range(SHAPE[2]):
            plane = _plane(values[:, :, k, frame], affine, k, PET_CLASS, uid, len(planes) + 1)
            plane.Units, plane.DecayCorrection = "BQML", "START"
            plane.SeriesType = ["DYNAMIC" if len(durations) > 1 else "STATIC", "IMAGE"]
            plane.NumberOfSlices, plane.ImageIndex = SHAPE[2], frame * SHAPE[2] + k + 1
            if len(durations) > 1:
                plane.NumberOfTimeSlices = len(durations)
            plane.ActualFrameDuration = int(duration * 1000)
            plane.FrameReferenceTime = f"{(start + duration / 2) * 1000:g}"
            plane.AcquisitionTime = f"{100000 + frame * 500:06d}"
            planes.append(plane)
        start += duration
    return DicomSeries(planes, values, affine)


def mr_series(uid: str = "2") -> DicomSeries:
    """A T1 stored in sagittal slices, without slope."""
    affine = np.array([[0, 0, 6.5, -55.0], [5, 0, 0, -60], [0, -5.5, 0, 62], [0, 0, 0, 1.0]])
    values = np.round(phantom(affine) * 500)[..., None]
    planes = [_plane(values[:, :, k, 0], affine, k, MR_CLASS, uid, k + 1) for k in range(SHAPE[2])]
    for plane in planes:
        plane.EchoTime, plane.ImageType = "3.1", ["ORIGINAL", "PRIMARY", "M", "ND"]
    return DicomSeries(planes, values, affine)


def phantom(affine: np.ndarray) -> np.ndarray:
    """(columns, rows, slices) in [0, 2.5]: an ellipsoid that differs in all directions, one-sided
    spot.
    """
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    head = (x / 45) ** 2 + ((y + 4) / 46) ** 2 + ((z - 2) / 44) ** 2
    values = np.where(head < 1, 1 + 0.004 * x + 0.002 * y - 0.003 * z, 0.0)
    return np.where(
        ((x + 20) / 11) ** 2 + ((y - 15) / 11) ** 2 + ((z - 8) / 11) ** 2 < 1, 2.2, values
    )


def _affine(degrees: float) -> np.ndarray:
    """(4, 4) from (column, row, slice) to RAS+ mm: axial slices from bottom to top, turned about
    (1, 2, 3).
    """
    affine = np.diag([-VOXEL_MM[0], -VOXEL_MM[1], VOXEL_MM[2], 1.0])
    affine[:3, 3] = 62, 55, -57
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(
        np.deg2rad(degrees) * np.array([1, 2, 3]) / np.sqrt(14)
    ).as_matrix()
    return turn @ affine


def _plane(values: np.ndarray, affine: np.ndarray, k: int, sop_class: str, uid: str, number: int):
    """One slice as a data set; PET with a slope of its own and signed values, MR as unsigned values
    without slope.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian
    from pydicom.valuerep import DSfloat

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    plane = FileDataset("plane", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    pet = sop_class == PET_CLASS
    plane.SOPClassUID, plane.SOPInstanceUID = sop_class, f"{ROOT}.{uid}.{number}"
    plane.SeriesInstanceUID, plane.StudyInstanceUID = f"{ROOT}.{uid}", f"{ROOT}.0"
    plane.FrameOfReferenceUID, plane.PatientID, plane.PatientName = (
        f"{ROOT}.{uid}.0",
        "941_S_0001",
        "941_S_0001",
    )
    plane.Modality, plane.Manufacturer, plane.PatientPosition = (
        "PT" if pet else "MR",
        "Synthetic",
        "HFS",
    )
    plane.SeriesDescription, plane.SeriesNumber, plane.InstanceNumber = "Head", 1, number
    plane.ImageType = ["ORIGINAL", "PRIMARY"]
    plane.StudyDate = plane.SeriesDate = plane.AcquisitionDate = "20120301"
    plane.AcquisitionTime = "100000"
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    directions = (lps[:3, :2] / sides[:2]).T.ravel()
    plane.ImageOrientationPatient = [DSfloat(number, auto_format=True) for number in directions]
    plane.ImagePositionPatient = [
        DSfloat(number, auto_format=True) for number in (lps @ [0, 0, k, 1])[:3]
    ]
    plane.PixelSpacing, plane.SliceThickness = [f"{sides[1]:g}", f"{sides[0]:g}"], f"{sides[2]:g}"
    plane.Rows, plane.Columns = values.shape[1], values.shape[0]
    plane.SamplesPerPixel, plane.PhotometricInterpretation = 1, "MONOCHROME2"
    plane.BitsAllocated, plane.BitsStored, plane.HighBit, plane.PixelRepresentation = (
        16,
        16,
        15,
        int(pet),
    )
    slope = 1.0
    if pet:
        slope = float(DSfloat(max(values.max(), 1.0) / 32000, auto_format=True))
        plane.RescaleSlope, plane.RescaleIntercept = DSfloat(slope, auto_format=True), "0"
    plane.PixelData = np.round(values.T / slope).astype("<i2" if pet else "<u2").tobytes()
    return plane


def enhanced(series: DicomSeries, sop_class: str) -> DicomSeries:
    """The same image as one enhanced multi-frame data set; orientation and spacing are shared."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    first = copy.deepcopy(series.planes[0])
    shared, own = Dataset(), []
    shared.PlaneOrientationSequence = [_item(first, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_item(first, "PixelSpacing", "SliceThickness")]
    for plane in series.planes:
        item = Dataset()
        item.PlanePositionSequence = [_item(plane, "ImagePositionPatient")]
        if "RescaleSlope" in plane:
            item.PixelValueTransformationSequence = [
                _item(plane, "RescaleSlope", "RescaleIntercept")
            ]
        content = Dataset()
        content.FrameAcquisitionDuration = float(plane.get("ActualFrameDuration", 0))
        content.FrameReferenceDateTime = f"20120301{plane.AcquisitionTime}"
        item.FrameContentSequence = [content]
        own.append(item)
    moved = (
        *("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness"),
        *("RescaleSlope", "RescaleIntercept", "ActualFrameDuration", "FrameReferenceTime"),
        *("NumberOfSlices", "NumberOfTimeSlices", "ImageIndex", "SeriesType", "EchoTime"),
        "AcquisitionTime",
    )
    for keyword in moved:
        first.pop(keyword, None)
    first.SharedFunctionalGroupsSequence = Sequence([shared])
    first.PerFrameFunctionalGroupsSequence = Sequence(own)
    first.NumberOfFrames = len(series.planes)
    first.SOPClassUID = first.file_meta.MediaStorageSOPClassUID = sop_class
    first.PixelData = b"".join(plane.PixelData for plane in series.planes)
    return DicomSeries([first], series.values, series.affine)


def _item(plane, *keywords: str):
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, plane.get(keyword))
    return item
