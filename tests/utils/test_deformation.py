"""Pictures of a registration: grey where two heads agree, lines where the field comes from."""

import numpy as np
import pytest

from utils.deformation import GRID_VOXELS, overlay, registration_figure, strip
from utils.planes import PLANES, plane_of

SHAPE = (20, 24, 16)


@pytest.fixture
def volumes():
    return np.random.default_rng(0).random((2, *SHAPE))


def test_equal_heads_are_grey_and_others_coloured(volumes):
    first, second = volumes
    grey = overlay(first, first)
    assert (grey == first[..., None]).all()
    coloured = overlay(first, second)
    assert (coloured[..., 0] == first).all() and (coloured[..., 1:] == second[..., None]).all()
    assert overlay(first + 1, second - 1).max() == 1 and overlay(first, second - 1).min() == 0


def test_a_strip_is_the_middle_axial_plane_of_both(volumes):
    first, second = volumes
    image = strip(overlay(first, first), overlay(first, second))
    assert image.shape == (SHAPE[1], 2 * SHAPE[0], 3)
    assert (image[:, : SHAPE[0], 0] == plane_of(first, 2, (0, 0, SHAPE[2] // 2))).all()


def test_lines_of_the_grid_are_where_voxels_come_from(volumes):
    first, second = volumes
    displacement = np.zeros((3, *SHAPE))
    displacement[0] = 1.5
    figure = registration_figure(first, second, second, displacement, title="a $ b")
    assert len(figure.axes) == 4 * len(PLANES)
    axial = figure.axes[3]
    lines = axial.collections[0].get_paths()[1].vertices  # of the second level
    # An origin of 4 is at x = 2.5, and x runs from right to left.
    assert lines[:, 0] == pytest.approx(SHAPE[0] - 1 - (GRID_VOXELS - 1.5))
