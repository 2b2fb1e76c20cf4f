"""Where the PET lies on the MRI, and how much the answer stands out.

Registration climbs to the nearest optimum: from a head turned by 60 degrees that is a wrong one,
and nothing says so. So starts are compared before, and afterwards the answer is compared with the
same PET turned by every rotation of a cube about the middle of the brain. A right answer explains
several times as much as the best of those; a wrong one, or noise, does not.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data.grids import Image, centre_of_mass, coarser, sample, sides
from data.quality import nmi
from preparation.align.registration import register

SEARCH_MM = 4.0  # voxels of the images that starts are compared on
# Another start than the header's orientation has to win by this much, or a symmetric head would be
# turned.
START_MARGIN = 0.005
# The answer should explain this many times as much as the best wrong orientation. Measured: 2.9 and
# more when right, also through noise; 1.9 and less when wrong; in between with half of the brain
# missing.
CLEAR = 2.3
# The search all round, only for answers that are not clear.
_WIDE_MM = 8.0
_WIDE_STARTS = 500
_WIDE_TRIED = 8
_RIM_MM = 16.0  # what surrounds the brain helps a coarse search, by its outline
_METRIC_RIM_MM = 10.0  # part around the brain that counts in the last registration


def turn_about(rotation: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) matrix that turns (or mirrors) about the point `source` and carries it to `target`."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = target - rotation @ source
    return matrix


def cube_rotations() -> np.ndarray:
    """(24, 3, 3) rotations that map the axes onto each other, the identity first."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if np.linalg.det(matrix) > 0:
                found.append(matrix)
    return np.array(sorted(found, key=lambda matrix: -np.trace(matrix)))


def spread_rotations(count: int) -> np.ndarray:
    """(count, 3, 3) rotations spread evenly over all there are.

    Super-Fibonacci spirals (Alexa, CVPR 2022).
    """
    place = np.arange(count) + 0.5
    inner = np.sqrt(place / count)
    outer = np.sqrt(1 - place / count)
    alpha = 2 * math.pi * place / math.sqrt(2)
    beta = 2 * math.pi * place / 1.533751168755204288118041  # psi of the paper: psi^4 = psi + 4
    x, y = inner * np.sin(alpha), inner * np.cos(alpha)
    z, w = outer * np.sin(beta), outer * np.cos(beta)
    return Rotation.from_quat(np.stack([x, y, z, w], axis=1)).as_matrix()


@dataclass(frozen=True)
class Pose:
    """A PET's place on its MRI.

    Attributes:
        matrix: (4, 4) PET world -> MRI world, mm.
        start: "com" (orientation of the headers, centres on each other), "rotation k" (the k-th
            rotation of a cube), "headers" (orientation and position of the headers) or "search"
            (from all round).
        contrast: how many times as much the answer explains as the best of 23 wrong orientations.
    """

    matrix: np.ndarray
    start: str
    contrast: float


class _Scene:
    """MRI, PET and brain on a coarse grid, ready to be compared under many transforms."""

    def __init__(self, mri: Image, pet: Image, region: np.ndarray, voxel_mm: float) -> None:
        self.mri = coarser(mri, voxel_mm)
        self.pet = coarser(pet, voxel_mm)
        self.region = self._sample(Image(region, mri.affine)) > 0.5

    def _sample(self, image: Image, matrix: np.ndarray | None = None) -> np.ndarray:
        return sample(image, self.mri.array.shape, self.mri.affine, matrix)

    def compare(self, matrix: np.ndarray) -> float:
        """NMI inside the region with the PET moved by `matrix`."""
        return nmi(self.mri.array, self._sample(self.pet, matrix), self.region)


