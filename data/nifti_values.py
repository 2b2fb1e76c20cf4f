"""The voxels of a NIfTI file whose header is known and checked; a leaf of `data.volume` and `data.nifti_header`."""

import gzip
import math
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from utils.cli import InputError

COPY_AGAIN = "copy or download it again"
_DEFLATE_LIMIT = 1032  # the most bytes that one byte of a gzip stream can stand for


def read_values(
    path: Path, stream: BinaryIO, header: nib.Nifti1Header, shape: tuple[int, ...], start: bytes = b""
) -> np.ndarray:
    """All values, read to the end of the file, where gzip compares its checksum.

    Args:
        path: the file, for its size and for messages.
        stream: the file, opened with `gzip.open` where it is compressed.
        header: what the values' type, place and scaling are taken from.
        shape: of the stored array.
        start: what was read from the stream before.

    Returns:
        float32 of `shape`, slope and intercept applied; may hold NaN and infinity.

    Raises:
        InputError: fewer values than the header promises.
        OSError, EOFError, zlib.error: from the stream.
    """
    kind, offset = header.get_data_dtype(), header.get_data_offset()
    slope, intercept = header.get_slope_inter()
    needed = offset + math.prod(shape) * kind.itemsize
    # A header that promises more than the file can hold must not reserve the memory for it.
    most = path.stat().st_size * (_DEFLATE_LIMIT if isinstance(stream, gzip.GzipFile) else 1)
    content = start + stream.read(needed - len(start)) if needed <= most else start
    if len(content) < needed:
        problem = f"cut short: {needed} bytes promised by the header are not all there"
        raise InputError(path, problem, COPY_AGAIN)
    while stream.read(1 << 20):
        pass
    values = np.frombuffer(content, kind, math.prod(shape), offset).reshape(shape, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is for the caller to count
        if slope is not None and (slope, intercept) != (1.0, 0.0):
            values = values.astype(np.float64) * slope + intercept
        return values.astype(np.float32)
