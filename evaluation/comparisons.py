"""Every two rows of an evaluation compared on the same participants, as CSV and as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from evaluation.results import METRIC_OF, Results, Row, digits, heading
from evaluation.scorebook import csv_text, source_of, write_text
from evaluation.statistics import LEAST_FOR_SIGNIFICANCE, Comparison, compare, holm
from evaluation.tables import markdown_table

PRIMARY = {
    "volume": ("psnr_pooled", "ssim_min", "vif", "piella_qw"),
    "published": ("psnr", "ssim", "nmi", "fsim"),
}
COLUMNS = (
    "protocol", "metric", "source", "method_a", "method_b", "n", "mean_difference",
    "median_difference", "ci95_low", "ci95_high", "interval", "hodges_lehmann", "rank_biserial",
    "wilcoxon_w", "p", "p_holm", "family",
)  # fmt: skip
HEADER = (
    "Score", "a", "b", "n", "mean a - b", "95 % interval", "Hodges-Lehmann", "rank-biserial", "p",
    "p Holm",
)  # fmt: skip
FEW = (
    f"Fewer than {LEAST_FOR_SIGNIFICANCE} participants: the smallest p that the two-sided "
    "signed-rank test can give is above 0.05, so nothing here can be significant."
)
METHOD = (
    "Two-sided Wilcoxon signed-rank test; Holm's correction over all comparisons of a group of "
    "metrics in one protocol. Interval of the mean difference by 10 000 bootstrap resamples of the "
    "participants, BCa from 20 participants on, else percentile. Only the scores declared as "
    "primary are shown; all are in statistics.csv. Pairs with an infinite or missing score are "
    "left out, n says how many remain."
)


@dataclass(frozen=True)
class Pairing:
    """Two rows compared by one score, a - b; p_holm is corrected within the family."""

    key: str
    a: Row
    b: Row
    comparison: Comparison
    p_holm: float
    family: str


def pairings(results: Results) -> list[Pairing]:
    """All comparisons of two rows, but those of two trivial ones, by each column of the tables.

    Holm's correction goes over all comparisons of one group of metrics.
    """
    pairs = [
        (a, b) for a, b in combinations(results.rows, 2) if not (a.is_trivial and b.is_trivial)
    ]
    found = []
    for family, keys in results.groups().items():
        outcomes = []
        for key in keys:
            for a, b in pairs:
                scores_a, scores_b = results.values[a.label][key], results.values[b.label][key]
                outcomes.append((key, a, b, compare(scores_a, scores_b)))
        corrected = holm([comparison.p for *_, comparison in outcomes])
        for outcome, p in zip(outcomes, corrected, strict=True):
            found.append(Pairing(*outcome, float(p), family))
    return found


def statistics_csv(all_pairings: Mapping[str, Sequence[Pairing]]) -> str:
    """`statistics.csv`: every comparison, {protocol: its pairings}."""
    rows = []
    for protocol, found in all_pairings.items():
        rows += [_csv_row(protocol, pairing) for pairing in found]
    return csv_text(COLUMNS, rows)


def _csv_row(protocol: str, pairing: Pairing) -> list:
    c, name = pairing.comparison, METRIC_OF[pairing.key]
    where = [protocol, name, source_of(name, pairing.key), pairing.a.label, pairing.b.label, c.n]
    differences = [c.mean_difference, c.median_difference, c.low, c.high]
    tests = [c.shift, c.rank_biserial, c.statistic, c.p, pairing.p_holm]
    differences = [f"{value:.6g}" for value in differences]
    tests = [f"{value:.6g}" for value in tests]
    return [*where, *differences, c.interval, *tests, pairing.family]


def statistics_markdown(
    all_results: Sequence[Results], all_pairings: Mapping[str, Sequence[Pairing]]
) -> str:
    """`statistics.md`: the primary scores of each protocol."""
    lines = ["# Paired statistics", ""]
    for results in all_results:
        lines += [f"## Protocol: {results.protocol}, n = {results.n} participants", ""]
        if results.n < LEAST_FOR_SIGNIFICANCE:
            lines += [FEW, ""]
        rows = []
        for pairing in all_pairings[results.protocol]:
            if pairing.key in PRIMARY[results.protocol]:
                rows.append(_markdown_row(pairing))
        lines += [*markdown_table(HEADER, rows), ""]
    return "\n".join([*lines, METHOD]) + "\n"


def _markdown_row(pairing: Pairing) -> list[str]:
    c, places = pairing.comparison, digits(pairing.key)
    first = [heading(pairing.key), pairing.a.title, pairing.b.title, str(c.n)]
    if not c.n:
        return first + ["–"] * 6
    return [
        *first,
        f"{c.mean_difference:+.{places}f}",
        f"{c.low:+.{places}f} .. {c.high:+.{places}f}",
        f"{c.shift:+.{places}f}",
        f"{c.rank_biserial:+.2f}",
        f"{c.p:.3g}",
        f"{pairing.p_holm:.3g}",
    ]


def write_statistics(folder: Path, all_results: Sequence[Results]) -> None:
    """Write `statistics.csv` and `statistics.md`.

    Raises:
        InputError: the folder cannot be written to.
    """
    all_pairings = {results.protocol: pairings(results) for results in all_results}
    write_text(folder / "statistics.csv", statistics_csv(all_pairings))
    write_text(folder / "statistics.md", statistics_markdown(all_results, all_pairings))
