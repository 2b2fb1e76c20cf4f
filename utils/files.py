"""Writing files so that nobody ever finds half of one. A leaf module, like `utils.cli`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.cli import InputError


@contextmanager
def replacing(path: str | os.PathLike, remedy: str = "choose another place") -> Iterator[Path]:
    """A path beside `path` to write to, renamed into its place when the block ends without an error.

    Missing folders are made. The temporary name keeps the suffixes, which some writers go by, and is
    removed whatever happens.

    Args:
        path: the file to be written or replaced.
        remedy: what the user should do when it cannot be written.

    Raises:
        InputError: the system refuses (no space, no permission, a file in a folder's place).
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
        raise InputError(path, f"cannot be written ({error.strerror or error})", remedy) from error
