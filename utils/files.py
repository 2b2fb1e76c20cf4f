"""Files that can be read, files that nobody ever finds half of, and tables in them."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import InputError
from utils.locks import holding, try_lock

_LONGEST_POINTER = 32 * 1024  # bytes; git-annex takes nothing longer for one
_LFS_POINTER = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/")
# An unlocked file's pointer, or the text of a link where the disk knows no links.
_ANNEX_POINTER = re.compile(rb"[./]*(\.git/)?annex/objects/")
_ANNEX_OBJECTS = "/annex/objects/"
# What stands in a file's place while it is kept elsewhere: before and behind the name, whose it is,
# how to get the file.
_STAND_INS = (
    (".", ".icloud", "iCloud", "download it in the Finder or with `brctl download {original}`"),
    ("", ".dvc", "DVC", "get it with `dvc pull {stand_in}`"),
    ("", ".nextcloud", "Nextcloud", "make {original} available offline there"),
    ("", ".owncloud", "ownCloud", "make {original} available offline there"),
)
_DVC_CACHE = "/.dvc/cache/"
_MODULE_PATH = re.compile(r"^\s*path\s*=\s*(.*?)/?\s*$", re.MULTILINE)  # in .gitmodules

# What is being written; earlier versions named it `.<process>[-<where it runs>].<name>`.
_PART = re.compile(r"\.tmp-[0-9a-f]{16}\..+", re.DOTALL)
_EARLIER_PART = re.compile(r"\.\d+(-[0-9a-f]{8})?\..+", re.DOTALL)
_cleared: set[Path] = set()  # folders that this process has looked at


def reading_problem(path: str | os.PathLike) -> tuple[str, str] | None:
    """What is wrong with something that is there and cannot be read, and what to do.

    None for files, for folders, and where there is nothing at all, nor anything that stands for it.
    """
    path = Path(path)
    if problem := _kept_elsewhere(path):
        return problem
    if os.path.islink(path) and not os.path.exists(path):
        target = os.path.realpath(path)
        if _ANNEX_OBJECTS in target:
            return _not_downloaded("git-annex", f"datalad get {path}")
        if _DVC_CACHE in target:
            return _not_downloaded("DVC", f"dvc pull {path}.dvc")
        return f"is a link to {target}, which is not there", "restore what it links to"
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        if not _is_missing_part(path):
            return None
        problem = "not downloaded, it is the empty folder of a part of the data set"
        return problem, f"get it with `datalad get {path}` or `git submodule update --init`"
    if not stat.S_ISREG(status.st_mode):  # reading might never end, or never begin
        return "is a pipe, a socket or a device, no file", "save the data to a file first"
    is_hollow = status.st_size > 0 and status.st_blocks == 0
    if status.st_size > _LONGEST_POINTER and not is_hollow:
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(512)  # more than the zeros that a DICOM file may begin with
    except OSError:
        return None
    if is_hollow and not any(start):
        problem = "not downloaded, it has a size and no content, as a cloud's files have at first"
        return problem, "make it available offline in the cloud's program (Dropbox, OneDrive)"
    if _LFS_POINTER.match(start):
        return _not_downloaded("git-lfs", "git lfs pull")
    if _ANNEX_POINTER.match(start):
        return _not_downloaded("git-annex", f"datalad get {path}")
    return None


def _kept_elsewhere(path: Path) -> tuple[str, str] | None:
    """As `reading_problem`, of a stand-in, and of a file that is not there beside its stand-in."""
    name = _original(path.name)
    if name is None and os.path.lexists(path):
        return None
    original = path.with_name(name or path.name)
    if os.path.lexists(original):
        return None
    for before, behind, keeper, remedy in _STAND_INS:
        stand_in = original.with_name(before + original.name + behind)
        if os.path.isfile(stand_in):
            problem = f"not downloaded, there is only {stand_in.name} of {keeper}"
            return problem, remedy.format(original=original, stand_in=stand_in)
    return None


def _original(name: str) -> str | None:
    """The name that a stand-in's name is made of, `x` for `x.dvc`; None for other names."""
    for before, behind, *_ in _STAND_INS:
        inner = name.removesuffix(behind).removeprefix(before)
        if inner and name == before + inner + behind:
            return inner
    return None


