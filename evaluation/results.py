"""The scores of one protocol as the tables show them: rows, columns, cells and their ranks.

Among the rows that have a finite mean over all participants, the best printed value of a column is
ranked 1 and the second 2; equal printed values share a rank. A copy of a source is never ranked: it
is perfect for that source, so that a score that averages over sources may reward it. Neither are
the metrics without a reference, which noise and contrast stretching raise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.subjects import Subject
from evaluation.scorebook import ScoreBook
from metrics import ALL_METRICS, keys_of
from utils.errors import InputError

LESIONS = "Lesion transfer"
WITHOUT_REFERENCE = "Without a reference (not ranked)"
# The metrics that are printed together, and corrected together by Holm.
GROUPS = {
    "The columns of the paper's Table 1": ("psnr", "ssim", "nmi", "fsim"),
    "Intensities": ("psnr_pooled", "ms_ssim", "cc", "scd"),
    "Information": ("mi", "mi_bits", "q_mi", "ncie"),
    "Features": ("fsim_standard", "fmi_pixel", "fmi_gradient", "fmi_edge"),
    "Edges and visual information": ("qabf", "vif", "viff", "piella_qw"),
    LESIONS: ("transfer",),
    WITHOUT_REFERENCE: ("en", "sd", "sf", "ag", "clipped"),
}
COPY_DB = 60.0  # PSNR to one source from which a fused volume counts as its copy
METRIC_OF = {
    key: name for name in ALL_METRICS for key in keys_of(name)
}  # in the order of ALL_METRICS


@dataclass(frozen=True)
class Row:
    """A method in the tables: label in `scores.csv`, title, and whether it is a trivial fusion."""

    label: str
    title: str
    is_trivial: bool


class Results:
    """The scores of one protocol.

    Args:
        protocol: "volume" or "published".
        rows: the methods in the order of the tables.
        values: {label: {key: one score for each participant}}, see `ScoreBook.values`.
        about: one line that says what was scored and how.

    Attributes:
        keys: the keys that every row has, in the order of ALL_METRICS.
        n: number of participants.
        copies: labels of the rows that copy a source.
    """

    def __init__(
        self, protocol: str, rows: Sequence[Row], values: Mapping[str, Mapping], about: str
    ) -> None:
        self.protocol, self.rows, self.about = protocol, list(rows), about
        self.values: dict[str, dict[str, np.ndarray]] = {}
        for label, scores in values.items():
            self.values[label] = {key: np.asarray(score) for key, score in scores.items()}
        common = set.intersection(*map(set, self.values.values()))
        self.keys = [key for key in METRIC_OF if key in common]
        self.n = len(self.values[rows[0].label][self.keys[0]])
        self.copies = {row.label for row in rows if self._is_copy(row.label)}

    def _is_copy(self, label: str) -> bool:
        scores = self.values[label]
        for key in ("psnr_mri", "psnr_pet"):
            if key in scores and (scores[key] > COPY_DB).all():
                return True
        return label == "copy-mri"  # also where PSNR was not scored

    def known(self, label: str, key: str) -> np.ndarray:
        """A row's scores that are not NaN."""
        values = self.values[label][key]
        return values[~np.isnan(values)]

    def mean(self, label: str, key: str) -> float:
        """Mean of the scores that are not NaN; infinite where one is."""
        known = self.known(label, key)
        return float(known.mean()) if known.size else math.nan

    def groups(self) -> dict[str, list[str]]:
        """{title: keys} of the tables: values over both sources, then the minima over them."""
        found = {}
        for title, names in GROUPS.items():
            keys = [name for name in names if name in self.keys]
            if title == LESIONS:  # what one source's mean hides is the point of it
                keys = [f"{name}_{side}" for name in keys for side in ("mri", "pet")]
            keys += [f"{name}_min" for name in names if f"{name}_min" in self.keys]
            if keys:
                found[title] = keys
        return found

    def undefined(self, label: str) -> dict[str, int]:
        """{metric: how many participants it has no value for} of a row."""
        counts = {}
        for key in self.keys:
            missing = self.n - self.known(label, key).size
            if missing:
                counts[METRIC_OF[key]] = missing
        return counts


def collect(
    book: ScoreBook,
    subjects: Sequence[Subject],
    rows: Sequence[Row],
    protocols: Sequence[str],
    describe: Callable[[str], str],
) -> tuple[list[str], list[Results]]:
    """The subjects that every row was scored on, and their results by each protocol.

    Args:
        describe: what a protocol scored, in one line.

    Raises:
        InputError: there is no such subject.
    """
    labels = [row.label for row in rows]
    complete = book.complete(protocols, labels, [subject.name for subject in subjects])
    if not complete:
        raise InputError("--data", "no subject was scored by every method", "see the errors above")
    participants: dict[str, list[str]] = {}
    for subject in subjects:
        if subject.name in complete:
            participants.setdefault(subject.group, []).append(subject.name)
    results = []
    for protocol in protocols:
        values = book.values(protocol, labels, participants)
        results.append(Results(protocol, rows, values, describe(protocol)))
    return complete, results


@dataclass(frozen=True)
class Cell:
    """What a table prints: text without marks, and the rank, 1 or 2, or None."""

    text: str
    rank: int | None = None


def digits(key: str) -> int:
    """Decimals of a score: three as in the paper, four for NCIE, whose scale is narrow."""
    return 4 if key.startswith("ncie") else 3


def heading(key: str) -> str:
    """A column's title with its direction."""
    metric = ALL_METRICS[METRIC_OF[key]]
    arrow = "↑" if metric.direction == "higher" else "↓"
    for part, title in (("_min", "min"), ("_mri", "MRI"), ("_pet", "PET")):
        if key.endswith(part):
            return f"{metric.title} {title} {arrow}"
    if metric.combine == "sum":
        return f"{metric.title} sum {arrow}"
    return f"{metric.title} {arrow}"


def column(results: Results, key: str) -> list[Cell]:
    """The cells of one score, one for each row."""
    ranks = _ranks(results, key)
    cells = []
    for row in results.rows:
        known = results.known(row.label, key)
        text = _cell_text(known, digits(key))
        if known.size < results.n:
            text += f" (n={known.size})"
        cells.append(Cell(text, ranks.get(row.label)))
    return cells


def _ranks(results: Results, key: str) -> dict[str, int]:
    """{label: 1 or 2} of the rows with the best and the second printed mean."""
    name = METRIC_OF[key]
    if name in GROUPS[WITHOUT_REFERENCE]:
        return {}
    printed = {}
    for row in results.rows:
        values = results.values[row.label][key]
        if row.label not in results.copies and np.isfinite(values).all():
            printed[row.label] = round(float(values.mean()), digits(key))
    order = sorted(set(printed.values()), reverse=ALL_METRICS[name].direction == "higher")
    return {label: order.index(mean) + 1 for label, mean in printed.items() if mean in order[:2]}


def _cell_text(values: np.ndarray, places: int) -> str:
    if not values.size:
        return "–"
    infinite = np.isinf(values)
    if not infinite.any():
        return f"{values.mean():.{places}f}±{values.std():.{places}f}"
    return "∞" if (values == np.inf).all() else f"∞ in {infinite.sum()}"


def selection_scores(results: Results) -> dict[str, float]:
    """{label: the smaller mean SSIM, to MRI or PET}, the score that chooses `best.pt`."""
    if "ssim_mri" not in results.keys:
        return {}
    chosen = {}
    for row in results.rows:
        chosen[row.label] = min(
            results.mean(row.label, "ssim_mri"), results.mean(row.label, "ssim_pet")
        )
    return chosen
