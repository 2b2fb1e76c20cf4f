"""Small NIfTI scans of a head, good and bad, and what `load_scan` says to them."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from preparation.read.scan import load_scan
from preparation.scans import Scan
from tests.helpers.dicom_series import phantom
from utils.errors import InputError

AFFINE = np.diag([5.0, 5.5, 6.5, 1.0])
AFFINE[:3, 3] = -62, -55, -57


def head():
    """(26, 22, 18) float32 in RAS+, an ellipsoid in a background of 0."""
    return (phantom(AFFINE) * 500).astype(np.float32)


def write(path, values=None, affine=AFFINE, **fields):
    """A NIfTI with sform and qform; then header fields (index -> value for one entry) as they are,
    valid or not.
    """
    values = head() if values is None else values
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    plain = path.with_name("plain.nii")
    nib.save(image, plain)
    content = bytearray(plain.read_bytes())
    plain.unlink()
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for field, value in fields.items():
        for index, entry in value.items() if isinstance(value, dict) else ((..., value),):
            header[field][index] = entry
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    return path


def content(path, data):
    path.write_bytes(data)
    return path


def with_values(index, value, kind=np.float32):
    values = head().astype(kind)
    values[index] = value
    return values


def scan_of(*files, modality="MRI", kind="nifti", **fields):
    return Scan("941_S_0001", modality, tuple(files), kind, **fields)


def refused(scan, *words, **options):
    """The one line of the error, with the path of the scan and these words in it."""
    with pytest.raises(InputError) as caught:
        load_scan(scan, **options)
    error = caught.value
    assert error.source in [str(file) for file in scan.files] + [str(scan.where)]
    assert error.problem and error.remedy and "\n" not in str(error)
    for word in words:
        assert word in str(error)
    return error
