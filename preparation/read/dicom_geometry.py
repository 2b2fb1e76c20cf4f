"""Where the planes of a DICOM image lie: sort them into positions, check every one, make the
affine.

Only ImagePositionPatient, ImageOrientationPatient and PixelSpacing count. SliceThickness,
SpacingBetweenSlices, InstanceNumber and file names are missing or wrong too often.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preparation.read.dicom_planes import DOWNLOAD_AGAIN, Plane
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
    places = [[planes[index] for index in place] for place in indices]
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
    affine[:3] = np.stack(
        [along_row * spacing[1], along_column * spacing[0], step, centres[0]], axis=1
    )
    return places, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _required(plane: Plane, keyword: str, count: int) -> np.ndarray:
    numbers = plane.numbers(keyword, count)
    if numbers is None:
        problem = f"no slice position: not an image series ({keyword} is missing)"
        raise InputError(plane.file, problem, _OTHER_SERIES)
    return numbers


def _shared_grid(planes: list[Plane]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Direction of a row and of a column (unit length), and the distance between rows and between
    columns in mm.
    """
    directions = np.stack([_required(plane, "ImageOrientationPatient", 6) for plane in planes])
    spacings = np.stack([_required(plane, "PixelSpacing", 2) for plane in planes])
    row, column = directions[:, :3], directions[:, 3:]
    faults = np.abs(
        [
            (row**2).sum(axis=1) ** 0.5 - 1,
            (column**2).sum(axis=1) ** 0.5 - 1,
            (row * column).sum(axis=1),
        ]
    )
    if faults.max() > UNIT_TOLERANCE:
        plane = planes[int(faults.max(axis=0).argmax())]
        shown = ", ".join(f"{number:g}" for number in plane.numbers("ImageOrientationPatient", 6))
        raise InputError(
            plane.file, f"its directions are not at right angles ({shown})", DOWNLOAD_AGAIN
        )
    if (spacings <= 0).any():
        worst = int(spacings.min(axis=1).argmin())
        raise InputError(
            planes[worst].file, f"PixelSpacing is {_sides(spacings[worst])}", DOWNLOAD_AGAIN
        )
    usual = np.median(directions, axis=0)
    apart = np.abs(directions - usual).max(axis=1)
    if apart.max() > SAME_DIRECTION:
        plane = planes[int(apart.argmax())]
        problem = (
            f"its plane is not parallel to the others (directions differ by {apart.max():.3g})"
        )
        raise InputError(plane.file, problem, "choose a series of parallel slices")
    usual_spacing = np.median(spacings, axis=0)
    apart = np.abs(spacings / usual_spacing - 1).max(axis=1)
    if apart.max() > SAME_SPACING:
        worst = int(apart.argmax())
        problem = (
            f"PixelSpacing is {_sides(spacings[worst])} and {_sides(usual_spacing)} in the others"
        )
        raise InputError(planes[worst].file, problem, DOWNLOAD_AGAIN)
    return (
        *(direction / np.linalg.norm(direction) for direction in np.split(directions[0], 2)),
        spacings[0],
    )


def _sides(pair: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in pair) + " mm"


def _check_counts(places: list[list[Plane]], where: Path) -> None:
    """Every position has the same number of planes."""
    usual = Counter(map(len, places)).most_common(1)[0][0]
    odd = [number for number, place in enumerate(places) if len(place) != usual]
    if odd:
        plane = places[odd[0]][-1]
        problem = (
            f"unequal numbers of planes ({len(places[odd[0]])} at slice {odd[0] + 1} of {len(places)}, "
            f"see {plane.file.name}, and {usual} at most others)"
        )
        raise InputError(where, problem, DOWNLOAD_AGAIN)


def _check_gaps(heights: np.ndarray, places: list[list[Plane]], where: Path) -> None:
    """The slices are evenly spaced along their normal."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual)
    if off.max() <= max(GAP_TOLERANCE * usual, GAP_TOLERANCE_MM):
        return
    worst = int(
        np.argmax(off > 0.99 * off.max())
    )  # the first of equals, as on both sides of a moved slice
    factor = gaps[worst] / usual
    missing = factor > 1.5 and abs(factor - round(factor)) < 0.05
    why = "a slice is missing" if missing else "a slice is out of place or missing"
    problem = (
        f"uneven slice gaps ({usual:.5g} mm, {gaps[worst]:.5g} mm after slice {worst + 1} of {len(heights)}, "
        f"before {places[worst + 1][0].file.name}): {why}"
    )
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
    planes = [planes[index] for place in indices for index in place]
    points = points[np.concatenate(indices)]
    centres = points[:: len(indices[0])]
    half = len(centres) // 2
    step = np.median((centres[half:] - centres[:-half]) / half, axis=0)
    first = np.median(points - number[:, None] * step, axis=0)
    off = np.abs(points - first - number[:, None] * step).max(axis=1)
    if off.max() > GAP_TOLERANCE_MM + GAP_TOLERANCE * np.linalg.norm(step):
        worst = int(off.argmax())
        problem = (
            f"slice {number[worst] + 1} of {len(indices)} is {off[worst]:.3g} mm off the line of the others "
            f"({planes[worst].file.name})"
        )
        raise InputError(where, problem, DOWNLOAD_AGAIN)


def _check_tilt(step: np.ndarray, normal: np.ndarray, where: Path) -> None:
    """The stack grows along the normal of its planes."""
    along = float(step @ normal) / float(np.linalg.norm(step) * np.linalg.norm(normal))
    sideways = np.sqrt(max(0.0, 1 - along**2))
    if sideways > MOST_TILT:
        degrees = np.degrees(np.arcsin(min(1.0, sideways)))
        raise InputError(
            where, f"the slices are sheared by {degrees:.2g} degrees (gantry tilt?)", _OTHER_SERIES
        )
