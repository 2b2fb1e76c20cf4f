"""Synthetic pairs as a data set for training."""

import os
from collections.abc import Sequence
from functools import partial

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from data.dataset import PairDataset
from data.synthesis.anatomy import Anatomy, procedural_heads, read_label_maps
from data.synthesis.pair import draw_pair
from utils.errors import InputError

SOURCES = ("labels", "heads", "both")
HEADS = 24  # procedural heads that pairs are drawn from
HEADS_SEED = 20231016


def find_anatomies(
    source: str, labels: str | os.PathLike | None, cache: str | os.PathLike
) -> list[Anatomy]:
    """The anatomies of a source; says by bars what takes long.

    Args:
        source: "labels", "heads" or "both".
        labels: folder of label maps, for "labels" and "both".
        cache: folder for what is made of the procedural heads.

    Raises:
        InputError: no folder of label maps where they are asked for, or as `read_label_maps` and
            `procedural_heads`.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}, choose from {', '.join(SOURCES)}")
    anatomies = []
    if source != "heads":
        if labels is None:
            problem = f"is missing beside --synthesis {source}"
            raise InputError("--labels", problem, "give the folder of the label maps")
        anatomies += read_label_maps(labels, partial(tqdm, desc="label maps", disable=None))
    if source != "labels":
        bar = partial(tqdm, desc="procedural heads", disable=None)
        anatomies += procedural_heads(HEADS, HEADS_SEED, cache, bar)
    return anatomies


class SyntheticPairs(Dataset):
    """Pairs drawn anew in every epoch from (seed, epoch, index) alone.

    An item is asked for by (epoch, index), see `data.dataset.EpochSampler`, and is a dict of "mri"
    and "pet", float32 (1, size, size, size) in [0, 1], "name" and "index". Neither the number of
    workers nor the order changes it.

    Args:
        anatomies: what is drawn from.
        sizes: voxels a side, one number or one for each pair in turn.
        length: pairs in an epoch.
        seed: of everything.
    """

    def __init__(
        self,
        anatomies: Sequence[Anatomy],
        sizes: int | Sequence[int],
        length: int,
        seed: int,
    ) -> None:
        self.anatomies, self.length, self.seed = list(anatomies), length, seed
        self.sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        # whether items leave here undrawn, because `finish` runs on the training's device
        self.deferred = False
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return self.length

    def defer_to(self, device: torch.device) -> None:
        """Leave the drawing to `finish` if a GPU is there, which is faster than loaders are."""
        self.deferred = device.type == "cuda"
        if self.deferred:
            self.device = device
            self.anatomies = [anatomy.to(device) for anatomy in self.anatomies]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        item = {} if self.deferred else self.finish({}, epoch, index)
        return item | {"name": f"synthetic pair {epoch}-{index}", "index": index}

    def finish(self, item: dict, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Draw a pair: "mri" and "pet", float32 (1, size, size, size) in [0, 1]."""
        size = self.sizes[index % len(self.sizes)]
        with torch.no_grad():
            (mri, pet), _ = draw_pair(self.anatomies, size, (self.seed, epoch, index), self.device)
        return {"mri": mri[None], "pet": pet[None]}


class MixedPairs(Dataset):
    """Real and synthetic pairs in one epoch.

    Args:
        real: the real ones, first.
        drawn: the synthetic ones.
    """

    def __init__(self, real: PairDataset, drawn: SyntheticPairs) -> None:
        self.real, self.drawn = real, drawn
        # both leave their items unfinished, or none, so that they make one batch
        self.deferred = False

    def __len__(self) -> int:
        return len(self.real) + len(self.drawn)

    def defer_to(self, device: torch.device) -> None:
        """Real pairs are finished by the loaders, drawn ones too: a batch holds both."""

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        if index < len(self.real):
            return self.real[epoch, index]
        return self.drawn[epoch, index - len(self.real)] | {"index": index}