def visible(names: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Of a folder's names those that are not hidden, with what stand-ins stand for in their place.

    So that what is not downloaded is found, and said to be so, under its own name.

    Args:
        names: of files, or of all that is there.
        others: further names in the folder, for which nothing has to stand.
    """
    shown = [name for name in names if not name.startswith(".") and _original(name) is None]
    originals = [_original(name) for name in names]
    stood_for = [name for name in originals if name is not None and name not in others]
    return list(dict.fromkeys(shown + stood_for))


def _is_missing_part(folder: Path) -> bool:
    """Whether a folder is empty, and the place of a data set within another one (DataLad, git)."""
    try:
        if any(folder.iterdir()):
            return False
        folder = folder.absolute()
        for parent in folder.parents:
            modules = parent / ".gitmodules"
            if modules.is_file():
                paths = _MODULE_PATH.findall(modules.read_text("utf-8", "replace"))
                return folder.relative_to(parent).as_posix() in paths
            if (parent / ".git").exists():
                return False
    except OSError:
        pass
    return False


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

    Missing folders are made. The temporary file is new and nobody else's; its name keeps the
    suffixes in small letters, which some writers go by. It is removed whatever happens, after a
    kill by the next program that writes into the folder. What is renamed is on the disk: a power
    failure leaves the old file or the new one.

    Args:
        path: the file to be written or replaced.
        remedy: what the user should do when it cannot be written.

    Raises:
        InputError: of kind "output", the system refuses (no space, no permission, a file in a
            folder's place).
    """
    path = Path(path)
    part = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        new = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with holding(os.open(part, new, 0o666)) as descriptor:
                _mark_as_written(descriptor)
                yield part
                _to_disk(part)
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        _to_disk(path.parent)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, remedy, kind="output") from error


@contextmanager
def replacing_folder(path: Path, remedy: str = "choose another place") -> Iterator[Path]:
    """As `replacing`, an empty folder beside `path` to fill; a folder that is there goes.

    Raises:
        InputError: of kind "output", the system refuses.
    """
    part = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        part.mkdir()
        with holding(os.open(part, os.O_RDONLY)) as descriptor:
            _mark_as_written(descriptor)
            yield part
            shutil.rmtree(path, ignore_errors=True)
            os.replace(part, path)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, remedy, kind="output") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def replacing_together(paths: Sequence[Path]) -> Iterator[Path]:
    """As `replacing`, an empty folder to write several files or folders into that are one result.

    They are written under their own names. The first of `paths` is the mark of a complete result:
    what stands in its place goes before any of the others is moved, and it is moved last. Whoever
    finds it has all of them, whenever a process is killed.

    Args:
        paths: in one folder; what was not written is left as it is.

    Raises:
        InputError: of kind "output", the system refuses; it names the path, not the folder between.
    """
    mark, *others = paths
    part = _beside(mark.with_name("together"))  # a folder called .nii.gz would be taken for a file
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(mark.parent)
        part.mkdir()
        with holding(os.open(part, os.O_RDONLY)) as descriptor:
            _mark_as_written(descriptor)
            yield part
            mark.unlink(missing_ok=True)
            for path in (*others, mark):
                if (part / path.name).exists():
                    if path.is_dir():
                        shutil.rmtree(path)
                    os.replace(part / path.name, path)
        _to_disk(mark.parent)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(mark, problem, "choose another place", kind="output") from error
    except InputError as error:
        source = error.source.replace(str(part), str(mark.parent))
        raise InputError(source, error.problem, error.remedy, error.kind) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_part(name: str) -> bool:
    """Whether a file or folder is what `replacing` or `replacing_folder` write to."""
    return bool(_PART.fullmatch(name) or _EARLIER_PART.fullmatch(name))


def _beside(path: Path) -> Path:
    """A temporary name that nobody else has, on whatever machine, and that fits a file system."""
    endings = "".join(path.suffixes[-2:])
    name = path.name.removesuffix(endings)[-64:] + endings.lower()[-64:]
    return path.with_name(f".tmp-{secrets.token_hex(8)}.{name}")


def _mark_as_written(descriptor: int) -> None:
    """Lock a temporary file, so that others see that its writer lives."""
    with suppress(OSError):  # no locks on this disk: then nobody removes leftovers there
        try_lock(descriptor)


def _to_disk(path: Path) -> None:
    """Have the system write out a file, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a disk without such an order
            raise
    finally:
        os.close(descriptor)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed programs were writing in a folder; looks once in each of them."""
    folder = folder.absolute()
    if folder in _cleared:
        return
    _cleared.add(folder)
    for entry in list(os.scandir(folder)):
        if not _PART.fullmatch(entry.name) or entry.is_symlink():
            continue
        is_folder = entry.is_dir()
        with suppress(OSError):  # gone meanwhile, or no locks on this disk
            mode = os.O_RDONLY if is_folder else os.O_RDWR
            with holding(os.open(entry.path, mode | os.O_NOFOLLOW | os.O_NONBLOCK)) as descriptor:
                if not try_lock(descriptor):
                    continue  # its writer lives
                if is_folder:
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def append_text(path: Path, text: str, remedy: str) -> None:
    """Add lines to the end of a file, which is made.

    Raises:
        InputError: of kind "output", the system refuses.
    """
    try:
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(path, problem, remedy, kind="output") from error


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
