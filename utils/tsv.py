"""Tables for people and programs: tab separated, UTF-8, one line a row. A leaf module, like `utils.files`."""

import os
from collections.abc import Iterable, Mapping, Sequence

from utils.files import replacing


def write_tsv(
    path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, object]], remedy: str
) -> None:
    """Write a header line and a line for each row.

    Tabs and line ends inside a value become blanks, characters of a file name that UTF-8 cannot hold become `?`.

    Args:
        rows: values by column; None and what is not there become empty cells, floats keep five digits.
        remedy: what the user should do when the file cannot be written.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    text = "".join("\t".join(line) + "\n" for line in lines)
    with replacing(path, remedy) as part:
        part.write_bytes(text.encode("utf-8", errors="replace"))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return " ".join(str(value).split())
