"""One DICOM header: read in one way, and what it says about its series where names do not tell."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.bids import says_uncorrected
from data.tracers import FDG_NAME, is_fdg, is_tracer, radionuclide_problem
from data.volume import KINDS
from preparation.descriptions import pet_problem
from preparation.formats import NOT_READ, by_bytes, reason
from utils.errors import InputError
from utils.files import check_readable, reading_problem
from utils.optional import need

if TYPE_CHECKING:
    from pydicom import Dataset

DOWNLOAD_AGAIN = "download the series again"
_DAMAGED = "the DICOM header is damaged or cut short"
_MODALITIES = {"MR": "MRI", "PT": "PET"}


def read_header(file: Path) -> "Dataset | None":
    """The data set without pixel data, None when the file is no DICOM.

    A file without a preamble counts when it has an SOP class.

    Raises:
        InputError: missing, unreadable, or marked as DICOM and damaged; or pydicom is missing.
    """
    pydicom = need("pydicom")
    check_readable(file)
    marked = False
    try:
        with open(file, "rb") as stream:
            start = stream.read(132)
        marked = start[128:] == b"DICM"
        # Without a preamble the first element is of group 2 or 8; asking first keeps pydicom off
        # JPEGs and the like.
        if not marked and start[:2] not in (b"\x02\0", b"\x08\0"):
            return None
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        return header if marked or header.get("SOPClassUID") else None
    except FileNotFoundError as error:
        raise InputError(file, "no such file", "check the path") from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or 'cut short'})"
        raise InputError(file, problem, DOWNLOAD_AGAIN) from error
    except Exception as error:  # whatever a damaged file provokes
        if marked:
            raise InputError(file, _DAMAGED, DOWNLOAD_AGAIN) from error
        return None


def holds_image(header: "Dataset") -> bool:
    """Whether a DICOM file holds an image.

    Raw data, spectra and the like have Rows, too; for a private class the pixels' format decides.
    """
    if "Rows" not in header:
        return False
    name = class_name(header)
    return not name or "Image Storage" in name or (name[0].isdigit() and "BitsAllocated" in header)


def class_name(header: "Dataset") -> str:
    """What kind of object a file says that it holds, "" when it does not, digits when private."""
    try:
        uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
        return getattr(uid, "name", str(uid))
    except Exception:  # whatever a damaged file provokes
        return ""


@dataclass(frozen=True)
class SeriesHeader:
    """What a header says about its series.

    Attributes:
        modality: "MRI", "PET", or DICOM's own letters for anything else.
        description, patient: as written, without blanks around them.
        tracer_problem: why a PET is not of the wanted tracer, None when nothing speaks against it.
        correction_problem: why a PET is not corrected for attenuation, None as above.
        names_tracer: whether a PET's header names the wanted tracer.
    """

    modality: str
    description: str
    patient: str
    tracer_problem: str | None
    correction_problem: str | None = None
    names_tracer: bool = False

    @property
    def pet_problem(self) -> str | None:
        """Why it is no PET to take."""
        return self.tracer_problem or self.correction_problem


def describe(file: Path, wanted: str = FDG_NAME) -> SeriesHeader | str:
    """What one file says about its series, or what is wrong with the file in one line.

    Args:
        file: of the series.
        wanted: the tracer that a PET should have.

    Raises:
        InputError: pydicom is missing.
    """
    if problem := reading_problem(file):
        return ", ".join(problem)
    try:
        kind = by_bytes(file)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if kind == "empty":
        return "file is empty"
    if kind == "gzip":
        kind = "archive"  # no DICOM is compressed as a whole
    if kind in NOT_READ:
        return reason(kind)
    need("pydicom")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on single values
            header = read_header(file)
            if header is None or "SOPClassUID" not in header or not holds_image(header):
                what = f" ({KINDS[kind]})" if kind == "page" else ""
                return f"not a DICOM image{what}"
            return _series_header(header, wanted)
    except InputError as error:
        return error.problem
    except Exception:  # pydicom converts values late and raises whatever a damaged one provokes
        return _DAMAGED


def describe_series(files: Iterable[Path], wanted: str = FDG_NAME) -> SeriesHeader | str:
    """The first header that can be read, else what is wrong with the first file.

    Where corrected and uncorrected planes lie together, it is one of the corrected ones.

    Args:
        files: of the series.
        wanted: the tracer that a PET should have.

    Raises:
        InputError: pydicom is missing.
    """
    problem, uncorrected = "", None
    for file in files:
        header = describe(file, wanted)
        if isinstance(header, str):
            problem = problem or f"{file.name}: {header}"
        elif header.correction_problem is None:
            return header
        else:
            uncorrected = uncorrected or header
    return uncorrected or problem


def _series_header(header: "Dataset", wanted: str) -> SeriesHeader:
    problem, is_named = _tracer_said(header, wanted)
    modality = str(header.get("Modality", ""))
    return SeriesHeader(
        modality=_MODALITIES.get(modality, modality),
        description=str(header.get("SeriesDescription", "")).strip(),
        patient=str(header.get("PatientID", "")).strip(),
        tracer_problem=problem,
        correction_problem=correction_problem(header),
        names_tracer=is_named,
    )


def _tracer_said(header: "Dataset", wanted: str) -> tuple[str | None, bool]:
    """Another tracer by RadiopharmaceuticalInformationSequence, and whether it names the wanted.

    Texts such as "Solution" or "unknown" say nothing; then the radionuclide decides about FDG.
    """
    is_named = False
    for item in header.get("RadiopharmaceuticalInformationSequence") or []:
        said = _tracer_texts(item).lower()
        if is_tracer(said, wanted):
            is_named = True
            continue
        problem = pet_problem(said, wanted)
        if problem:
            return problem, False
        marked = " ".join(_meanings(item, "RadionuclideCodeSequence"))
        problem = radionuclide_problem(marked, item.get("RadionuclideHalfLife"))
        if is_fdg(wanted) and problem:
            return problem, False
    return None, is_named


def correction_problem(header: "Dataset") -> str | None:
    """Why a PET is not corrected for attenuation; None for others and where nothing says so.

    By CorrectedImage and AttenuationCorrectionMethod (DICOM PS3.3, C.8.9.1) or, in an enhanced
    file, AttenuationCorrected (C.8.22.1).
    """
    if header.get("Modality") != "PT":
        return None
    said = ""
    value = header.get("CorrectedImage") or []
    corrections = [value] if isinstance(value, str) else [str(entry) for entry in value]
    if corrections and not any("ATTN" in entry.upper() for entry in corrections):
        said = f"CorrectedImage is {', '.join(corrections)}, without ATTN"
    for keyword in ("AttenuationCorrectionMethod", "AttenuationCorrected"):
        value = str(header.get(keyword) or "").strip()
        if says_uncorrected(value):
            said = said or f"{keyword} is {value}"
    return f"not corrected for attenuation ({said})" if said else None


def _tracer_texts(item: "Dataset") -> str:
    """The name of a radiopharmaceutical and the meanings of its codes."""
    texts = [str(item.get("Radiopharmaceutical", ""))]
    return " ".join(texts + _meanings(item, "RadiopharmaceuticalCodeSequence"))


def _meanings(item: "Dataset", sequence: str) -> list[str]:
    return [str(code.get("CodeMeaning", "")) for code in item.get(sequence) or []]
