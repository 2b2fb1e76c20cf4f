"""One synthetic head as two scanners see it: an MRI and an FDG-PET, not aligned."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data.phantom.cohort import subject_seed
from data.phantom.head import Phantom, make_subject

MRI_DEGREES, MRI_MM = 6.0, 8.0  # largest turn and shift of a head in the MRI scanner
PET_DEGREES, PET_MM = 12.0, 12.0  # and in the PET scanner
BRAIN_CENTRE_MM = (0.0, -17.0, 8.0)  # about which heads turn
PET_FIELD_MM = (256.0, 256.0, 170.0)
FRAME_SECONDS = (300.0, 300.0, 600.0)
FRAME_UPTAKE = (0.95, 1.0, 1.04)
STATIC_SECONDS = 1800.0
BQML_PER_UNIT = 2.5  # of the phantom's PET


@dataclass(frozen=True)
class Visit:
    """One subject's two images as the scanners see them; arrays are (X, Y, Z) near RAS+ order.

    Attributes:
        mri: float32, whole numbers.
        mri_affine: (4, 4) voxel -> mm of the MRI scanner.
        frames: (X, Y, Z, T) float32, Bq/ml before they are rounded to 16 bits plane by plane.
        pet_affine: (4, 4) voxel -> mm of the PET scanner; the planes are not tilted.
        durations: seconds for each frame.
        pet_to_mri: (4, 4) rigid, mm of the PET scanner -> mm of the MRI scanner.
    """

    mri: np.ndarray
    mri_affine: np.ndarray
    frames: np.ndarray
    pet_affine: np.ndarray
    durations: tuple[float, ...]
    pet_to_mri: np.ndarray


def make_visit(
    seed: int,
    index: int,
    voxel_mm: float = 2.0,
    heads: int | None = None,
    dynamic: bool = False,
) -> Visit:
    """Lay a synthetic head into both scanners.

    Args:
        seed, index: of the cohort and the subject in it, from 0.
        voxel_mm: edge of the MRI's voxels. The PET's are at least 2 mm wide, and 1.25 times as
            thick as wide.
        heads: number of different heads that the subjects share; None: one each.
        dynamic: three frames instead of one.
    """
    head_index = index % heads if heads else index
    phantom = _head(subject_seed(seed, head_index), voxel_mm)
    rng = np.random.default_rng([seed, index, 1])
    in_mri = _pose(rng, MRI_DEGREES, MRI_MM)
    in_pet = _pose(rng, PET_DEGREES, PET_MM)
    pet_affine, shape = _pet_grid(rng, in_pet, voxel_mm)
    pet = _on_pet_grid(phantom, in_pet, pet_affine, shape) * BQML_PER_UNIT  # X, Y, Z
    frames = [_noisy(pet * uptake, rng) for uptake in (FRAME_UPTAKE if dynamic else (1.0,))]
    return Visit(
        mri=phantom.mri,
        mri_affine=in_mri @ phantom.affine,
        frames=np.stack(frames, -1),  # X, Y, Z, T
        pet_affine=pet_affine,
        durations=FRAME_SECONDS if dynamic else (STATIC_SECONDS,),
        pet_to_mri=in_mri @ np.linalg.inv(in_pet),
    )


@lru_cache(maxsize=16)  # of subjects that share their heads
def _head(seed: int, voxel_mm: float) -> Phantom:
    return make_subject(seed, voxel_mm)


def _pose(rng: np.random.Generator, degrees: float, mm: float) -> np.ndarray:
    """A random turn about the middle of the brain and a shift: (4, 4), head -> scanner."""
    axis, direction = rng.standard_normal((2, 3))
    angle = np.deg2rad(rng.uniform(0.3, 1) * degrees)
    turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    shift = rng.uniform(0.3, 1) * mm * direction / np.linalg.norm(direction)
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = BRAIN_CENTRE_MM + shift - turn @ BRAIN_CENTRE_MM
    return pose


def _pet_grid(
    rng: np.random.Generator, in_pet: np.ndarray, voxel_mm: float
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape of the PET, its field of view about where the brain lies in the scanner."""
    width = max(voxel_mm, 2.0)
    sides = np.array([width, width, min(1.25 * width, 7.5)])
    shape = np.rint(np.array(PET_FIELD_MM) / sides).astype(int)
    brain = in_pet[:3, :3] @ BRAIN_CENTRE_MM + in_pet[:3, 3]
    centre = brain + rng.uniform(-3, 3, 3)
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = centre - sides * (shape - 1) / 2
    return affine, tuple(shape.tolist())


def _on_pet_grid(phantom: Phantom, in_pet: np.ndarray, affine: np.ndarray, shape) -> np.ndarray:
    """The phantom's uptake at the voxel centres of the PET."""
    to_head = np.linalg.inv(in_pet @ phantom.affine) @ affine
    return ndimage.affine_transform(
        phantom.pet, to_head[:3, :3], to_head[:3, 3], shape, order=1, output=np.float32
    )


def _noisy(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frame with noise that grows with the square root of its values, none below 0."""
    noise = rng.standard_normal(frame.shape, np.float32)
    spread = 0.02 * np.sqrt(frame * frame.max())
    return np.maximum(frame + spread * noise, 0)
