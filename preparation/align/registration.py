"""The one place that talks to ANTs: linear registration, and what ANTs wants around it.

ANTs hangs for ever on an infinite voxel, loses its way on a spike, and gives another answer every
time unless it has one thread and a seed from the environment. So images come here finite and
clipped (`working_copy`), and the environment is set when this module is imported: a program that
uses ANTs itself must import it first, for ITK counts its threads once, at its first image.
"""

import os
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np

from data.grids import Image, coarser, sides
from utils.errors import InputError
from utils.optional import need

CLIP_PERCENTILES = 0.5, 99.5  # of the voxels above 0
# The two finest of ANTs' four levels, which start at 6 voxels; from a start that is nearly right
# the coarse ones can only walk away: masked and at 4 mm their answers were 0.6 mm off on the
# average and up to 2.6, against 0.5 and 0.7.
_FINEST_LEVELS = {
    "aff_iterations": (1200, 100),
    "aff_shrink_factors": (2, 1),
    "aff_smoothing_sigmas": (1, 0),
}
# Without these two runs differ by a millimetre. The `random_seed` argument of `ants.registration`
# is ignored by antspyx 0.6.3, and so is every option that it does not know.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
os.environ["ANTS_RANDOM_SEED"] = "1"
# ANTs writes a transform from fixed to moving, in the LPS millimetres of ITK.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def working_copy(image: Image, voxel_mm: float) -> Image:
    """The image as it is registered: clipped, background at 0, voxels of at least `voxel_mm`.

    Values are clipped to the 0.5 and 99.5 percentile of what is above 0, and the lower one becomes
    0. There must be something above 0 and nothing that is not finite.
    """
    values = image.array.astype(np.float32, copy=False)
    low, high = np.percentile(values[values > 0], CLIP_PERCENTILES).astype(np.float32)
    return coarser(Image(np.clip(values, low, high) - low, image.affine), voxel_mm)


def register(
    fixed: Image,
    moving: Image,
    kind: str = "Rigid",
    start: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    is_near: bool = False,
) -> np.ndarray:
    """Find the linear transform that brings `moving` onto `fixed`, by mutual information.

    Args:
        fixed, moving: finite, orthogonal axes, not constant; see `working_copy`.
        kind: ANTs' `type_of_transform`, "Rigid" or "antsRegistrationSyNQuick[a]".
        start: (4, 4) first guess; None: the centres of mass on each other.
        mask: part of `fixed` that counts, of its shape; None: all.
        is_near: whether the start is right to a few voxels, so that no coarse levels are needed;
            rigid only.

    Returns:
        (4, 4) matrix, world of `moving` -> world of `fixed`.

    Raises:
        InputError: ANTs gives up, or is not installed.
        ValueError: an image that ANTs cannot be given.
    """
    for image in (fixed, moving):
        if not np.isfinite(image.array).all() or image.array.min() == image.array.max():
            raise ValueError("images to be registered must be finite and not constant")
    ants = need("antspyx")
    with tempfile.TemporaryDirectory(prefix="dc2fusion-") as folder:
        options = dict(_FINEST_LEVELS) if is_near else {}
        if start is not None:
            options["initial_transform"] = _write_transform(ants, start, Path(folder) / "start.mat")
        if mask is not None:
            options["mask"] = to_ants(Image(mask.astype(np.float32), fixed.affine))
        try:
            answer = ants.registration(
                to_ants(fixed),
                to_ants(moving),
                type_of_transform=kind,
                outprefix=f"{folder}/out",
                **options,
            )
        except (RuntimeError, ValueError) as error:
            problem = f"ANTs gave up ({' '.join(str(error).split())})"
            remedy = "look at the two images in a viewer"
            raise InputError("registration", problem, remedy) from error
        return _read_transform(ants, answer["fwdtransforms"][0])


def to_ants(image: Image):
    """An ANTs image of the same grid; its axes must be at right angles."""
    ants = need("antspyx")
    affine = _LPS @ image.affine
    spacing = sides(image.affine)
    return ants.from_numpy(
        np.ascontiguousarray(image.array, dtype=np.float32),
        origin=tuple(affine[:3, 3].tolist()),
        spacing=tuple(spacing.tolist()),
        direction=affine[:3, :3] / spacing,
    )


def _write_transform(ants: ModuleType, matrix: np.ndarray, path: Path) -> str:
    """Write moving -> fixed as ANTs keeps it; returns the file's name."""
    backwards = _LPS @ np.linalg.inv(matrix) @ _LPS
    transform = ants.create_ants_transform(
        transform_type="AffineTransform",
        dimension=3,
        matrix=backwards[:3, :3],
        translation=backwards[:3, 3],
    )
    ants.write_transform(transform, str(path))
    return str(path)


def _read_transform(ants: ModuleType, path: str) -> np.ndarray:
    """Moving -> fixed from the file of a linear transform."""
    transform = ants.read_transform(path)
    parameters = np.asarray(transform.parameters)
    centre = np.asarray(transform.fixed_parameters)
    linear = parameters[:9].reshape(3, 3)
    backwards = np.eye(4)
    backwards[:3, :3] = linear
    backwards[:3, 3] = parameters[9:12] + centre - linear @ centre  # ITK turns about a centre
    return np.linalg.inv(_LPS @ backwards @ _LPS)
