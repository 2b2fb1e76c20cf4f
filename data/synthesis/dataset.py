"""Synthetic pairs as a data set for training."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from data.dataset import PairDataset
from data.synthesis.anatomy import Anatomy
from data.synthesis.pair import draw_pair


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
