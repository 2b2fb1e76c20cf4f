"""Where the planes of a DICOM image lie: positions, checks of every plane, the affine.

Only ImagePositionPatient, ImageOrientationPatient and PixelSpacing count. SliceThickness,
SpacingBetweenSlices, InstanceNumber and file names are missing or wrong too often.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preparation.read.dicom_header import DOWNLOAD_AGAIN
from preparation.read.dicom_planes import Plane
from utils.errors import InputError

LEAST_POSITIONS = 3  # with fewer no gap can be compared with another
UNIT_TOLERANCE = 0.01  # of the length of, and the cosine between, the two directions of a plane
SAME_DIRECTION = 1e-3  # largest difference of one component between planes
SAME_SPACING = 1e-3  # relative
GAP_TOLERANCE = 0.01  # part of the median gap ...
GAP_TOLERANCE_MM = 0.01  # ... and mm
MOST_TILT = 1e-3  # cosine between the step from slice to slice and the plane; more is gantry tilt

_OTHER_SERIES = "choose another series of this scan"


def stack(planes: list[Plane], where: Path) -> tuple[list[list[Plane]], np.ndarray]:
    """Sort planes into slice positions.

    Args:
        planes: of one image.
        where: the series for messages.

    Returns:
        for each position, along the normal of the planes (the cross product of the row's and the
        column's direction), the planes that lie there; and the (4, 4) float64 affine from (column,
        row, position) to RAS+ mm.

    Raises:
        InputError: a plane without position, planes that differ in orientation or spacing, unequal
            numbers of planes at the positions, uneven gaps, a plane off the line, a tilted stack,
            or fewer than 3 positions.
    """
    along_row, along_column, spacing = _shared_grid(planes)
    normal = np.cross(along_row, along_column)
    points = np.stack([_required(plane, "ImagePositionPatient", 3) for plane in planes])
    order = np.argsort(points @ normal, kind="stable")
    heights = (points @ normal)[order]
    starts = np.flatnonzero(np.r_[True, np.diff(heights) > GAP_TOLERANCE_MM])
    indices = np.split(order, starts[1:])
    places = []
    for place in indices:
        places.append([planes[index] for index in place])
    _check_counts(places, where)
    if len(places) < LEAST_POSITIONS:
        counted = "1 slice position" if len(places) == 1 else f"{len(places)} slice positions"
        raise InputError(where, f"only {counted} in {len(planes)} planes", _OTHER_SERIES)
    centres = np.stack([points[place[0]] for place in indices])
    _check_gaps(centres @ normal, places, where)
    _check_line(points, indices, planes, where)
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    _check_tilt(step, normal, where)
    affine = np.eye(4)
    columns = [along_row * spacing[1], along_column * spacing[0], step, centres[0]]
    affine[:3] = np.stack(columns, axis=1)
    # DICOM's axes run to the left and to the back.
    return places, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _required(plane: Plane, keyword: str, count: int) -> np.ndarray:
    numbers = plane.numbers(keyword, count)
    if numbers is None:
        problem = f"no slice position: not an image series ({keyword} is missing)"
        raise InputError(plane.file, problem, _OTHER_SERIES)
    return numbers


def _shared_grid(planes: list[Plane]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direction of a row and of a column (unit length), and the spacings (2,) in mm.

    The spacings are those between rows and between columns.
    """
    directions = np.stack([_required(plane, "ImageOrientationPatient", 6) for plane in planes])
    spacings = np.stack([_required(plane, "PixelSpacing", 2) for plane in planes])
    _check_right_angles(directions, planes)
    if (spacings <= 0).any():
        worst = int(spacings.min(axis=1).argmin())
        problem = f"PixelSpacing is {_sides(spacings[worst])}"
        raise InputError(planes[worst].file, problem, DOWNLOAD_AGAIN)
    apart = np.abs(directions - np.median(directions, axis=0)).max(axis=1)
    if apart.max() > SAME_DIRECTION:
        plane = planes[int(apart.argmax())]
        differ = f"directions differ by {apart.max():.3g}"
        problem = f"its plane is not parallel to the others ({differ})"
        raise InputError(plane.file, problem, "choose a series of parallel slices")
    usual = np.median(spacings, axis=0)
    apart = np.abs(spacings / usual - 1).max(axis=1)
    if apart.max() > SAME_SPACING:
        worst = int(apart.argmax())
        problem = f"PixelSpacing is {_sides(spacings[worst])} and {_sides(usual)} in the others"
        raise InputError(planes[worst].file, problem, DOWNLOAD_AGAIN)
    along_row, along_column = np.split(directions[0], 2)
    along_row = along_row / np.linalg.norm(along_row)
    along_column = along_column / np.linalg.norm(along_column)
    return along_row, along_column, spacings[0]


