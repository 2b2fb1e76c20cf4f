"""Validation: scores of networks on whole volumes of subjects that are not trained on."""

import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure

from data.dataset import PairDataset
from metrics import Scorer, UndefinedScore
from utils.pictures import fusion_figure
from utils.planes import plane_of

NETWORK = "network"  # its name among the methods
METRICS = ("psnr", "ssim", "nmi")
PICTURED_SUBJECTS = 2
RELEASED_SCORE = {"psnr": 0.1, "ssim": 1, "nmi": 1, "mi": 1, "fsim": 1}  # of the published protocol

Fuse = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Scores = dict[str, tuple[float, float, int]]  # score: mean, standard deviation, subjects

# What chooses `best.pt`. The smaller one of the two sources' mean SSIM cannot be won by a copy of
# one source, which is perfect for that source and poor for the other; the released sum can.
BEST_BY: dict[str, Callable[[Scores], float]] = {
    "ssim-min": lambda scores: min(scores["ssim_mri"][0], scores["ssim_pet"][0]),
    "released": lambda scores: scores["released"][0],
    # Of a registration, see `training.registration`.
    "similarity": lambda scores: scores["similarity"][0],
    "dice": lambda scores: scores["dice"][0],
}


@dataclass(frozen=True)
class Example:
    """One subject to look at: (X, Y, Z) arrays."""

    subject: str
    mri: np.ndarray
    pet: np.ndarray
    fused: np.ndarray

    tag = "fusion"
    words = "MRI, PET and fused, one window [0, 1]."

    def figure(self, title: str) -> Figure:
        """MRI, PET, fused and colour in three planes."""
        return fusion_figure(self.mri, self.pet, self.fused, title=title)

    def strip(self) -> np.ndarray:
        """The axial plane through the middle of the MRI's head: MRI, PET and fused in a row."""
        filled = np.flatnonzero((self.mri > 0).any(axis=(0, 1)))
        middle = int(filled.mean()) if filled.size else self.mri.shape[2] // 2
        volumes = self.mri, self.pet, self.fused
        return np.hstack([plane_of(volume, 2, (0, 0, middle)) for volume in volumes])


@dataclass
class Validation:
    """What was found on some subjects.

    Attributes:
        rows: (method, scores) of each method on each subject.
        examples: the first subjects, fused by the network.
        not_finite: the subject that the network made NaN or infinite; the later ones are missing.
    """

    rows: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    not_finite: str | None = None


@torch.no_grad()
def validate(
    fuse: Fuse,
    pairs: PairDataset,
    indices: Iterable[int],
    device: torch.device,
    best_by: str,
    beside: Mapping[str, Fuse],
) -> Validation:
    """Fuse and score whole volumes.

    Args:
        fuse: the network in eval mode, `(mri, pet) -> fused`, all (1, 1, D, H, W).
        pairs: the subjects, not augmented.
        indices: those to score, a process's share; may be a progress bar.
        device: where to fuse and score.
        best_by: in `BEST_BY`; "released" adds that score.
        beside: other methods to score, by name.
    """
    found = Validation()
    for index in indices:
        item = pairs[0, index]
        mri, pet = (item[key][None].to(device) for key in ("mri", "pet"))  # 1, 1, D, H, W
        fused = fuse(mri, pet)[0, 0].float()  # D, H, W
        if not fused.isfinite().all():
            found.not_finite = item["name"]
            return found
        volumes = {NETWORK: fused}
        for name, method in beside.items():
            volumes[name] = method(mri, pet)[0, 0].float()
        score = build_scorer(mri[0, 0], pet[0, 0], best_by)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedScore)  # NaN does not count as a subject
            found.rows += [(name, score(volume)) for name, volume in volumes.items()]
        if index < PICTURED_SUBJECTS:
            volumes = (volume.cpu().numpy() for volume in (mri[0, 0], pet[0, 0], fused))
            found.examples.append(Example(item["name"], *volumes))
    return found


def build_scorer(
    mri: torch.Tensor, pet: torch.Tensor, best_by: str
) -> Callable[[torch.Tensor], dict[str, float]]:
    """Scores of a fused volume against its sources, all (D, H, W).

    Args:
        best_by: "released" adds the released sum as the score "released".
    """
    volume = Scorer(mri, pet, names=METRICS)
    if best_by != "released":
        return volume
    published = Scorer(mri, pet, protocol="published")

    def score(fused: torch.Tensor) -> dict[str, float]:
        terms = published(fused)
        released = sum(weight * terms[name] for name, weight in RELEASED_SCORE.items())
        return volume(fused) | {"released": released}

    return score


def summarise(rows: Sequence[tuple[str, dict[str, float]]]) -> dict[str, Scores]:
    """{method: scores}: mean, population standard deviation and number of subjects of each score.

    NaN does not count as a subject.
    """
    columns: dict[str, dict[str, list[float]]] = {}
    for method, row in rows:
        for name, value in row.items():
            column = columns.setdefault(method, {}).setdefault(name, [])
            if not math.isnan(value):
                column.append(value)
    summaries = {}
    for method, scores in columns.items():
        summaries[method] = {name: _summary(values) for name, values in scores.items()}
    return summaries


def _summary(values: list[float]) -> tuple[float, float, int]:
    finite = all(map(math.isfinite, values))
    mean = statistics.fmean(values) if values else math.nan
    sd = statistics.pstdev(values) if values and finite else math.nan
    return mean, sd, len(values)
