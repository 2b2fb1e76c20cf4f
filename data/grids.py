"""Arrays with the grid they lie on, and sampling them somewhere else through world transforms.

Every transform is a (4, 4) matrix from RAS+ millimetres to RAS+ millimetres.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

# From this many moving voxels in a voxel of the grid, sampling asks for smoothing first.
SMOOTH_ABOVE = 1.5
_FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in standard deviations


class Image(NamedTuple):
    """An array and its grid.

    Attributes:
        array: (X, Y, Z) float32, or bool for a mask.
        affine: (4, 4) voxel index -> world mm.
    """

    array: np.ndarray
    affine: np.ndarray


def sides(affine: np.ndarray) -> np.ndarray:
    """(3,) voxel sides in mm: the lengths of the columns of a (4, 4) affine."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def carry(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) points -> the points under a (4, 4) matrix."""
    return points @ transform[:3, :3].T + transform[:3, 3]


def centre_of_mass(image: Image) -> np.ndarray:
    """(3,) world mm; of a mask the centre of its voxels. The image must not be 0 everywhere."""
    return carry(image.affine, np.array(ndimage.center_of_mass(image.array))[None])[0]


def coarsening(moving: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(3,) voxels of the grid `moving`, along its axes, that a voxel of the grid `affine` spans."""
    return np.linalg.norm((np.linalg.inv(moving) @ affine)[:3, :3], axis=1)


def sample(
    moving: Image,
    shape: tuple[int, ...],
    affine: np.ndarray,
    transform: np.ndarray | None = None,
    order: int = 1,
) -> np.ndarray:
    """The values of `moving` at the voxel centres of another grid, in one interpolation.

    Outside the moving image the result is 0. Along an axis that is sampled more than 1.5 times more
    coarsely a Gaussian goes first: for a factor f its sigma is sqrt(f^2 - 1) / (2 sqrt(2 ln 2))
    moving voxels, which widens a point of 1 voxel FWHM to f voxels (Cardoso et al., "Scale factor
    point spread function matching", MICCAI 2015).

    Args:
        shape, affine: of the grid to sample on.
        transform: world of `moving` -> world of the grid; None: they are one.
        order: of the spline; 1 is trilinear, 0 takes the nearest voxel.

    Returns:
        float32 array of `shape`.
    """
    world = moving.affine if transform is None else transform @ moving.affine
    to_moving = np.linalg.inv(world) @ affine
    values = smoothed(moving, world, affine)
    # "constant" would zero the outermost voxels when rounding puts them 1e-12 outside.
    return ndimage.affine_transform(
        values,
        to_moving[:3, :3],
        to_moving[:3, 3],
        output_shape=shape,
        order=order,
        mode="grid-constant",
        cval=0.0,
    )


def smoothed(moving: Image, world: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The moving image's values, blurred where the grid `affine` is much coarser: see `sample`.

    Args:
        world: (4, 4) voxel index of `moving` -> world of the grid.

    Returns:
        float32.
    """
    values = moving.array.astype(np.float32, copy=False)
    factors = coarsening(world, affine)
    if (factors > SMOOTH_ABOVE).any():
        fwhm = np.sqrt(np.maximum(factors**2 - 1, 0))  # moving voxels
        sigma = np.where(factors > SMOOTH_ABOVE, fwhm, 0) / _FWHM
        values = ndimage.gaussian_filter(values, sigma, mode="constant")
    return values


def coarser(image: Image, voxel_mm: float) -> Image:
    """The image on a right-angled grid of the same box with voxels of at least `voxel_mm`.

    An axis that is coarser already keeps its steps. Sheared axes (a gantry tilt) are replaced by
    the nearest orthogonal ones, so that what comes back can be handed to ITK, which knows no
    others.
    """
    shape = np.array(image.array.shape)
    old = sides(image.affine)
    new = np.maximum(old, voxel_mm)
    axes = image.affine[:3, :3] / old  # unit columns
    left, _, right = np.linalg.svd(axes)
    directions = left @ right  # the orthogonal matrix nearest to `axes`
    if np.allclose(new, old) and np.allclose(directions, axes, atol=1e-6):
        return image
    count = np.maximum(np.ceil(shape * old / new - 1e-6), 1).astype(int)
    middle = carry(image.affine, (shape[None] - 1) / 2)[0]
    affine = np.eye(4)
    affine[:3, :3] = directions * new
    affine[:3, 3] = middle - affine[:3, :3] @ ((count - 1) / 2)
    return Image(sample(image, tuple(count.tolist()), affine), affine)
