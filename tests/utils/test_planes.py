"""Planes: which voxels a picture of one shows, and where."""

import numpy as np
import pytest

from utils.planes import PLANES, plane_of


@pytest.mark.parametrize(
    ("plane", "position", "shape", "first", "last"),
    [
        ("axial", (0, 0, 2), (3, 2), (1, 2, 2), (0, 0, 2)),
        ("coronal", (0, 1, 0), (4, 2), (1, 1, 3), (0, 1, 0)),
        ("sagittal", (1, 0, 0), (4, 3), (1, 2, 3), (1, 0, 0)),
    ],
)
def test_a_plane_runs_from_the_upper_left(plane, position, shape, first, last):
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    image = plane_of(volume, PLANES[plane][0], position)
    assert image.shape == shape
    assert image[0, 0] == volume[first] and image[-1, -1] == volume[last]
