"""Displacement fields in world millimetres: as files that ANTs applies, and images through them.

A field u brings a moving image onto a fixed one: result(p) = moving(p + u(p)) at the point p, u
trilinear between its own voxels and 0 outside. In memory vectors are RAS+ like everything here; a
file has them in LPS, as ITK keeps them: NIfTI-1, (X, Y, Z, 1, 3) float32, intent 1007 (vector).
"""

import gzip
import os
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from data.grids import Image, carry, sides, smoothed
from utils.errors import InputError

INTENT = 1007  # NIFTI_INTENT_VECTOR, which ITK takes as it is
MNI = 4  # NIfTI code of the space
_LPS = np.array([-1.0, -1.0, 1.0], np.float32)
_REMEDY = "give a displacement field as `python -m inference.register` writes it"


class Displacement(NamedTuple):
    """A field.

    Attributes:
        vectors: (X, Y, Z, 3) float32, RAS+ mm.
        affine: (4, 4) voxel index -> world mm.
    """

    vectors: np.ndarray
    affine: np.ndarray


def displacement_bytes(field: Displacement) -> bytes:
    """The field as a gzipped NIfTI file; equal fields give equal bytes."""
    image = nib.Nifti1Image((field.vectors * _LPS)[:, :, :, None].astype(np.float32), field.affine)
    image.header.set_intent(INTENT)
    image.header.set_xyzt_units("mm")
    image.set_sform(field.affine, MNI)
    image.set_qform(field.affine, MNI)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def read_displacement(path: str | os.PathLike) -> Displacement:
    """Read such a file.

    Raises:
        InputError: it cannot be read, or is no field.
    """
    try:
        image = nib.load(Path(path))
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(path, f"cannot be read ({error})", _REMEDY) from error
    if values.ndim != 5 or values.shape[3:] != (1, 3) or min(values.shape[:3]) < 2:
        raise InputError(path, f"has the shape {values.shape}, no field's", _REMEDY)
    if not np.isfinite(values).all():
        raise InputError(path, "holds NaN or infinity", _REMEDY)
    return Displacement(values[:, :, :, 0] * _LPS, image.affine)


def sample_through(
    moving: Image,
    shape: tuple[int, ...],
    affine: np.ndarray,
    field: Displacement,
    transform: np.ndarray | None = None,
    order: int = 1,
) -> np.ndarray:
    """The values of `moving` on another grid, through a field and a matrix, in one interpolation.

    As `data.grids.sample`, with the field in between: the grid's point p takes the value of the
    moving image at transform^-1 (p + u(p)). 0 outside the moving image.

    Args:
        shape, affine: of the grid to sample on.
        field: in the world of the grid.
        transform: world of `moving` -> world of the grid, before the field; None: they are one.
        order: of the spline; 1 is trilinear, 0 takes the nearest voxel.

    Returns:
        float32 array of `shape`.
    """
    world = moving.affine if transform is None else transform @ moving.affine
    to_moving = np.linalg.inv(world)
    values = smoothed(moving, world, affine)
    result = np.empty(shape, np.float32)
    rows, columns = np.meshgrid(*map(np.arange, shape[1:]), indexing="ij")
    for slab in range(shape[0]):  # all points at once would take a gigabyte at 1 mm
        indices = np.stack([np.full(rows.shape, slab), rows, columns], axis=-1).reshape(-1, 3)
        points = carry(affine, indices)
        places = carry(to_moving, points + vectors_at(field, points))
        found = ndimage.map_coordinates(
            values, places.T, order=order, mode="grid-constant", cval=0.0
        )
        result[slab] = found.reshape(shape[1:])
    return result


def vectors_at(field: Displacement, points: np.ndarray) -> np.ndarray:
    """(N, 3) world mm -> (N, 3) the field there, 0 outside it."""
    places = carry(np.linalg.inv(field.affine), points).T
    inside = np.ones(len(points), bool)
    for place, side in zip(places, field.vectors.shape, strict=False):
        inside &= (place >= -1e-6) & (place <= side - 1 + 1e-6)
    found = np.zeros_like(points)
    for axis in range(3):
        component = field.vectors[..., axis]
        found[inside, axis] = ndimage.map_coordinates(
            component, places[:, inside], order=1, mode="nearest"
        )
    return found


def determinants(field: Displacement) -> np.ndarray:
    """(X, Y, Z) det of the Jacobian of p + u(p): 1 for a shift, 0 or less in a fold.

    The axes of the field's grid must be those of the world.
    """
    steps = sides(field.affine) * np.sign(np.diag(field.affine)[:3])
    jacobian = np.empty((*field.vectors.shape[:3], 3, 3))
    for axis in range(3):
        slopes = np.gradient(field.vectors, steps[axis], axis=axis)  # X, Y, Z, 3
        jacobian[..., axis, :] = slopes
        jacobian[..., axis, axis] += 1
    return np.linalg.det(jacobian)
