"""Locks on files, which the system takes back from a process however it ends."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from utils.errors import InputError, notice

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"  # in a folder that one program writes at a time
_held: set[int] = set()  # descriptors


def _let_go() -> None:
    """A forked process must not keep the locks of a parent that was killed."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def holding(descriptor: int) -> Iterator[int]:
    """An open file that no forked process keeps; closed at the end, and its lock with it."""
    _held.add(descriptor)
    try:
        yield descriptor
    finally:
        if descriptor in _held:  # not in a forked process, which has closed it
            _held.discard(descriptor)
            os.close(descriptor)


def try_lock(descriptor: int, exclusive: bool = True) -> bool:
    """Lock an open file if nobody else has it.

    Raises:
        OSError: this disk knows no locks.
    """
    if fcntl is None:
        raise OSError("no locks on this system")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, exclusive: bool = True, patience_s: float = 0) -> Iterator[bool | None]:
    """Hold a lock on a file, which is made; None when others keep it for `patience_s`.

    False, after a notice, where the disk knows no locks.

    Raises:
        InputError: the file cannot be opened.
    """
    until = time.monotonic() + patience_s
    while True:
        with holding(_open(path)) as descriptor:
            held = _take(path, descriptor, exclusive, until)
            if held and not _is_still(path, descriptor):
                continue  # who had it before has removed the file
            yield held
            return


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        problem = f"cannot be opened ({error.strerror or error})"
        raise InputError(path, problem, "make it writable or choose another folder") from error


def _take(path: Path, descriptor: int, exclusive: bool, until: float) -> bool | None:
    try:
        while not try_lock(descriptor, exclusive):
            if time.monotonic() >= until:
                return None
            time.sleep(0.1)
    except OSError as error:
        why = error.strerror or error
        notice(f"{path}: no locks on this disk ({why}); start no second run in this folder")
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a name still means an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def alone_in(folder: Path, remedy: str) -> Iterator[None]:
    """Be the only program that writes a folder, which is made; an empty one goes again.

    Args:
        remedy: what the user should do when another one is at work there.

    Raises:
        InputError: one is, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "is a file", "give a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with locked(folder / LOCK) as held:
        if held is None:
            raise InputError(folder, "another program is at work in this folder", remedy)
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
