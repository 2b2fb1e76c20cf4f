"""Slices for training the 2-D methods: cut once from the prepared pairs, cached, drawn one at a
time.

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
        plane: for `view`.
        patch: give a random square of this side instead of the slice, around a pixel that is not
            zero as far as the border allows; the whole slice where it is smaller. Drawn from (seed,
            epoch, index).
        pooled: give MRI and PET as single images, twice as many items.
        options: of `PairDataset`; the cache must be "disk" or "memory", and nothing is augmented.

    Raises:
        ValueError: without a cache, which would read a volume for every slice.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        view: View,
        plane: str = "axial",
        patch: int | None = None,
        pooled: bool = False,
        **options,
    ) -> None:
        super().__init__(subjects, **options)
        if self.cache == "none":
            raise ValueError("slices need a cache, choose disk or memory")
        self.view = view
        self.plane = plane
        self.patch = patch
        self.pooled = pooled

    @cached_property
    def _starts(self) -> np.ndarray:
        """(subjects + 1,): the number of each subject's first slice among all slices, and their
        total.
        """
        return np.cumsum([0, *(len(self._kept(index)) for index in range(len(self.subjects)))])

    def __len__(self) -> int:
        return int(self._starts[-1]) * (len(KEYS) if self.pooled else 1)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        number, channel = divmod(index, len(KEYS)) if self.pooled else (index, None)
        subject = int(np.searchsorted(self._starts, number, side="right")) - 1
        pair = np.array(
            self._kept(subject)[number - self._starts[subject]]
        )  # a copy: the cache stays as it is
        if self.patch is not None:
            pair = self._cut(pair, np.random.default_rng([self.seed, epoch, index]))
        mri, pet = torch.from_numpy(pair)[:, None]
        item = {"mri": mri, "pet": pet} if channel is None else {"image": (mri, pet)[channel]}
        return item | {"name": self.subjects[subject].name, "index": index}

    def _cut(self, pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random square of (2, H, W)."""
        filled = np.argwhere(pair.any(axis=0))
        centre = filled[rng.integers(len(filled))]
        corner = [
            int(np.clip(c - self.patch // 2, 0, max(side - self.patch, 0)))
            for c, side in zip(centre, pair.shape[1:], strict=True)
        ]
        rows, columns = (slice(start, start + self.patch) for start in corner)
        return np.ascontiguousarray(pair[:, rows, columns])

    def _read(self, subject: Subject) -> np.ndarray:
        """(S, 2, H, W) float32 in [0, 1]: the slices of MRI and PET that are not zero in both."""
        volumes = dict(zip(KEYS, torch.from_numpy(super()._read(subject))[:, None], strict=True))
        volumes = self.rescale(volumes)
        slices = torch.cat(
            [self.view(torch.as_tensor(volumes[key]), self.plane) for key in KEYS], dim=1
        )
        return slices[slices.flatten(1).any(dim=1)].numpy()

    def _cache_key(self, subject: Subject) -> str:
        return f"{super()._cache_key(subject)}-{self.plane}"


def prepared_slices(
    train: Sequence[Subject], validation: Sequence[Subject], slices: dict, **options
) -> tuple[SliceDataset, PairDataset]:
    """Training slices and validation pairs; every file read and checked.

    Args:
        slices: further options of `SliceDataset`.
        options: of `PairDataset`.

    Raises:
        InputError: for a bad file.
    """
    datasets = SliceDataset(train, **slices, **options), PairDataset(validation, **options)
    for dataset, title in zip(datasets, ("training slices", "validation pairs"), strict=True):
        dataset.prepare(title)
    return datasets
