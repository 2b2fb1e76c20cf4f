"""Files that can be read, files that nobody ever finds half of, and tables in them."""

import contextlib
import os
import platform
import re
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError

_LONGEST_POINTER = 32 * 1024  # bytes; git-annex takes nothing longer for one
_LFS_POINTER = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/")
# An unlocked file's pointer, or the text of a link where the disk knows no links.
_ANNEX_POINTER = re.compile(rb"[./]*(\.git/)?annex/objects/")
_ANNEX_OBJECTS = "/annex/objects/"

# What is being written: `.<process>-<where it runs>.<name>`; earlier versions named no place.
_PART = re.compile(r"\.(\d+)(?:-([0-9a-f]{8}))?\..+", re.DOTALL)
_swept: set[Path] = set()


def reading_problem(path: str | os.PathLike) -> tuple[str, str] | None:
    """What is wrong with something that is there and cannot be read as a file, and what to do.

    None for files, for folders, and where there is nothing at all.
    """
    if os.path.islink(path) and not os.path.exists(path):
        target = os.path.realpath(path)
        if _ANNEX_OBJECTS in target:
            return _not_downloaded("git-annex", f"datalad get {path}")
        return f"is a link to {target}, which is not there", "restore what it links to"
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):  # reading might never end, or never begin
        return "is a pipe, a socket or a device, no file", "save the data to a file first"
    if status.st_size > _LONGEST_POINTER:
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return None
    if _LFS_POINTER.match(start):
        return _not_downloaded("git-lfs", "git lfs pull")
    if _ANNEX_POINTER.match(start):
        return _not_downloaded("git-annex", f"datalad get {path}")
    return None


def _not_downloaded(keeper: str, command: str) -> tuple[str, str]:
    return f"not downloaded, it is only a pointer of {keeper}", f"get it with `{command}`"


def check_readable(path: str | os.PathLike) -> None:
    """Refuse what `reading_problem` finds fault with.

    Raises:
        InputError: one line with what to do.
    """
    problem = reading_problem(path)
    if problem:
        raise InputError(path, *problem)


@contextmanager
def replacing(path: str | os.PathLike, remedy: str = "choose another place") -> Iterator[Path]:
    """A path beside `path` to write to, renamed into its place when the block ends well.

    Missing folders are made. The temporary name keeps the suffixes in small letters, which some
    writers go by, and is removed whatever happens; what a killed process has left is removed by the
    next one that writes into the folder.

    Args:
        path: the file to be written or replaced.
        remedy: what the user should do when it cannot be written.

    Raises:
        InputError: of kind "output", the system refuses (no space, no permission, a file in a
            folder's place).
    """
    path = Path(path)
    part = _part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
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
    part = _part_of(path)
    try:
        part.mkdir(parents=True)
        _sweep(path.parent)
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, remedy, kind="output") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_part(name: str) -> bool:
    """Whether a file or folder is what `replacing` or `replacing_folder` write to."""
    return _PART.fullmatch(name) is not None


def _part_of(path: Path) -> Path:
    endings = "".join(path.suffixes[-2:])
    name = path.name.removesuffix(endings) + endings.lower()
    return path.with_name(f".{os.getpid()}-{_place()}.{name}")


def _place() -> str:
    """Where process numbers mean what they do here: this machine, or a container on it."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32((platform.node() + space).encode()):08x}"


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this place have left half-written; once for a folder."""
    if folder in _swept or os.name != "posix":
        return
    _swept.add(folder)
    for entry in list(folder.iterdir()):
        part = _PART.fullmatch(entry.name)
        if not part or part[2] != _place() or _is_alive(int(part[1])):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


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
