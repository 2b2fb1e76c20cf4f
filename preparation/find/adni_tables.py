"""ADNI's tables: the CSVs of both download pages, the XML of an image, and lists of image ids."""

import datetime
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preparation.descriptions import XML_NAME, plausible_date
from utils.errors import InputError
from utils.text import read_rows

# Each column's names in the classic and in the new download pages, small letters alone.
_COLUMNS = {
    "image": ("imagedataid", "imageid", "imageuid"),
    "subject": ("subject", "subjectid", "ptid"),
    "modality": ("modality",),
    "description": ("description", "seriesdescription"),
    "date": ("acqdate", "studydate", "acquisitiondate", "scandate", "date"),
}
_EXPECTED = (
    "give ADNI's collection CSV or idaSearch CSV (columns image id, subject, modality, "
    "description, date)"
)
_IDS = "ids are I123456 or 123456"


@dataclass(frozen=True)
class Row:
    """What a table says about one image; empty or None where it says nothing."""

    subject: str = ""
    modality: str = ""
    description: str = ""
    date: datetime.date | None = None
    matrix_z: int | None = None


def read_tables(paths: Iterable[Path]) -> dict[str, Row]:
    """Rows by image id (`I123`) from CSV and XML files, or folders of them.

    Later files fill what earlier ones lack.

    Raises:
        InputError: no such file, not a table of ADNI, or a damaged XML.
    """
    rows: dict[str, Row] = {}
    files: list[Path] = []
    for path in paths:
        files += _files(Path(path))
    for file in files:
        found = [read_xml(file)] if file.suffix.lower() == ".xml" else _read_csv(file)
        for image, row in found:
            rows[image] = merged(rows[image], row) if image in rows else row
    return rows


def merged(first: Row, second: Row) -> Row:
    """`first`, with what it lacks taken from `second`."""
    lacking = [name for name, value in vars(first).items() if value in ("", None)]
    return replace(first, **{name: getattr(second, name) for name in lacking})


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in (".csv", ".xml"))
    if not found:
        raise InputError(path, "no CSV or XML in this folder", _EXPECTED)
    return found


def _read_csv(path: Path) -> list[tuple[str, Row]]:
    """(image id, row) of each line below the header."""
    (line, header), *rows = read_rows(path, _EXPECTED)
    at = _column_places(header)
    if "image" not in at:
        raise InputError(path, f"line {line}: no column with image ids", _EXPECTED)
    found = []
    for line, cells in rows:
        cell = dict.fromkeys(_COLUMNS, "")
        for column, place in at.items():
            if place < len(cells):
                cell[column] = cells[place]
        image = _checked_id(path, line, cell["image"])
        subject, date = cell["subject"].upper(), _read_date(cell["date"])
        found.append((image, Row(subject, cell["modality"], cell["description"], date)))
    return found


def _column_places(header: Sequence[str]) -> dict[str, int]:
    """Where the known columns are."""
    names = [re.sub("[^a-z]", "", cell.lower()) for cell in header]
    places = {}
    for column, known in _COLUMNS.items():
        present = [name for name in known if name in names]
        if present:
            places[column] = names.index(present[0])
    return places


def _read_date(text: str) -> datetime.date | None:
    """M/D/YYYY or YYYY-MM-DD; None for an empty or absurd one."""
    if found := re.match(r"(\d{1,2})/(\d{1,2})/(\d{4})", text):
        return plausible_date(int(found[3]), int(found[1]), int(found[2]))
    if found := re.match(r"(\d{4})-(\d{1,2})-(\d{1,2})", text):
        return plausible_date(*map(int, found.groups()))
    return None


def read_xml(path: Path) -> tuple[str, Row]:
    """(image id, row) of the XML that comes with one image.

    Raises:
        InputError: unreadable, damaged, or without an image id.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InputError(path, f"damaged XML ({error})", "download it again") from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputError(path, problem, "check the path") from error
    texts: dict[str, str] = {}
    matrix_z = None
    for element in root.iter():
        tag, text = element.tag.rsplit("}", 1)[-1], (element.text or "").strip()
        texts.setdefault(tag, text)
        if tag == "protocol" and element.get("term", "").lower() == "matrix z":
            matrix_z = matrix_z or _whole(text)
    in_name = XML_NAME.fullmatch(path.name)
    image = image_id(in_name["image"] if in_name else texts.get("imageUID", ""))
    if image is None:
        problem = "no image id in its name or text"
        raise InputError(path, problem, "keep the name it was downloaded with")
    description = texts.get("processedDataLabel") or texts.get("description", "")
    subject = texts.get("subjectIdentifier", "").upper()
    date = _read_date(texts.get("dateAcquired", ""))
    return image, Row(subject, texts.get("modality", ""), description, date, matrix_z)


def _whole(text: str) -> int | None:
    """`170` and `170.0` as a number, None for anything else."""
    found = re.fullmatch(r"(\d+)(?:\.0*)?", text)
    return int(found[1]) or None if found else None


def image_id(text: str) -> str | None:
    """`I123` for `I123` and `123`, None for anything else."""
    found = re.fullmatch(r"[Ii]?0*(\d{1,12})", text.strip().strip("\"'"))
    return f"I{found[1]}" if found else None


def _checked_id(path: Path, line: int, cell: str) -> str:
    image = image_id(cell)
    if image is None:
        raise InputError(path, f"line {line}: {cell!r} is no image id", _IDS)
    return image


def read_image_ids(path: Path) -> tuple[str, ...]:
    """The image ids of a list, each once, in its order.

    The list is one row, one column (with or without a header), or a table of ADNI.

    Raises:
        InputError: no such file, not text, empty, or a cell that is no image id.
    """
    (line, first), *others = rows = read_rows(path, "write image ids such as I123456")
    has_header = not any(image_id(cell) for cell in first if cell)
    if has_header and not others:
        raise InputError(path, f"line {line}: {first[0]!r} is no image id", _IDS)
    if has_header:
        found = [image for image, _ in _read_csv(path)]
    else:
        found = []
        for line, cells in rows:
            found += [_checked_id(path, line, cell) for cell in cells if cell]
    return tuple(dict.fromkeys(found))
