"""What is damaged, and who reads it: NIfTI headers, gz streams, sidecars, tables, DICOM files."""

import gzip
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from data.subjects import find_subjects, read_pairs
from data.volume import read_volume
from preparation.find.adni_tables import read_image_ids, read_tables, read_xml
from preparation.find.bids import find_bids
from preparation.find.table import read_scan_pairs
from preparation.read.dicom import read_series
from preparation.read.dicom_header import describe
from preparation.read.scan import Allowed, load_scan
from preparation.scans import Scan
from tests.fuzz.harness import Kind
from tests.fuzz.mutations import damaged, odd_json, odd_table, set_fields
from tests.helpers.dicom_series import enhanced, mr_series, pet_series
from tests.helpers.nifti_scans import AFFINE, head

_HEADER_BYTES = 600
_ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.130"


def _nothing(_: Path) -> None:
    return None


# NIfTI -------------------------------------------------------------------------------------------


def _nifti_bytes(_: Path) -> list[bytes]:
    """A head in several forms, uncompressed."""
    values, found = head(), []
    frames = np.stack([values, values * 2], axis=-1)
    for array in (values, values.astype(np.int16), frames):
        for kind, order in ((nib.Nifti1Image, "<"), (nib.Nifti1Image, ">"), (nib.Nifti2Image, "<")):
            image = kind(array, AFFINE, kind.header_class(endianness=order))
            image.set_data_dtype(array.dtype)
            image.set_sform(AFFINE, 1)
            image.set_qform(AFFINE, 1)
            image.header.set_xyzt_units("mm")
            stream = io.BytesIO()
            image.to_file_map({"image": nib.FileHolder(fileobj=stream)})
            found.append(stream.getvalue())
    return found


def _read_nifti(path: Path, generator: np.random.Generator) -> None:
    """As the programs read it, or as preparation does."""
    way = generator.integers(3)
    if way == 0:
        read_volume(path)
        return
    modality = "MRI" if way == 1 else "PET"
    durations = (300.0, 600.0) if modality == "PET" else None
    scan = Scan("s", modality, (path,), "nifti", frame_durations=durations)
    allowed = Allowed() if generator.random() < 0.5 else Allowed(True, True, True, "sform")
    load_scan(scan, allowed=allowed)


def _run_header(shared: list[bytes], folder: Path, generator: np.random.Generator) -> None:
    data = shared[generator.integers(len(shared))]
    size = 540 if data[4:6] == b"n+" else 348
    if generator.random() < 0.5:
        data = damaged(data[:size], generator, size) + data[size:]
    else:
        kind = nib.Nifti2Header if size == 540 else nib.Nifti1Header
        header = kind(data[:size], check=False).structarr.copy()
        set_fields(header, generator)
        data = header.tobytes() + data[size:]
    packed = generator.random() < 0.3
    path = folder / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    _read_nifti(path, generator)


def _gz_streams(folder: Path) -> list[bytes]:
    return [gzip.compress(data, 1) for data in _nifti_bytes(folder)]


def _run_stream(shared: list[bytes], folder: Path, generator: np.random.Generator) -> None:
    (folder / "a.nii.gz").write_bytes(damaged(shared[generator.integers(len(shared))], generator))
    _read_nifti(folder / "a.nii.gz", generator)


# Sidecars and tables -----------------------------------------------------------------------------

_SIDECAR = {
    "TracerName": "FDG",
    "TracerRadionuclide": "F18",
    "FrameDuration": [300, 600],
    "AttenuationCorrection": "CT",
    "ReconMethodName": "OSEM",
}
_SCANS = "filename,acq_time\nanat/sub-01_T1w.nii,2012-03-01T10:00:00\npet/sub-01_pet.nii,2012-04-01"
_PAIRS = "subject,mri,pet\na,a_mri.nii,a_pet.nii\nb,b_mri.nii,b_pet.nii\n"
_COLLECTION = (
    "Image Data ID,Subject,Modality,Description,Acq Date,Format\n"
    "I1,033_S_5198,MRI,MT1; N3m,3/1/2012,DCM\nI2,033_S_5198,PET,Co-registered,4/1/2012,DCM\n"
)
_XML = (
    "<?xml version='1.0'?><idaxs><project><subject><subjectIdentifier>033_S_5198"
    "</subjectIdentifier><study><series><modality>MRI</modality><dateAcquired>2012-03-01 10:00:00"
    "</dateAcquired><imagingProtocol><imageUID>1</imageUID><protocolTerm><protocol term='Matrix Z'>"
    "18.0</protocol></protocolTerm></imagingProtocol></series></study></subject></project></idaxs>"
)


