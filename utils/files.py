"""Writing files so that nobody ever finds half of one, and tables in them."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike, remedy: str = "choose another place") -> Iterator[Path]:
    """A path beside `path` to write to, renamed into its place when the block ends well.

    Missing folders are made. The temporary name keeps the suffixes, which some writers go by, and
    is removed whatever happens.

    Args:
        path: the file to be written or replaced.
        remedy: what the user should do when it cannot be written.

    Raises:
        InputError: of kind "output", the system refuses (no space, no permission, a file in a
            folder's place).
    """
    path = Path(path)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, remedy, kind="output") from error


@contextmanager
def replacing_folder(path: Path, remedy: str = "choose another place") -> Iterator[Path]:
    """As `replacing`, an empty folder beside `path` to fill; a folder that is there goes.

    Raises:
        InputError: of kind "output", the system refuses.
    """
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        part.mkdir(parents=True)
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, remedy, kind="output") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_tsv(
    path: str | os.PathLike,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, object]],
    remedy: str,
) -> None:
    """Write a header line and a line for each row.

    Tabs and line ends inside a value become blanks, characters of a file name that UTF-8 cannot
    hold become `?`.

    Args:
        rows: values by column; None and what is not there become empty cells, floats keep five
            digits.
        remedy: what the user should do when the file cannot be written.

    Raises:
        InputError: the file cannot be written.
    """
    lines = ["\t".join(columns)]
    for row in rows:
        cells = [_cell(row.get(column)) for column in columns]
        lines.append("\t".join(cells))
    text = "\n".join(lines) + "\n"
    with replacing(path, remedy) as part:
        part.write_bytes(text.encode("utf-8", errors="replace"))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return " ".join(str(value).split())