def _check_right_angles(directions: np.ndarray, planes: list[Plane]) -> None:
    """The two directions of every plane (planes, 6) are of length 1 and at right angles."""
    row, column = directions[:, :3], directions[:, 3:]
    lengths = np.sqrt((row**2).sum(axis=1)), np.sqrt((column**2).sum(axis=1))
    cosine = (row * column).sum(axis=1)
    faults = np.abs([lengths[0] - 1, lengths[1] - 1, cosine])  # fault, plane
    if faults.max() > UNIT_TOLERANCE:
        plane = planes[int(faults.max(axis=0).argmax())]
        shown = ", ".join(f"{number:g}" for number in plane.numbers("ImageOrientationPatient", 6))
        problem = f"its directions are not at right angles ({shown})"
        raise InputError(plane.file, problem, DOWNLOAD_AGAIN)


def _sides(pair: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in pair) + " mm"


def _check_counts(places: list[list[Plane]], where: Path) -> None:
    """Every position has the same number of planes."""
    usual = Counter(map(len, places)).most_common(1)[0][0]
    odd = [number for number, place in enumerate(places) if len(place) != usual]
    if odd:
        first = places[odd[0]]
        there = f"{len(first)} at slice {odd[0] + 1} of {len(places)}, see {first[-1].file.name}"
        problem = f"unequal numbers of planes ({there}, and {usual} at most others)"
        raise InputError(where, problem, DOWNLOAD_AGAIN)


def _check_gaps(heights: np.ndarray, places: list[list[Plane]], where: Path) -> None:
    """The slices are evenly spaced along their normal."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual)
    if off.max() <= max(GAP_TOLERANCE * usual, GAP_TOLERANCE_MM):
        return
    # The first of equals, as on both sides of a moved slice.
    worst = int(np.argmax(off > 0.99 * off.max()))
    factor = gaps[worst] / usual
    missing = factor > 1.5 and abs(factor - round(factor)) < 0.05
    why = "a slice is missing" if missing else "a slice is out of place or missing"
    after = f"{gaps[worst]:.5g} mm after slice {worst + 1} of {len(heights)}"
    before = f"before {places[worst + 1][0].file.name}"
    problem = f"uneven slice gaps ({usual:.5g} mm, {after}, {before}): {why}"
    raise InputError(where, problem, DOWNLOAD_AGAIN)


def _check_line(
    points: np.ndarray, indices: list[np.ndarray], planes: list[Plane], where: Path
) -> None:
    """Every plane lies where an even stack has it, in all three components.

    The line is made of medians, so that the plane that is named is the one at fault, also at an
    end. The step is the median over slices half a stack apart: between neighbours the rounding of
    the headers would weigh too much.
    """
    number = np.repeat(np.arange(len(indices)), [len(place) for place in indices])
    order = np.concatenate(indices)
    planes = [planes[index] for index in order]
    points = points[order]
    centres = points[:: len(indices[0])]
    half = len(centres) // 2
    step = np.median((centres[half:] - centres[:-half]) / half, axis=0)
    first = np.median(points - number[:, None] * step, axis=0)
    off = np.abs(points - first - number[:, None] * step).max(axis=1)
    if off.max() > GAP_TOLERANCE_MM + GAP_TOLERANCE * np.linalg.norm(step):
        worst = int(off.argmax())
        where_it_is = f"slice {number[worst] + 1} of {len(indices)}"
        distance = f"{off[worst]:.3g} mm off the line of the others"
        problem = f"{where_it_is} is {distance} ({planes[worst].file.name})"
        raise InputError(where, problem, DOWNLOAD_AGAIN)


def _check_tilt(step: np.ndarray, normal: np.ndarray, where: Path) -> None:
    """The stack grows along the normal of its planes."""
    along = float(step @ normal) / float(np.linalg.norm(step) * np.linalg.norm(normal))
    sideways = np.sqrt(max(0.0, 1 - along**2))
    if sideways > MOST_TILT:
        degrees = np.degrees(np.arcsin(min(1.0, sideways)))
        problem = f"the slices are sheared by {degrees:.2g} degrees (gantry tilt?)"
        raise InputError(where, problem, _OTHER_SERIES)