def _run_sidecar(_: None, folder: Path, generator: np.random.Generator) -> None:
    """A BIDS data set of empty images: names and sidecars are all that finding looks at."""
    for name in ("anat/sub-01_T1w.nii", "pet/sub-01_pet.nii"):
        file = folder / "sub-01" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
    sidecar = ("pet.json", "sub-01/pet/sub-01_pet.json")[generator.integers(2)]
    (folder / sidecar).write_bytes(odd_json(_SIDECAR, generator))
    if generator.random() < 0.3:
        table = odd_table(_SCANS, generator).replace(b",", b"\t")
        (folder / "sub-01" / "sub-01_scans.tsv").write_bytes(table)
    (find_bids if generator.random() < 0.5 else find_subjects)(folder)


def _run_table(_: None, folder: Path, generator: np.random.Generator) -> None:
    way = generator.integers(5)
    if way < 2:
        for name in ("a_mri", "a_pet", "b_mri", "b_pet"):
            (folder / f"{name}.nii").write_bytes(name.encode())
    texts = _PAIRS, _PAIRS.replace("subject,", "output,"), _COLLECTION, "I1,I2,I3\n", _XML
    path = folder / ("t.xml" if way == 4 else "t.csv")
    path.write_bytes(odd_table(texts[way], generator))
    if way == 0:
        read_scan_pairs(path)
    elif way == 1:
        read_pairs(path)
    elif way == 2:
        read_tables([path])
    elif way == 3:
        read_image_ids(path)
    else:
        read_xml(path)


# DICOM -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Written:
    """A good series on disk."""

    files: Sequence[Path]
    modality: str


def _dicom_series(folder: Path) -> list[_Written]:
    made = {
        "mr": (mr_series(), "MRI"),
        "pet": (pet_series(), "PET"),
        "dynamic": (pet_series((300, 600)), "PET"),
        "enhanced": (enhanced(pet_series((300, 600)), _ENHANCED_PET), "PET"),
    }
    rle = mr_series()
    for plane in rle.planes:
        plane.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    made["rle"] = rle, "MRI"
    found = []
    for name, (series, modality) in made.items():
        found.append(_Written(tuple(sorted(series.write(folder / name))), modality))
    return found


def _run_dicom(shared: list[_Written], folder: Path, generator: np.random.Generator) -> None:
    """One file of a series damaged, in its header or anywhere."""
    series = shared[generator.integers(len(shared))]
    for file in series.files:
        shutil.copy(file, folder / file.name)
    spoilt = folder / series.files[generator.integers(len(series.files))].name
    data = spoilt.read_bytes()
    until = _HEADER_BYTES * 3 if generator.random() < 0.6 else None
    start = 132 if generator.random() < 0.9 else 0
    spoilt.write_bytes(data[:start] + damaged(data[start:], generator, until))
    describe(spoilt)
    read_series([folder], series.modality)


NIFTI_HEADERS = Kind("NIfTI headers", _nifti_bytes, _run_header)
GZ_STREAMS = Kind("gz streams", _gz_streams, _run_stream)
SIDECARS = Kind("BIDS sidecars", _nothing, _run_sidecar)
TABLES = Kind("tables", _nothing, _run_table)
DICOM = Kind("DICOM files", _dicom_series, _run_dicom)
# Of every 13 cases; 13,000 are 10,000 volumes, 2,000 sidecars and tables, 1,000 DICOM files.
SHARES = {NIFTI_HEADERS: 7, GZ_STREAMS: 3, SIDECARS: 1, TABLES: 1, DICOM: 1}
