"""What a file is, by its name and by its first bytes, and why some formats are not read."""

import contextlib
import re
from pathlib import Path

from data.bids import stem
from data.subjects import PUBLISHED_MRI, PUBLISHED_PET
from data.volume import first_bytes, kind_of
from preparation.descriptions import FILE_NAME
from utils.errors import InputError

AVERAGED_SCAN = "download the 'Co-registered, Averaged' DICOM of this scan instead"
_NO_SIDES = "Analyze pairs do not say where left and right are"
# Kind of file: what is wrong with it, what to do.
NOT_READ = {
    "ecat": ("ECAT/Interfile not supported", AVERAGED_SCAN),
    "interfile": ("ECAT/Interfile not supported", AVERAGED_SCAN),
    "analyze": (_NO_SIDES, "download the DICOM of this scan or convert it to a single .nii"),
    "archive": ("an archive", "unpack it first"),
}

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
    for kind, ending in _ENDINGS:
        if re.search(ending, name, re.IGNORECASE):
            return kind
    return ""


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
