"""Lists and tables that people write: UTF-8 text, CSV."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.errors import InputError, notice
from utils.files import check_readable

_LONGEST_TEXT = 1 << 26  # bytes; a million images need half of it


def natural_key(name: str) -> tuple:
    """Sort key that puts s2 before s10, the same on every machine."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), part) if i % 2 else part for i, part in enumerate(parts))


def read_text(path: Path) -> str:
    """The text of a list: UTF-8, with or without a byte order mark.

    Raises:
        InputError: missing, not downloaded, no file, unreadable, too long, or not UTF-8 text.
    """
    check_readable(path)
    try:
        if path.stat().st_size > _LONGEST_TEXT:
            size = f"{path.stat().st_size / 2**20:.0f} MiB"
            raise InputError(
                path, f"{size} are more than any list has", "give a list in plain text"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path") from error
    except IsADirectoryError as error:
        raise InputError(path, "is a folder", "name a text file") from error
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text (at byte {error.start})"
        raise InputError(path, problem, "save it as UTF-8") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(path, f"cannot be read ({reason})", "make it readable") from error
    if "\0" in text:
        raise InputError(path, "not a text file", "give a list in plain UTF-8 text")
    return text


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """The filled lines of a table as (line number, {column: cell}), its columns checked.

    Columns are known in small letters. Cells are separated by commas, semicolons or tabs, whichever
    of these the header has first in this order. Columns that are neither required nor optional are
    not used, which a notice says.

    Raises:
        InputError: no such file, not text, empty, a required column missing, a column twice, or a
            line with more cells than columns.
    """
    rows = read_rows(path, f"write `{','.join(required)}` and one line for each pair")
    columns = [cell.lower() for cell in rows[0][1]]
    missing = [column for column in required if column not in columns]
    if missing:
        problem = f"line {rows[0][0]}: no column {' and no column '.join(missing)}"
        header = ",".join(required) + "".join(f"[,{column}]" for column in optional)
        raise InputError(path, problem, f"begin with the header {header}")
    doubled = [column for column, number in Counter(columns).items() if number > 1]
    if doubled:
        raise InputError(path, f"two columns are called {doubled[0]}", "keep one of them")
    unknown = [column for column in columns if column not in (*required, *optional)]
    if unknown:
        notice(f"{path}: column {', '.join(unknown)} is not used")
    for line, cells in rows[1:]:
        if len(cells) > len(columns):
            problem = f"line {line}: {len(cells)} cells for {len(columns)} columns"
            raise InputError(path, problem, "quote paths that hold the separator")
    return [(line, dict(zip(columns, cells, strict=False))) for line, cells in rows[1:]]


def read_rows(path: Path, remedy: str) -> list[tuple[int, list[str]]]:
    """The filled lines of a CSV as (line number, cells); at least one.

    Blanks around cells and empty cells at the end of a line are no part of it.

    Args:
        remedy: what to do when nothing is in it.

    Raises:
        InputError: no such file, not text, not a CSV, or empty.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise InputError(path, f"line {reader.line_num}: {error}", "write a plain CSV") from error
    if not rows:
        raise InputError(path, "the list is empty", remedy)
    return rows
