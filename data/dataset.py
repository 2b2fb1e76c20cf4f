"""Pairs for training: read, preprocessed once, cached, augmented anew in every epoch.

The deterministic part of the preprocessing is kept in memory or on disk. A pair on disk is found by
a key of both files' paths, sizes and times, the parameters of the transforms and the versions of
the code, so a changed file or recipe is prepared again. Augmentation is drawn from (seed, epoch,
subject) alone: neither the number of workers nor the order of the subjects changes it.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import monai
import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset, Sampler, default_collate
from tqdm import tqdm

from data.foreground import without_hot_voxels
from data.quality import say_remarks
from data.settings import NO_CACHE, Cache, Preprocessing
from data.subjects import Subject
from data.transforms import FIELD_OF_VIEW, KEYS, augmentation, deterministic, rescale, to_item
from data.volume import read_pair
from utils.errors import InputError, in_one_line, notice
from utils.files import replacing

CACHE_VERSION = 3  # raise it when the deterministic part of the preprocessing changes


class PairDataset(Dataset):
    """MRI/PET pairs as the network sees them.

    An item is asked for by (epoch, index), see `EpochSampler`, and is a dict of "mri" and "pet",
    float32 (1, size, size, size) in [0, 1], "name" and "index".

    Args:
        subjects: the pairs, in a fixed order.
        preprocessing: recipe and size.
        cache: where the deterministic part is kept.
        seed: of the random part.
        augment: draw the random part of the recipe.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        preprocessing: Preprocessing,
        cache: Cache = NO_CACHE,
        seed: int = 3407,
        augment: bool = False,
    ) -> None:
        self.subjects = list(subjects)
        self.preprocessing = preprocessing
        self.cache = cache
        self.seed = seed
        self.augmentation = augmentation(preprocessing.form) if augment else None
        self.rescale = rescale()
        # Whether items leave here unfinished, because `finish` runs on the training's device.
        self.deferred = False
        self._memory: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.subjects)

    def defer_to(self, device: torch.device) -> None:
        """Leave the random part to `finish` if a GPU is there, which is faster than loaders are."""
        self.deferred = self.augmentation is not None and device.type == "cuda"

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        pair = torch.tensor(np.asarray(self._kept(index)))  # a copy: the cache stays as it is
        item = dict(zip(KEYS, pair[:, None], strict=True))
        item = item if self.deferred else self.finish(item, epoch, index)
        return item | {"name": self.subjects[index].name, "index": index}

    def finish(self, item: dict, epoch: int, index: int) -> dict:
        """Augment and rescale a pair, on whatever device it is.

        Args:
            item: "mri" and "pet", (1, size, size, size), as the deterministic transforms left them.
            epoch, index: what it was asked for by; the random part is drawn from them.

        Returns:
            "mri" and "pet", float32 in [0, 1].
        """
        if self.augmentation is not None:
            name = zlib.crc32(self.subjects[index].name.encode())
            draw = np.random.SeedSequence([self.seed, epoch, name]).generate_state(1)[0]
            self.augmentation.set_random_state(seed=int(draw))
            item = self.augmentation(item)
        item = self.rescale(item)
        return {
            key: convert_to_tensor(item[key], dtype=torch.float32, track_meta=False) for key in KEYS
        }

    def prepare(self, title: str, show: bool = True) -> None:
        """Read and check every pair and fill the cache, so that no epoch ends at a bad file.

        Args:
            title: of the progress bar.
            show: whether to show it.

        Raises:
            InputError: for a bad file, where there are several each was named in a notice before;
                or for a cache that cannot be written.
        """
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            number = len(self.subjects)
            attempts = threads.map(self._attempt, range(number))
            hidden = None if show else True  # None: hidden where there is no terminal
            bar = tqdm(attempts, title, total=number, unit="subject", disable=hidden)
            errors = [error for error in bar if error is not None]
        if not errors:
            return
        if len(errors) == 1:
            raise errors[0]
        for error in errors:
            notice(str(error))
        problem = f"{len(errors)} subjects cannot be read (named above)"
        raise InputError("--data", problem, "mend them or list the others")

    def _attempt(self, index: int) -> InputError | None:
        try:
            kept = self._kept(index)
        except Exception as error:
            error = in_one_line(error, self.subjects[index].name)
            if error.kind == "output":  # the cache cannot be written, whatever the data are like
                raise error from error.__cause__
            return error
        if self.cache.kind == "memory":
            self._memory[index] = kept
        return None

    def _kept(self, index: int) -> np.ndarray:
        """What `_read` makes of a subject, from the cache where it has it."""
        if index in self._memory:
            return self._memory[index]
        subject = self.subjects[index]
        if self.cache.kind != "disk":
            return self._read(subject)
        path = self.cache.folder / f"{subject.name}-{self._cache_key(subject)}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except Exception:  # not there yet, or damaged
            array = None
        if array is not None and self._fits(array):
            return array
        array = self._read(subject)
        # A new file in its place: other programs may have mapped the old one.
        with replacing(path, "free space or pass --cache memory") as part:
            np.save(part, array)  # `part` ends in .npy, or NumPy would add that
        return array

    def _fits(self, array: np.ndarray) -> bool:
        """Whether a cached array can be what `_read` makes."""
        shape = (len(KEYS), *(self.preprocessing.size,) * 3)
        return array.shape == shape and array.dtype == np.float32

    def _read(self, subject: Subject) -> np.ndarray:
        """(2, size, size, size) float32: MRI and PET after the deterministic transforms."""
        pair = read_pair(subject.mri, subject.pet)
        say_remarks(*pair)
        mri, pet = without_hot_voxels(pair, self.preprocessing.form.robust)
        prepared = deterministic(self.preprocessing, mri.voxel_mm)(to_item(mri, pet))
        return np.stack([prepared[key][0].numpy() for key in KEYS]).astype(np.float32)

    def _cache_key(self, subject: Subject) -> str:
        files = []
        for path in self._files(subject):
            try:
                status = path.stat()
            except OSError as error:
                raise InputError(path, "cannot be read", "check the data set") from error
            files.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
        about = {
            "files": files,
            "recipe": self._recipe(),
            "versions": [CACHE_VERSION, monai.__version__],
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    def _files(self, subject: Subject) -> list[Path]:
        """What `_read` reads."""
        return [subject.mri, subject.pet]

    def _recipe(self) -> dict:
        """What `_read` does, in words and numbers."""
        form = asdict(self.preprocessing.form)
        return form | {"size": self.preprocessing.size, "field of view": FIELD_OF_VIEW}


class ErrorsAsItems(Dataset):
    """A data set whose `InputError`s are items like others.

    A loading process that raises one would hand on nothing but the text of its traceback.

    Args:
        items: the data set.
    """

    def __init__(self, items: Dataset) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict | InputError:
        try:
            return self.items[key]
        except InputError as error:
            return error


def collate(items: Sequence[dict | InputError]) -> dict | InputError:
    """One batch of items, or the first error among them, which is to be raised."""
    for item in items:
        if isinstance(item, InputError):
            return item
    return default_collate(items)


class EpochSampler(Sampler):
    """Yields (epoch, index) in an order drawn from (seed, epoch).

    So a resumed run goes on as it was.

    Args:
        length: number of items.
        seed: of the order.
        shuffle: otherwise in the items' own order.
        rank, world_size: this process's share; every process yields the same number, the last
            indices are repeated where they do not divide evenly.
    """

    def __init__(
        self, length: int, seed: int = 0, shuffle: bool = False, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        padded = np.resize(order, len(self) * self.world_size)
        return iter([(self.epoch, int(index)) for index in padded[self.rank :: self.world_size]])
