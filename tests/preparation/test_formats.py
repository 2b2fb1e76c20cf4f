"""What a file is: by its name, by its first bytes, and why some are not read."""

from pathlib import Path

import nibabel as nib
import pytest

from preparation.formats import by_bytes, by_name, modality_by_name, reason, refuse_foreign
from utils.errors import InputError

MARKED = b"\0" * 128 + b"DICM"


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a.nii", "nifti"),
        ("A.NII.GZ", "nifti"),
        ("a.v", "ecat"),
        ("a.i", "interfile"),
        ("a.i.hdr", "interfile"),
        ("a.hdr", "analyze"),
        ("a.img.gz", "analyze"),
        ("a.tar.gz", "archive"),
        ("a.zip", "archive"),
        ("a.xml", "xml"),
        ("a.dcm", "dicom"),
        ("a.IMA", "dicom"),
        ("1.2.840.10008", "dicom"),
        ("IM0001", "dicom"),
        ("a.png", ""),
        ("a.dcm.part", ""),
    ],
)
def test_by_name(name, kind):
    assert by_name(name) == kind


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"", "empty"),
        (b"words", ""),
        (MARKED, "dicom"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\3\4", "archive"),
        (b"MATRIX72v", "ecat"),
        (b"!INTERFILE :=", "interfile"),
        (b"interfile", "interfile"),
        (b"\n <html>", "page"),
        (nib.AnalyzeHeader().binaryblock, "analyze"),
        (nib.Nifti1Header().binaryblock, "nifti"),
        (nib.Nifti1Header(endianness=">").binaryblock, "nifti"),
        (nib.Nifti2Header().binaryblock, "nifti"),
    ],
)
def test_by_bytes(tmp_path, content, kind):
    (tmp_path / "file").write_bytes(content)
    assert by_bytes(tmp_path / "file") == kind


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.dcm", b"MATRIX72v", "ECAT/Interfile not supported; download the 'Co-registered, Ave"),
        ("a.v", b"", "ECAT/Interfile not supported; download the 'Co-registered, Averaged' DICOM"),
        ("a.i.hdr", b"", "ECAT/Interfile not supported; "),
        ("a.img", b"", "Analyze pairs do not say where left and right are; download the DICOM"),
        ("a.nii", nib.AnalyzeHeader().binaryblock, "Analyze pairs do not say"),
        ("a.nii.gz", b"PK\3\4", "an archive; unpack it first"),
        ("a.tar.gz", b"\x1f\x8b", "an archive; unpack it first"),
    ],
)
def test_foreign_ones_are_refused(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        refuse_foreign(path)
    assert str(caught.value).startswith(f"{path}: {words}")


@pytest.mark.parametrize(
    "name, content",
    [("a.nii.gz", b"\x1f\x8b"), ("a.nii", b"<html>"), ("a.dcm", MARKED), ("a.dcm", b"")],
)
def test_others_are_left_to_their_reader(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refuse_foreign(tmp_path / name)
    refuse_foreign(tmp_path / "missing.nii")


def test_one_reason_in_a_table_and_in_an_error(tmp_path):
    for name in ("a.v", "a.i", "a.hdr", "a.zip"):
        with pytest.raises(InputError) as caught:
            refuse_foreign(tmp_path / name)
        assert f"{caught.value.problem}, {caught.value.remedy}" == reason(by_name(name))


@pytest.mark.parametrize(
    "name, modality",
    [
        ("ADNI_001_S_0002_MR_MT1__N3m_Br_20130509101112345_1_S1_I7.nii", "MRI"),
        ("ADNI_001_S_0002_PT_FDG_Br_20130509101112345_1_S1_I7.dcm", "PET"),
        ("sub-01_T1w.nii.gz", "MRI"),
        ("sub-01_pet.nii", "PET"),
        ("one_mri_MNI152.nii.gz", "MRI"),
        ("one_FDG_MNI152.nii.gz", "PET"),
        ("scan.nii", None),
    ],
)
def test_modality_by_name(name, modality):
    assert modality_by_name(Path("folder", name)) == modality
