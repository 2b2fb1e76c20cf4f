"""Pictures of a registration: two heads laid over each other, before and after, and the bent grid.

One head is red and the other cyan: where they agree it is grey. Radiological convention, one window
[0, 1].
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.pictures import AS_WRITTEN
from utils.planes import PLANES, plane_of

COLUMNS = ("before", "after", "fixed", "field")
GRID_VOXELS = 4  # between two lines
_INCHES = 2.6


def overlay(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """(X, Y, Z) twice in [0, 1] -> (X, Y, Z, 3): moving in red, fixed in green and blue."""
    return np.clip(np.stack([moving, fixed, fixed], axis=-1), 0, 1)


def strip(before: np.ndarray, after: np.ndarray, position: int | None = None) -> np.ndarray:
    """The axial plane of two overlays in a row: (rows, columns, 3).

    Args:
        before, after: (X, Y, Z, 3).
        position: voxel along z; None for the middle.
    """
    middle = before.shape[2] // 2 if position is None else position
    planes = [_plane(volume, 2, (0, 0, middle)) for volume in (before, after)]
    return np.hstack(planes)


def registration_figure(
    moving: np.ndarray,
    fixed: np.ndarray,
    warped: np.ndarray,
    displacement: np.ndarray,
    title: str | None = None,
) -> Figure:
    """Three planes (rows) of both heads before and after, the fixed head and the bent grid.

    Args:
        moving, fixed, warped: (X, Y, Z) in RAS+ order, in [0, 1], cubic voxels.
        displacement: (3, X, Y, Z) in voxels; the lines are where voxels come from, every fourth.
        title: a line above.
    """
    position = tuple(side // 2 for side in fixed.shape)
    volumes = overlay(moving, fixed), overlay(warped, fixed)
    figure = Figure(figsize=(len(COLUMNS) * _INCHES, len(PLANES) * _INCHES), facecolor="black")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(PLANES), len(COLUMNS), gridspec_kw={"wspace": 0, "hspace": 0})
    figure.subplots_adjust(0, 0, 1, 0.92)
    for row, (axis, _) in zip(panels, PLANES.values(), strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, volume in zip(row, volumes, strict=False):
            axes.imshow(_plane(volume, axis, position))
        row[2].imshow(plane_of(fixed, axis, position), cmap="gray", vmin=0, vmax=1)
        row[3].imshow(plane_of(fixed, axis, position), cmap="gray", vmin=0, vmax=2)
        _draw_grid(row[3], displacement, axis, position)
    for axes, name in zip(panels[0], COLUMNS, strict=True):
        axes.set_title(name, color="white", fontsize=10)
    if title:
        figure.suptitle(title, color="white", fontsize=11, **AS_WRITTEN)
    return figure


def _draw_grid(axes, displacement: np.ndarray, axis: int, position: tuple[int, ...]) -> None:
    """Lines of equal origin, along both axes of a plane."""
    for along in range(3):
        if along == axis:
            continue
        shape = [1, 1, 1]
        shape[along] = -1
        places = np.arange(displacement.shape[1 + along]).reshape(shape)
        origin = plane_of(displacement[along] + places, axis, position)
        levels = np.arange(0, displacement.shape[1 + along], GRID_VOXELS)
        axes.contour(origin, levels=levels, colors="yellow", linewidths=0.6)


def _plane(volume: np.ndarray, axis: int, position: tuple[int, ...]) -> np.ndarray:
    """A plane of (X, Y, Z, 3): (rows, columns, 3)."""
    channels = [plane_of(volume[..., channel], axis, position) for channel in range(3)]
    return np.stack(channels, axis=-1)
