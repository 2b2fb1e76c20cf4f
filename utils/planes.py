"""The planes of a volume as a radiological display shows them; for workers without matplotlib."""

from collections.abc import Sequence

import numpy as np

# plane -> (axis it is cut along, letters at the image's left, right, top, bottom)
PLANES = {"axial": (2, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (0, "APSI")}


def plane_of(volume: np.ndarray, axis: int, position: Sequence[int]) -> np.ndarray:
    """The plane of an (X, Y, Z) RAS+ volume across `axis` at the voxel `position` (i, j, k).

    Returns:
        (rows, columns), the first row at the top.
    """
    # What is left is (x, y), (x, z) or (y, z): all of them grow towards the left or the top.
    return np.take(volume, position[axis], axis=axis)[::-1, ::-1].T
