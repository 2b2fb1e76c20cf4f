"""A cube of voxels in MNI152 space, a template on it, and heads that are brought there.

Nothing here needs MONAI: a network that registers starts anew for every subject (`prepare.py
--warp`), and importing it would take longer than the network.
"""

import os
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from data.foreground import head
from data.grids import Image, sample
from data.volume import read_volume
from utils.errors import InputError
from utils.optional import need

CENTRE = (0.0, -18.0, 18.0)  # mm, the middle of the MNI152 templates' field of view
FIELD_OF_VIEW = 224  # mm, of the cube where no voxel size is given
BRIGHTEST = 99.5  # percentile of what is above 0 that becomes 1
RIM_MM = 10.0  # around a template's own foreground; what lies beyond is not to be matched
PACKAGED = "packaged"  # nilearn's template
_LEAST_FILLED = 0.3  # of the middle of the cube is above 0 where an MRI lies in MNI152 space


@dataclass(frozen=True)
class Space:
    """A cube in MNI152 space.

    Attributes:
        size: voxels a side.
        voxel_mm: edge of a voxel; None for a field of view of 224 mm.
    """

    size: int
    voxel_mm: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return (self.size,) * 3

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel index -> RAS+ mm."""
        voxel_mm = self.voxel_mm or FIELD_OF_VIEW / self.size
        affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
        affine[:3, 3] = np.array(CENTRE) - voxel_mm * (self.size - 1) / 2
        return affine

    def of(self, image: Image, order: int = 1) -> np.ndarray:
        """An image in MNI152 space on this grid, in one interpolation: float32."""
        return sample(image, self.shape, self.affine, order=order)


@dataclass(frozen=True)
class Target:
    """What heads are brought onto.

    Attributes:
        name: for messages.
        values: float32 in [0, 1] on the grid of a space.
        kept: bool, its foreground and `RIM_MM` around it: of the heads, too, only this is seen. So
            a head with skull can be brought onto a brain.
    """

    name: str
    values: np.ndarray
    kept: np.ndarray

    def cut(self, values: np.ndarray) -> np.ndarray:
        """Zero outside what is kept."""
        return np.where(self.kept, values, np.float32(0))


def read_target(path: str | os.PathLike | None, space: Space) -> Target:
    """A template of a file, or nilearn's packaged one (a brain without skull).

    Raises:
        InputError: nilearn is missing, or the file cannot be read or lies elsewhere.
    """
    if path is None:
        packaged = need("nilearn.datasets").load_mni152_template(resolution=1)
        values = np.asarray(packaged.dataobj, dtype=np.float32)
        return target_of(PACKAGED, Image(values, packaged.affine), space)
    volume = read_volume(path)
    return target_of(str(path), Image(volume.array, volume.affine), space)


def target_of(name: str, image: Image, space: Space) -> Target:
    """A target made of an image in MNI152 space.

    Raises:
        InputError: as `to_unit`, or it lies elsewhere.
    """
    values = to_unit(space.of(image), name)
    check_place(values, name)
    distance = ndimage.distance_transform_edt(~head(values), sampling=space.affine[0, 0])
    kept = distance <= RIM_MM
    return Target(name, np.where(kept, values, np.float32(0)), kept)


def to_unit(values: np.ndarray, name: str | os.PathLike) -> np.ndarray:
    """Intensities in [0, 1], float32: the 99.5th percentile of what is above 0 becomes 1.

    Raises:
        InputError: nothing is above 0.
    """
    above = values[values > 0]
    if not above.size:
        raise InputError(name, "nothing of it lies in MNI152 space", "prepare it with --space mni")
    return np.clip(values / np.percentile(above, BRIGHTEST), 0, 1).astype(np.float32)


def check_place(values: np.ndarray, name: str | os.PathLike) -> None:
    """Refuse a head that does not lie where the MNI152 template does.

    Raises:
        InputError: the middle of the cube is mostly empty.
    """
    quarter = len(values) // 4
    middle = values[(slice(quarter, -quarter),) * 3]
    if (middle > 0).mean() < _LEAST_FILLED:
        problem = "does not lie in MNI152 space"
        raise InputError(name, problem, "prepare it with --space mni")
