"""What a file is, by its name and by its first bytes, and why some formats are not read."""

import contextlib
import re
from pathlib import Path

from data.bids import stem
from data.subjects import PUBLISHED_MRI, PUBLISHED_PET
from data.volume import first_bytes, kind_of
from preparation.descriptions import FILE_NAME
from utils.errors import InputError
from utils.files import reading_problem
from utils.optional import need

AVERAGED_SCAN = "download the 'Co-registered, Averaged' DICOM of this scan instead"
_NO_SIDES = "Analyze pairs do not say where left and right are"
# Kind of file: what is wrong with it, what to do.
NOT_READ = {
    "ecat": ("ECAT/Interfile not supported", AVERAGED_SCAN),
    "interfile": ("ECAT/Interfile not supported", AVERAGED_SCAN),
    "analyze": (_NO_SIDES, "download the DICOM of this scan or convert it to a single .nii"),
    "archive": ("an archive", "unpack it first"),
}

# What comes with images and is passed over without a word.
PAPERS = ".xml", ".txt"
# Of a file that was saved twice: `x (1).dcm`, `x.dcm (1)`.
_NUMBERED = re.compile(r" ?\(\d+\)$")
# The first elements of a DICOM file without preamble are of these groups.
_FIRST_GROUPS = b"\x02\0", b"\x08\0"

# The first ending that fits counts.
_ENDINGS = (
    ("nifti", r"\.nii(\.gz)?$"),
    ("ecat", r"\.v$"),
    ("interfile", r"\.i(\.hdr)?$"),
    ("analyze", r"\.(hdr|img)(\.gz)?$"),
    ("archive", r"\.(zip|tar|tgz|gz|bz2|xz|7z|rar)$"),
    ("xml", r"\.xml$"),
    ("dicom", r"\.(dcm|ima|dicom)$"),
    ("dicom", r"\.\d+$"),  # names made of UIDs
    ("dicom", r"^[^.]+$"),
)


def by_name(name: str) -> str:
    """The kind by the ending: "nifti", "dicom", "xml", a key of `NOT_READ`, or "" for none."""
    name = _NUMBERED.sub("", name)
    for kind, pattern in _ENDINGS:
        if re.search(pattern, name, re.IGNORECASE):
            return kind
    return ""


def ending(file: Path) -> str:
    """The suffix in small letters, `.dcm` also of `x.dcm (1)`."""
    return Path(_NUMBERED.sub("", file.name)).suffix.lower()


def by_content(file: Path) -> str:
    """The kind by what the file holds and, where that says nothing, by its name.

    As `by_name`. A file that cannot be opened is judged by its name: reading it will say why.
    """
    named = by_name(file.name)
    if reading_problem(file):
        return named
    try:
        start = first_bytes(file)
    except OSError:
        return named
    kind = kind_of(start)
    if kind == "dicom" or (not kind and _is_bare_dicom(file, start)):
        return "dicom"
    if kind in NOT_READ and named not in ("nifti", "dicom"):
        return kind
    return named


def _is_bare_dicom(file: Path, start: bytes) -> bool:
    """Whether a file without preamble begins as a DICOM file and has the class of one."""
    if not start.startswith(_FIRST_GROUPS):
        return False
    try:
        header = need("pydicom").dcmread(file, specific_tags=["SOPClassUID"], force=True)
        return "SOPClassUID" in header
    except Exception:  # pydicom raises whatever a damaged file provokes
        return False


def by_bytes(file: Path) -> str:
    """As `data.volume.kind_of`; and "empty". Raises OSError."""
    start = first_bytes(file)
    return kind_of(start) if start else "empty"


def reason(kind: str) -> str:
    """Why a kind in `NOT_READ` is not read and what to do, in one line."""
    problem, remedy = NOT_READ[kind]
    return f"{problem}, {remedy}"


def refuse_foreign(file: Path) -> None:
    """Refuse a format that holds images and is not read.

    A file that cannot be opened is judged by its name alone.

    Raises:
        InputError: its first bytes or its name are those of a kind in `NOT_READ`.
    """
    kinds = [by_name(file.name)]
    with contextlib.suppress(OSError):
        kinds.insert(0, by_bytes(file))
    for kind in kinds:
        if kind in NOT_READ:
            raise InputError(file, *NOT_READ[kind])


def modality_by_name(file: Path) -> str | None:
    """MRI or PET where an ADNI or BIDS name or the published one says so."""
    if match := FILE_NAME.fullmatch(file.name):
        return "MRI" if match["modality"].upper() == "MR" else "PET"
    if stem(file).endswith(("_T1w", PUBLISHED_MRI)):
        return "MRI"
    return "PET" if stem(file).endswith(("_pet", PUBLISHED_PET)) else None
