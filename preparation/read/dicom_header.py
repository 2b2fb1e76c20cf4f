"""One DICOM header, read to see what a series is where names do not tell, and which tracer a PET
has.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

from data.tracers import is_fdg
from preparation.descriptions import pet_problem
from preparation.find.adni_walk import ARCHIVE, ECAT
from utils.optional import need

_FLUORINE_18_S = 6586.2  # half-life
_MODALITIES = {"MR": "MRI", "PT": "PET"}


@dataclass(frozen=True)
class SeriesHeader:
    """What a header says about its series.

    Attributes:
        modality: "MRI", "PET", or DICOM's own letters for anything else.
        description, patient: as written, without blanks around them.
        tracer_problem: why a PET is not of FDG, None when nothing speaks against it.
    """

    modality: str
    description: str
    patient: str
    tracer_problem: str | None


def read_header(path: Path) -> SeriesHeader | str:
    """The header of one file, or what is wrong with the file in one line.

    Raises:
        InputError: pydicom is missing.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if problem := _other_format(start):
        return problem
    pydicom = need("pydicom")
    try:
        # force: files without the preamble exist; what is no image then lacks the two fields asked
        # for below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on single values
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if "SOPClassUID" not in header or "Rows" not in header:
            return "not a DICOM image"
        return SeriesHeader(
            _MODALITIES.get(header.get("Modality", ""), str(header.get("Modality", ""))),
            str(header.get("SeriesDescription", "")).strip(),
            str(header.get("PatientID", "")).strip(),
            _tracer_problem(header),
        )
    except Exception as error:  # pydicom raises whatever a damaged file provokes
        return f"damaged DICOM header ({type(error).__name__})"


def _other_format(start: bytes) -> str | None:
    """What a file is that is plainly no DICOM, by its first bytes."""
    if not start:
        return "file is empty"
    if start.startswith(b"MATRIX7"):
        return ECAT
    if start.startswith((b"PK\3\4", b"\x1f\x8b")):
        return ARCHIVE
    if start.lstrip()[:1] == b"<":
        return "not a DICOM image (a web page or XML)"
    return None


def _tracer_problem(header) -> str | None:
    """Another tracer by RadiopharmaceuticalInformationSequence; texts such as "Solution" say
    nothing.
    """
    items = header.get("RadiopharmaceuticalInformationSequence") or []
    for item in items:
        codes = item.get("RadiopharmaceuticalCodeSequence") or []
        texts = [
            str(item.get("Radiopharmaceutical", "")),
            *(str(code.get("CodeMeaning", "")) for code in codes),
        ]
        said = " ".join(texts).lower()
        if is_fdg(said):
            continue
        problem = pet_problem(said)
        if problem:
            return problem
        half_life = item.get("RadionuclideHalfLife")
        if half_life and abs(float(half_life) / _FLUORINE_18_S - 1) > 0.05:
            return f"tracer is not FDG (half-life {float(half_life):.0f} s, fluorine-18 has {_FLUORINE_18_S:.0f} s)"
    return None
