"""Heads for registration: MRIs that lie in MNI152 space, brought onto one cube of voxels.

A pair is a moving and a fixed head: each head and a template, or two heads. Rigid and affine steps
come before (`prepare.py --space mni`); what is left is what a network learns.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from data.dataset import PairDataset
from data.foreground import head
from data.grids import Image, sample
from data.settings import NO_CACHE, Cache, Preprocessing
from data.subjects import Head
from data.volume import read_volume
from utils.errors import InputError
from utils.optional import need

CENTRE = (0.0, -18.0, 18.0)  # mm, the middle of the MNI152 templates' field of view
FIELD_OF_VIEW = 224  # mm, of the cube where no voxel size is given
BRIGHTEST = 99.5  # percentile of what is above 0 that becomes 1
RIM_MM = 10.0  # around a template's own foreground; what lies beyond is not to be matched
IDENTITY = 1 / 16  # of the pairs are a head and itself, which is not to be moved
PACKAGED = "packaged"  # nilearn's template
CACHE_VERSION = 1  # raise it when heads come onto the grid otherwise
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


class HeadPairs(PairDataset):
    """Pairs of a moving and a fixed head.

    An item is asked for by (epoch, index), see `data.dataset.EpochSampler`; the moving head is that
    of the index. It is a dict of "moving" and "fixed", float32 (1, size, size, size) in [0, 1],
    where all heads have labels and there is no target also of "moving_labels" and "fixed_labels",
    whole numbers of the same shape and type, and "name" and "index".

    Args:
        heads: in a fixed order.
        space: the grid.
        target: what all are brought onto; None for other heads, drawn from (seed, epoch, index).
        cache: where heads on the grid are kept.
        seed: of what is drawn.
        training: whether pairs are drawn, a sixteenth of a head and itself, and where `flips` says
            so both are flipped along each axis in half of the pairs. Otherwise the fixed head is
            the next one.
        flips: as published.

    Raises:
        InputError: one head alone and no target.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        space: Space,
        target: Target | None = None,
        cache: Cache = NO_CACHE,
        seed: int = 3407,
        training: bool = False,
        flips: bool = True,
    ) -> None:
        super().__init__(heads, Preprocessing(size=space.size), cache, seed)
        if target is None and len(heads) < 2:
            problem = "subjects needs two to validate on and two to train on"
            raise InputError("--onto", problem, "give more subjects, or --onto template")
        self.space, self.target = space, target
        self.training, self.flips = training, flips
        self.labelled = target is None and all(h.labels is not None for h in heads)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        draw = np.random.default_rng([self.seed, epoch, index])
        moving = self._kept(index)
        fixed, other = self._fixed(index, draw)
        volumes = {"moving": moving[0], "fixed": fixed[0]}
        if self.labelled:
            volumes |= {"moving_labels": moving[1], "fixed_labels": fixed[1]}
        axes = []
        if self.training and self.flips:
            axes = np.flatnonzero(draw.random(3) < 0.5).tolist()
        item = {}
        for name, volume in volumes.items():
            array = np.ascontiguousarray(np.flip(volume, axes))[None]  # 1, D, H, W
            item[name] = torch.tensor(array)
        return item | {"name": f"{self.subjects[index].name} onto {other}", "index": index}

    def _fixed(self, index: int, draw: np.random.Generator) -> tuple[np.ndarray, str]:
        """The fixed head of an item, (1 or 2, size, size, size), and its name."""
        if self.training and draw.random() < IDENTITY:
            return self._kept(index), self.subjects[index].name
        if self.target is not None:
            return self.target.values[None], "the template"
        number = len(self.subjects)
        step = 1 + int(draw.integers(number - 1)) if self.training else 1
        other = (index + step) % number
        return self._kept(other), self.subjects[other].name

    def _fits(self, array: np.ndarray) -> bool:
        shape = (1 + self.labelled, *self.space.shape)
        return array.shape == shape and array.dtype == np.float32

    def _read(self, subject: Head) -> np.ndarray:
        """(1, size, size, size) float32: the MRI; a second one holds the labels."""
        volume = read_volume(subject.mri)
        values = to_unit(self.space.of(Image(volume.array, volume.affine)), subject.mri)
        check_place(values, subject.mri)
        if self.target is not None:
            return self.target.cut(values)[None]
        if not self.labelled:
            return values[None]
        volume = read_volume(subject.labels)
        labels = self.space.of(Image(volume.array, volume.affine), order=0)
        return np.stack([values, np.rint(labels)]).astype(np.float32)

    def _files(self, subject: Head) -> list[Path]:
        return [subject.mri, subject.labels] if self.labelled else [subject.mri]

    def _recipe(self) -> dict:
        about = {"space": self.space.affine.tolist(), "size": self.space.size}
        if self.target is not None:
            about["target"] = hashlib.sha256(self.target.kept.tobytes()).hexdigest()
        return about | {"heads": CACHE_VERSION}
