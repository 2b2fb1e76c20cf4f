"""Zip archives from strangers (`.pt`, `.pth`, `.npz`), looked at before anything is unpacked."""

import os
import zipfile
from pathlib import Path

from utils.errors import InputError
from utils.files import check_readable

# What torch and NumPy write is not compressed or hardly so; a bomb is, a thousandfold.
MOST_EXPANSION = 20
UNSUSPECTED_BYTES = 1 << 28  # so little memory harms nobody
_REMEDY = "copy or download it again"


def check_archive(path: str | os.PathLike) -> None:
    """Refuse an archive that claims to unpack to far more than it is, or whose bytes have changed.

    The sizes are those that its directory states; no reader unpacks more. Then all of it is read
    once to compare the checksums. A file that is no zip archive passes.

    Raises:
        InputError: it is one of these, or nothing that can be read.
    """
    path = Path(path)
    check_readable(path)
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            stated = sum(member.file_size for member in archive.infolist())
            most = max(UNSUSPECTED_BYTES, MOST_EXPANSION * path.stat().st_size)
            damaged = archive.testzip() if stated <= most else None
    except Exception as error:  # zipfile raises a dozen kinds for what is wrong with a file
        raise InputError(path, "truncated or damaged", _REMEDY) from error
    if stated > most:
        problem = f"{path.stat().st_size} bytes claim to unpack to {stated}"
        raise InputError(path, problem, "do not trust it; save it without compression")
    if damaged is not None:
        problem = (
            f"its bytes have changed: {damaged} does not have the checksum it was written with"
        )
        raise InputError(path, problem, _REMEDY)
