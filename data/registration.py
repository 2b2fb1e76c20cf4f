"""Pairs of heads for registration: MRIs that lie in MNI152 space, on one cube of voxels.

A pair is a moving and a fixed head: each head and a template, or two heads. Rigid and affine steps
come before (`prepare.py --space mni`); what is left is what a network learns.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.dataset import PairDataset
from data.grids import Image
from data.settings import NO_CACHE, Cache, Preprocessing
from data.subjects import Head
from data.template_space import Space, Target, check_place, to_unit
from data.volume import read_volume
from utils.errors import InputError

IDENTITY = 1 / 16  # of the pairs are a head and itself, which is not to be moved
CACHE_VERSION = 1  # raise it when heads come onto the grid otherwise


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
