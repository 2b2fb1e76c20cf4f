"""Slices for training the 2-D methods: cut once from the prepared pairs, cached, drawn singly.

A subject's slices are kept one after the other, so that an item is one short read from the
memory-mapped cache rather than a walk through a volume. They are the slices that a 2-D method gets
when it fuses a volume: of the whole volume's intensities in [0, 1], without the augmentation of the
3-D training.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch

from data.dataset import PairDataset
from data.settings import Cache, Preprocessing, Slicing
from data.subjects import Subject
from data.transforms import KEYS

View = Callable[[torch.Tensor, str], torch.Tensor]


class SliceDataset(PairDataset):
    """The slices of MRI/PET pairs, those that are zero in both volumes left out.

    An item is asked for by (epoch, index), as in `PairDataset`, and is a dict of "mri" and "pet",
    or only "image" where both are pooled, float32 (1, H, W) in [0, 1], and "name" and "index".

    Args:
        subjects: the pairs, in a fixed order.
        view: `(volumes (N, X, Y, Z), plane) -> slices (N S, 1, H, W)`, one volume's after the
            other's; see `models.baselines.slicewise.slices_of`.
        slicing: plane, patches, single images. A patch lies around a pixel that is not zero, as far
            as the border allows; it is the whole slice where that is smaller. It is drawn from
            (seed, epoch, index).
        preprocessing, cache, seed: as in `PairDataset`; nothing is augmented.

    Raises:
        ValueError: without a cache, which would read a volume for every slice.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        view: View,
        slicing: Slicing,
        preprocessing: Preprocessing,
        cache: Cache,
        seed: int = 3407,
    ) -> None:
        super().__init__(subjects, preprocessing, cache, seed)
        if cache.kind == "none":
            raise ValueError("slices need a cache, choose disk or memory")
        self.view = view
        self.slicing = slicing

    @cached_property
    def _starts(self) -> np.ndarray:
        """(subjects + 1,): the place of each subject's first slice among all, and their total."""
        counts = [len(self._kept(index)) for index in range(len(self.subjects))]
        return np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._starts[-1]) * (len(KEYS) if self.slicing.pooled else 1)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        number, channel = divmod(index, len(KEYS)) if self.slicing.pooled else (index, None)
        subject = int(np.searchsorted(self._starts, number, side="right")) - 1
        kept = self._kept(subject)[number - self._starts[subject]]
        pair = np.array(kept)  # a copy: the cache stays as it is
        if self.slicing.patch is not None:
            pair = self._cut(pair, np.random.default_rng([self.seed, epoch, index]))
        mri, pet = torch.from_numpy(pair)[:, None]  # 1, H, W each
        item = {"mri": mri, "pet": pet} if channel is None else {"image": (mri, pet)[channel]}
        return item | {"name": self.subjects[subject].name, "index": index}

    def _cut(self, pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random square of (2, H, W)."""
        patch = self.slicing.patch
        filled = np.argwhere(pair.any(axis=0))
        centre = filled[rng.integers(len(filled))]
        limits = np.maximum(np.subtract(pair.shape[1:], patch), 0)
        row, column = np.clip(centre - patch // 2, 0, limits)
        return np.ascontiguousarray(pair[:, row : row + patch, column : column + patch])

    def _fits(self, array: np.ndarray) -> bool:
        sides = (self.preprocessing.size,) * 2
        return array.ndim == 4 and array.shape[1:] == (len(KEYS), *sides) and array.dtype == "f4"

    def _read(self, subject: Subject) -> np.ndarray:
        """(S, 2, H, W) float32 in [0, 1]: the slices of MRI and PET that are not zero in both."""
        volumes = dict(zip(KEYS, torch.from_numpy(super()._read(subject))[:, None], strict=True))
        volumes = self.rescale(volumes)
        plane = self.slicing.plane
        stacks = [self.view(torch.as_tensor(volumes[key]), plane) for key in KEYS]
        slices = torch.cat(stacks, dim=1)  # S, 2, H, W
        return slices[slices.flatten(1).any(dim=1)].numpy()

    def _cache_key(self, subject: Subject) -> str:
        return f"{super()._cache_key(subject)}-{self.slicing.plane}"
