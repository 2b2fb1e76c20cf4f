"""What one DICOM header says about its series."""

import gzip

import pytest

from preparation.read.dicom_header import SeriesHeader, describe, read_header
from tests.helpers.dicom_series import mr_series, pet_series, write_plane
from utils.errors import InputError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")


def tracer(name="", half_life=None, meaning=None, radionuclide=None):
    """An item of RadiopharmaceuticalInformationSequence."""
    item = pydicom.Dataset()
    item.Radiopharmaceutical = name
    if half_life is not None:
        item.RadionuclideHalfLife = half_life
    if meaning is not None:
        code = pydicom.Dataset()
        code.CodeMeaning = meaning
        item.RadiopharmaceuticalCodeSequence = [code]
    if radionuclide is not None:
        code = pydicom.Dataset()
        code.CodeMeaning = radionuclide
        item.RadionuclideCodeSequence = [code]
    return item


@pytest.fixture
def pet(tmp_path):
    """Function that writes a PET plane with some elements changed and returns its path."""

    def write(**elements):
        (plane, *_) = pet_series().planes
        for keyword, value in elements.items():
            setattr(plane, keyword, value)
        write_plane(plane, tmp_path / "plane.dcm")
        return tmp_path / "plane.dcm"

    return write


def test_what_it_says(pet, tmp_path):
    path = pet(SeriesDescription=" FDG brain ", PatientID="001_S_0002 ")
    assert describe(path) == SeriesHeader("PET", "FDG brain", "001_S_0002", None)
    (plane, *_) = mr_series().planes
    write_plane(plane, tmp_path / "mr.dcm")
    assert describe(tmp_path / "mr.dcm").modality == "MRI"
    assert describe(pet(Modality="CT")).modality == "CT"


@pytest.mark.parametrize(
    "elements, problem",
    [
        ({"CorrectedImage": ["DECY", "ATTN"]}, None),
        ({"CorrectedImage": None}, None),
        ({"AttenuationCorrectionMethod": "measured,AC_CT"}, None),
        ({"CorrectedImage": ["DECY", "NORM"]}, "CorrectedImage is DECY, NORM, without ATTN"),
        ({"CorrectedImage": "DECY"}, "CorrectedImage is DECY, without ATTN"),
        ({"AttenuationCorrectionMethod": "NONE"}, "AttenuationCorrectionMethod is NONE"),
        ({"AttenuationCorrected": "NO"}, "AttenuationCorrected is NO"),
        ({"AttenuationCorrectionMethod": "not done"}, "AttenuationCorrectionMethod is not done"),
        (
            {"AttenuationCorrectionMethod": "UNCORRECTED"},
            "AttenuationCorrectionMethod is UNCORRECTED",
        ),
    ],
)
def test_attenuation_correction(pet, elements, problem):
    header = describe(pet(**elements))
    said = problem and f"not corrected for attenuation ({problem})"
    assert header.correction_problem == said and header.pet_problem == said
    assert describe(pet(Modality="CT", **elements)).correction_problem is None


@pytest.mark.parametrize(
    "item, problem",
    [
        (("FDG -- fluorodeoxyglucose", "1223"), None),  # the name counts before the half-life
        (("Solution", "6586.2"), None),
        (("Solution", None, "^18^F- fluorodeoxyglucose"), None),
        (("Solution", None, "Florbetapir"), "tracer is florbetapir, not FDG"),
        (("Florbetapir", "6586.2"), "tracer is florbetapir, not FDG"),
        (("Solution", "1223"), "tracer is not FDG (half-life 1223 s, fluorine-18 has 6586 s)"),
        (("UNKNOWN", "6586.2", None, "^18^Fluorine"), None),
        (("UNKNOWN", None, None, "^11^Carbon"), "tracer is marked with ^11^Carbon, FDG with F18"),
        (("UNKNOWN", None, "Unknown", "unknown"), None),
    ],
)
def test_the_tracer(pet, item, problem):
    path = pet(RadiopharmaceuticalInformationSequence=[tracer(*item)])
    assert describe(path).tracer_problem == problem


@pytest.mark.parametrize(
    ("item", "problem", "is_named"),
    [
        (("Florbetapir", "6586.2"), None, True),
        (("Solution", None, "Amyvid"), None, True),
        (("Solution", "1223"), None, False),
        (("FDG -- fluorodeoxyglucose", "6586.2"), "tracer is FDG, not AV45", False),
        (("Florbetaben", "6586.2"), "tracer is florbetaben, not AV45", False),
    ],
)
def test_a_tracer_that_is_asked_for(pet, item, problem, is_named):
    path = pet(RadiopharmaceuticalInformationSequence=[tracer(*item)])
    header = describe(path, "AV45")
    assert (header.tracer_problem, header.names_tracer) == (problem, is_named)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "file is empty"),
        (b"words", "not a DICOM image"),
        (b"<html>", "not a DICOM image (a web page or XML)"),
        (b"MATRIX72v", "ECAT/Interfile not supported, download the 'Co-registered, Averaged'"),
        (b"PK\3\4", "an archive, unpack it first"),
        (gzip.compress(b"words", mtime=0), "an archive, unpack it first"),
        (b"\0" * 128 + b"DICM", "not a DICOM image"),
    ],
)
def test_no_image(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    assert describe(tmp_path / "file").startswith(said)


def test_no_file(tmp_path):
    assert describe(tmp_path / "none.dcm") == "no such file or directory"
    with pytest.raises(InputError, match="no such file; check the path"):
        read_header(tmp_path / "none.dcm")


def test_the_finder_and_the_reader_agree_on_what_is_dicom(pet, tmp_path):
    """Without the preamble a file counts, too."""
    content = pet().read_bytes()
    (tmp_path / "bare").write_bytes(content[132:])
    assert describe(tmp_path / "bare").modality == "PET"
    assert read_header(tmp_path / "bare").Rows == read_header(tmp_path / "plane.dcm").Rows
    for size in range(140, len(content), 97):
        (tmp_path / "cut.dcm").write_bytes(content[:size])
        try:
            header = read_header(tmp_path / "cut.dcm")
        except InputError as error:
            assert describe(tmp_path / "cut.dcm") == error.problem
        else:
            is_image = "SOPClassUID" in header and "Rows" in header
            assert isinstance(describe(tmp_path / "cut.dcm"), SeriesHeader) == is_image