def find_pose(mri: Image, pet: Image, brain: np.ndarray, metric_mask: bool = True) -> Pose:
    """Align the PET rigidly to the MRI.

    The 24 rotations of a cube and the headers' position are compared at 4 mm, and the best start is
    registered there; if the answer does not stand out, starts all round are tried. At last the full
    images are registered from the coarse answer.

    Args:
        mri, pet: working copies (`preparation.align.registration.working_copy`).
        brain: bool array on the MRI's grid, where answers are compared.
        metric_mask: whether the last registration looks only at the brain and 10 mm around it.

    Raises:
        InputError: ANTs gives up or is not installed.
    """
    scene = _Scene(mri, pet, brain, SEARCH_MM)
    middle = centre_of_mass(Image(brain, mri.affine))
    source = centre_of_mass(scene.pet)
    start, name = _best_of_cube(scene, source, middle)
    matrix = register(scene.mri, scene.pet, start=start)
    if _contrast(scene, matrix, middle) < CLEAR:
        wider = _search_all_round(scene, source, middle, mri, pet, brain)
        if scene.compare(wider) > scene.compare(matrix) + START_MARGIN:
            matrix, name = wider, "search"
    mask = grown(brain, mri.affine, _METRIC_RIM_MM) if metric_mask else None
    matrix = _refined(scene, matrix, mri, pet, mask)
    return Pose(matrix, name, _contrast(scene, matrix, middle))


def grown(mask: np.ndarray, affine: np.ndarray, rim_mm: float) -> np.ndarray:
    """The mask and everything within `rim_mm` of it."""
    return ndimage.distance_transform_edt(~mask, sampling=sides(affine)) <= rim_mm


def _best_of_cube(scene: _Scene, source: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, str]:
    """The start to take and its name.

    The headers' orientation unless another one is clearly better. The headers' position is one of
    them: of half a brain the centre of mass is elsewhere.
    """
    starts = [turn_about(rotation, source, middle) for rotation in cube_rotations()]
    names = ["com", *(f"rotation {number}" for number in range(1, len(starts)))]
    starts.append(np.eye(4))
    names.append("headers")
    scores = [scene.compare(start) for start in starts]
    best = int(np.argmax(scores))
    if scores[best] <= scores[0] + START_MARGIN:
        best = 0
    return starts[best], names[best]


def _search_all_round(
    scene: _Scene, source: np.ndarray, middle: np.ndarray, mri: Image, pet: Image, brain: np.ndarray
) -> np.ndarray:
    """The best registered answer from the most promising of many rotations."""
    wide = _Scene(mri, pet, grown(brain, mri.affine, _RIM_MM), _WIDE_MM)
    starts = [turn_about(rotation, source, middle) for rotation in spread_rotations(_WIDE_STARTS)]
    scores = np.array([wide.compare(start) for start in starts])
    promising = np.argsort(-scores, kind="stable")[:_WIDE_TRIED]
    answers = [register(scene.mri, scene.pet, start=starts[index]) for index in promising]
    return max(answers, key=scene.compare)


def _refined(
    scene: _Scene, coarse: np.ndarray, mri: Image, pet: Image, mask: np.ndarray | None
) -> np.ndarray:
    """The coarse answer registered on the full images, unless the coarse one fits the brain better.

    A mask leaves ANTs less to go by, and now and then it walks away; then it also tries without.
    """
    matrix = register(mri, pet, start=coarse, mask=mask, is_near=True)
    if scene.compare(matrix) >= scene.compare(coarse) - START_MARGIN:
        return matrix
    others = [coarse]
    if mask is not None:
        others.insert(0, register(mri, pet, start=coarse, is_near=True))
    return max(others, key=scene.compare)


def _contrast(scene: _Scene, matrix: np.ndarray, middle: np.ndarray) -> float:
    """What the answer explains over what its best turned copy explains (NMI above 1)."""
    turned = [turn_about(rotation, middle, middle) @ matrix for rotation in cube_rotations()[1:]]
    best = max(scene.compare(other) for other in turned)
    return (scene.compare(matrix) - 1) / max(best - 1, 1e-6)
