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

# column: its names in the classic and in the new download pages, without blanks and in small
# letters
_COLUMNS = {
    "image": ("imagedataid", "imageid", "imageuid"),
    "subject": ("subject", "subjectid", "ptid"),
    "modality": ("modality",),
    "description": ("description", "seriesdescription"),
    "date": ("acqdate", "studydate", "acquisitiondate", "scandate", "date"),
}
_EXPECTED = "give ADNI's collection CSV or idaSearch CSV (columns image id, subject, modality, description, date)"


@dataclass(frozen=True)
class Row:
    """What a table says about one image; empty or None where it says nothing."""

    subject: str = ""
    modality: str = ""
    description: str = ""
    date: datetime.date | None = None
    matrix_z: int | None = None


def read_tables(paths: Iterable[Path]) -> dict[str, Row]:
    """Rows by image id (`I123`) from CSV and XML files, or folders of them; later files fill what
    earlier ones lack.

    Raises:
        InputError: no such file, not a table of ADNI, or a damaged XML.
    """
    rows: dict[str, Row] = {}
    for path in (file for given in paths for file in _files(Path(given))):
        found = [read_xml(path)] if path.suffix.lower() == ".xml" else _read_csv(path)
        for image, row in found:
            rows[image] = merged(rows[image], row) if image in rows else row
    return rows


def merged(first: Row, second: Row) -> Row:
    """`first`, with what it lacks taken from `second`."""
    lacking = {
        name: value for name, value in vars(second).items() if getattr(first, name) in ("", None)
    }
    return replace(first, **lacking)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in (".csv", ".xml"))
    if not found:
        raise InputError(path, "no CSV or XML in this folder", _EXPECTED)
    return found


def _read_csv(path: Path) -> list[tuple[str, Row]]:
    (line, header), *rows = read_rows(path, _EXPECTED)
    names = [re.sub("[^a-z]", "", cell.lower()) for cell in header]
    at = {
        field: next((names.index(name) for name in known if name in names), None)
        for field, known in _COLUMNS.items()
    }
    if at["image"] is None:
        raise InputError(path, f"line {line}: no column with image ids", _EXPECTED)
    found = []
    for line, cells in rows:
        cell = {
            field: cells[i] if i is not None and i < len(cells) else "" for field, i in at.items()
        }
        image = image_id(cell["image"])
        if image is None:
            raise InputError(
                path, f"line {line}: {cell['image']!r} is no image id", "ids are I123456 or 123456"
            )
        row = Row(
            cell["subject"].upper(), cell["modality"], cell["description"], _read_date(cell["date"])
        )
        found.append((image, row))
    return found


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
        raise InputError(
            path, f"cannot be read ({error.strerror or error})", "check the path"
        ) from error
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
        raise InputError(
            path, "no image id in its name or text", "keep the name it was downloaded with"
        )
    description = texts.get("processedDataLabel") or texts.get("description", "")
    subject, day = (
        texts.get("subjectIdentifier", "").upper(),
        _read_date(texts.get("dateAcquired", "")),
    )
    return image, Row(subject, texts.get("modality", ""), description, day, matrix_z)


def _whole(text: str) -> int | None:
    """`170` and `170.0` as a number, None for anything else."""
    found = re.fullmatch(r"(\d+)(?:\.0*)?", text)
    return int(found[1]) or None if found else None


def image_id(text: str) -> str | None:
    """`I123` for `I123` and `123`, None for anything else."""
    found = re.fullmatch(r"[Ii]?0*(\d{1,12})", text.strip().strip("\"'"))
    return f"I{found[1]}" if found else None


def read_image_ids(path: Path) -> tuple[str, ...]:
    """The image ids of a list, each once: one row, one column (with or without a header), or a
    table of ADNI.

    Raises:
        InputError: no such file, not text, empty, or a cell that is no image id.
    """
    (line, first), *others = rows = read_rows(path, "write image ids such as I123456")
    if not any(image_id(cell) for cell in first if cell):
        if not others:
            raise InputError(
                path, f"line {line}: {first[0]!r} is no image id", "ids are I123456 or 123456"
            )
        return tuple(dict.fromkeys(image for image, _ in _read_csv(path)))
    return tuple(dict.fromkeys(_listed_ids(path, rows)))


def _listed_ids(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Iterable[str]:
    for line, cells in rows:
        for cell in filter(None, cells):
            image = image_id(cell)
            if image is None:
                raise InputError(
                    path, f"line {line}: {cell!r} is no image id", "ids are I123456 or 123456"
                )
            yield image
