"""The tables of an evaluation: `table.md` and `table.tex` like the paper's Table 1, and the paired
statistics.

Ranking: among the rows that have a finite mean over all participants, the best printed value of a
    column is
bold and the second underlined; equal printed values share a rank. A copy of a source is never
ranked: it is perfect for that source, so that a score that averages over sources may reward it.
Neither are the metrics without a reference, which noise and contrast stretching raise.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from evaluation.scorebook import csv_text, source_of, write_text
from evaluation.statistics import LEAST_FOR_SIGNIFICANCE, Comparison, compare, holm
from metrics import METRICS, keys_of

# The metrics that are printed together, and corrected together by Holm.
GROUPS = {
    "The columns of the paper's Table 1": ("psnr", "ssim", "nmi", "fsim"),
    "Intensities": ("psnr_pooled", "ms_ssim", "cc", "scd"),
    "Information": ("mi", "mi_bits", "q_mi", "ncie"),
    "Features": ("fsim_standard", "fmi_pixel", "fmi_gradient", "fmi_edge"),
    "Edges and visual information": ("qabf", "vif", "viff", "piella_qw"),
    "Without a reference (not ranked)": ("en", "sd", "sf", "ag", "clipped"),
}
UNRANKED = GROUPS["Without a reference (not ranked)"]
PRIMARY = {
    "volume": ("psnr_pooled", "ssim_min", "vif", "piella_qw"),
    "published": ("psnr", "ssim", "nmi", "fsim"),
}
COPY_DB = 60.0  # PSNR to one source from which a fused volume counts as its copy
PAPER = "Printed in the paper's Table 1 (arXiv 2310.06291): ADNI, other subjects, no row above is comparable with it"
PAPER_COLUMNS = ("PSNR", "SSIM", "NMI", "FMI (as the paper calls it)")
PAPER_ROWS = {
    "SwinFuse (2D)": ("14.102±1.490", "0.623±0.020", "1.275±0.019", "0.817±0.009"),
    "MATR (2D)": ("15.997±1.190", "0.658±0.035", "1.451±0.009", "0.795±0.018"),
    "DILRAN (2D)": ("19.028±0.821", "0.690±0.033", "1.301±0.015", "0.806±0.019"),
    "DC2Fusion (3D)": ("20.714±1.377", "0.718±0.033", "1.312±0.012", "0.807±0.020"),
}
FEW = (
    f"Fewer than {LEAST_FOR_SIGNIFICANCE} participants: the smallest p that the two-sided signed-rank test can give "
    "is above 0.05, so nothing here can be significant."
)


@dataclass(frozen=True)
class Row:
    """A method in the tables: its label in `scores.csv`, its title, and whether it is a trivial
    fusion.
    """

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
        keys: the keys of the scores, in the order of METRICS.
        n: number of participants.
        copies: labels of the rows that copy a source.
    """

    def __init__(
        self, protocol: str, rows: Sequence[Row], values: Mapping[str, Mapping], about: str
    ) -> None:
        self.protocol, self.rows, self.about = protocol, list(rows), about
        self.values = {
            label: {k: np.asarray(v) for k, v in scores.items()} for label, scores in values.items()
        }
        common = set.intersection(*(set(scores) for scores in self.values.values()))
        self.keys = [key for name in METRICS for key in keys_of(name) if key in common]
        self.n = len(self.values[rows[0].label][self.keys[0]])
        self.copies = {row.label for row in rows if self._is_copy(row.label)}

    def _is_copy(self, label: str) -> bool:
        scores = self.values[label]
        sources = [scores[key] for key in ("psnr_mri", "psnr_pet") if key in scores]
        return label == "copy-mri" or any(bool((psnr > COPY_DB).all()) for psnr in sources)

    def mean(self, label: str, key: str) -> float:
        """Mean of the scores that are not NaN; infinite where one is."""
        values = self.values[label][key]
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else math.nan


@dataclass(frozen=True)
class Cell:
    """What a table prints: text without marks, and the rank, 1 or 2, or None."""

    text: str
    rank: int | None = None


def digits(key: str) -> int:
    """Decimals of a score: three as in the paper, four for NCIE, whose scale is narrow."""
    return 4 if key.startswith("ncie") else 3


def column(results: Results, key: str) -> list[Cell]:
    """The cells of one score, one for each row."""
    texts, rankable = [], {}
    for i, row in enumerate(results.rows):
        values = results.values[row.label][key]
        known = values[~np.isnan(values)]
        texts.append(
            _cell_text(known, digits(key))
            + ("" if known.size == results.n else f" (n={known.size})")
        )
        if known.size == results.n and np.isfinite(known).all() and row.label not in results.copies:
            rankable[i] = round(float(known.mean()), digits(key))
    name = _metric_of(key)
    if name in UNRANKED:
        rankable = {}
    order = sorted(set(rankable.values()), reverse=METRICS[name].direction == "higher")[:2]
    ranks = {i: order.index(value) + 1 for i, value in rankable.items() if value in order}
    return [Cell(text, ranks.get(i)) for i, text in enumerate(texts)]


def _cell_text(values: np.ndarray, places: int) -> str:
    if not values.size:
        return "–"
    if np.isinf(values).any():
        return "∞" if (values == np.inf).all() else f"∞ in {np.isinf(values).sum()}"
    return f"{values.mean():.{places}f}±{values.std():.{places}f}"


def _metric_of(key: str) -> str:
    return next(name for name in METRICS if key in keys_of(name))


def table_keys(results: Results, names: Sequence[str]) -> list[str]:
    """The columns of a group: the values over both sources, then the minima over the sources."""
    keys = [name for name in names if name in results.keys]
    return keys + [f"{name}_min" for name in keys if f"{name}_min" in results.keys]


def heading(key: str) -> str:
    """A column's title with its direction."""
    metric = METRICS[_metric_of(key)]
    arrow = "↑" if metric.direction == "higher" else "↓"
    part = " min" if key.endswith("_min") else " sum" if metric.combine == "sum" else ""
    return f"{metric.title}{part} {arrow}"


def _groups(results: Results) -> Iterator[tuple[str, list[str]]]:
    """(title, keys) of the groups that have scores."""
    for title, names in GROUPS.items():
        keys = table_keys(results, names)
        if keys:
            yield title, keys


def selection_scores(results: Results) -> dict[str, float]:
    """{label: smaller of the mean SSIM to the MRI and to the PET}, the score that chooses
    `best.pt`.
    """
    if "ssim_mri" not in results.keys:
        return {}
    return {
        row.label: min(results.mean(row.label, f"ssim_{s}") for s in ("mri", "pet"))
        for row in results.rows
    }


def notes(results: Results) -> list[str]:
    """The rules of the tables and what is missing in them, one sentence each."""
    lines = [
        f"{results.about} Mean ± population standard deviation (ddof = 0) over n = {results.n} participants; a cell "
        "with fewer valid scores says so and is not ranked.",
        "Best printed mean bold, second underlined, among all rows but copies of a source (‡: PSNR to one source "
        f"above {COPY_DB:g} dB), which an average over sources may reward without any fusion.",
        "Without a mark a column is the mean over MRI and PET; `min` is each participant's worse source.",
    ]
    missing = []
    for row in results.rows:
        bad = {key: int(np.isnan(results.values[row.label][key]).sum()) for key in results.keys}
        bad = {_metric_of(key): count for key, count in bad.items() if count}
        if bad:
            names = ", ".join(
                f"{METRICS[name].title} ({count} of {results.n})" for name, count in bad.items()
            )
            missing.append(f"{row.title}: {names}")
    if missing:
        lines.append(f"No value, because the formula has none for the input: {'; '.join(missing)}.")
    return lines


# Markdown ----------------------------------------------------------------------------------------


def _markdown_mark(cell: Cell) -> str:
    return {1: f"**{cell.text}**", 2: f"<u>{cell.text}</u>"}.get(cell.rank, cell.text)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _body(results: Results, keys: Sequence[str], mark: Callable[[Cell], str]) -> list[list[str]]:
    """A table's rows: the method's title, then its cells."""
    columns = [column(results, key) for key in keys]
    titles = [row.title + (" ‡" if row.label in results.copies else "") for row in results.rows]
    return [[title, *(mark(cells[i]) for cells in columns)] for i, title in enumerate(titles)]


def markdown(all_results: Sequence[Results]) -> str:
    """`table.md`."""
    lines = ["# Scores", ""]
    for results in all_results:
        lines += [
            f"## Protocol: {results.protocol}",
            "",
            *(line + "  " for line in notes(results)),
            "",
        ]
        for title, keys in _groups(results):
            table = _markdown_table(
                ["Method", *map(heading, keys)], _body(results, keys, _markdown_mark)
            )
            lines += [f"### {title}", "", *table, ""]
        if results.protocol == "published":
            rows = [[name, *cells] for name, cells in PAPER_ROWS.items()]
            lines += [f"### {PAPER}", "", *_markdown_table(["Method", *PAPER_COLUMNS], rows), ""]
        chosen = selection_scores(results) if results.protocol == "volume" else {}
        if chosen:
            rows = [[row.title, f"{chosen[row.label]:.3f}"] for row in results.rows]
            header = ["Method", "min(mean SSIM to MRI, mean SSIM to PET)"]
            lines += ["### The score that chooses best.pt", "", *_markdown_table(header, rows), ""]
    return "\n".join(lines)


# LaTeX -------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "³": "$^3$",
}
_LATEX |= {
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "‡": r"$\ddagger$",
}
_LATEX |= {character: "\\" + character for character in "&%$#_{}"}


def escape(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_mark(cell: Cell) -> str:
    # \bm would need a package, and a bold \pm adds nothing.
    text = escape(cell.text)
    return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank, text)


def _short_notes(results: Results) -> str:
    return (
        f"Mean ± population standard deviation (ddof = 0) over n = {results.n} participants; best bold, second "
        "underlined; copies of a source (‡) are not ranked."
    )


def _latex_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose cells are LaTeX already."""
    body = [" & ".join(row) + r" \\" for row in rows]
    return [
        r"\begin{table*}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
        "",
    ]


def latex(all_results: Sequence[Results]) -> str:
    """`table.tex`: tables to \\input into a paper that loads booktabs."""
    lines = ["% needs \\usepackage{booktabs}", ""]
    for results in all_results:
        for title, keys in _groups(results):
            caption = escape(
                f"{title}, {results.protocol} protocol. {results.about} {_short_notes(results)}"
            )
            body = [[escape(first), *cells] for first, *cells in _body(results, keys, _latex_mark)]
            lines += _latex_table(
                caption, ["Method", *(escape(heading(key)) for key in keys)], body
            )
        if results.protocol == "published":
            rows = [[escape(name), *map(escape, cells)] for name, cells in PAPER_ROWS.items()]
            lines += _latex_table(escape(PAPER), ["Method", *map(escape, PAPER_COLUMNS)], rows)
    return "\n".join(lines)


# Statistics --------------------------------------------------------------------------------------

STATISTICS_COLUMNS = (
    "protocol", "metric", "source", "method_a", "method_b", "n", "mean_difference", "median_difference", "ci95_low",
    "ci95_high", "interval", "hodges_lehmann", "rank_biserial", "wilcoxon_w", "p", "p_holm", "family",
)  # fmt: skip
STATISTICS_HEADER = (
    "Score", "a", "b", "n", "mean a - b", "95 % interval", "Hodges-Lehmann", "rank-biserial", "p", "p Holm",
)  # fmt: skip


@dataclass(frozen=True)
class Pairing:
    """The comparison of two rows by one score, a - b, with the p value corrected within its family."""

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
    for title, keys in _groups(results):
        places = [(key, a, b) for key in keys for a, b in pairs]
        outcomes = [
            compare(results.values[a.label][key], results.values[b.label][key])
            for key, a, b in places
        ]
        corrected = holm([outcome.p for outcome in outcomes])
        found += [
            Pairing(*w, o, float(p), title)
            for w, o, p in zip(places, outcomes, corrected, strict=True)
        ]
    return found


def statistics_csv(all_pairings: Mapping[str, Sequence[Pairing]]) -> str:
    """`statistics.csv` of {protocol: pairings}; NaN where there is nothing to compare."""
    rows = []
    for protocol, found in all_pairings.items():
        for pairing in found:
            c, name = pairing.comparison, _metric_of(pairing.key)
            numbers = [c.mean_difference, c.median_difference, c.low, c.high]
            last = [c.shift, c.rank_biserial, c.statistic, c.p, pairing.p_holm]
            where = [
                protocol,
                name,
                source_of(name, pairing.key),
                pairing.a.label,
                pairing.b.label,
                c.n,
            ]
            rows.append(
                [
                    *where,
                    *(f"{v:.6g}" for v in numbers),
                    c.interval,
                    *(f"{v:.6g}" for v in last),
                    pairing.family,
                ]
            )
    return csv_text(STATISTICS_COLUMNS, rows)


def statistics_markdown(
    all_results: Sequence[Results], all_pairings: Mapping[str, Sequence[Pairing]]
) -> str:
    """`statistics.md`: the primary scores of each protocol."""
    lines = ["# Paired statistics", ""]
    for results in all_results:
        tested = all_pairings[results.protocol]
        lines += [f"## Protocol: {results.protocol}, n = {results.n} participants", ""]
        if results.n < LEAST_FOR_SIGNIFICANCE:
            lines += [FEW, ""]
        primary = [pairing for pairing in tested if pairing.key in PRIMARY[results.protocol]]
        lines += _markdown_table(
            STATISTICS_HEADER, [_statistics_row(pairing) for pairing in primary]
        )
        lines.append("")
    lines.append(
        "Two-sided Wilcoxon signed-rank test; Holm's correction over all comparisons of a group of metrics in one "
        "protocol. Interval of the mean difference by 10 000 bootstrap resamples of the participants, BCa from 20 "
        "participants on, else percentile. Only the scores declared as primary are shown; all are in statistics.csv. "
        "Pairs with an infinite or missing score are left out, n says how many remain."
    )
    return "\n".join(lines) + "\n"


def _statistics_row(pairing: Pairing) -> list[str]:
    c, first = (
        pairing.comparison,
        [heading(pairing.key), pairing.a.title, pairing.b.title, str(pairing.comparison.n)],
    )
    if not c.n:
        return first + ["–"] * 6
    places = digits(pairing.key)
    numbers = f"{c.mean_difference:+.{places}f}", f"{c.low:+.{places}f} .. {c.high:+.{places}f}"
    effects = (
        f"{c.shift:+.{places}f}",
        f"{c.rank_biserial:+.2f}",
        f"{c.p:.3g}",
        f"{pairing.p_holm:.3g}",
    )
    return [*first, *numbers, *effects]


def write_tables(folder: Path, all_results: Sequence[Results]) -> None:
    """Write `table.md`, `table.tex`, `statistics.csv` and `statistics.md`.

    Raises:
        InputError: the folder cannot be written to.
    """
    all_pairings = {results.protocol: pairings(results) for results in all_results}
    write_text(folder / "table.md", markdown(all_results))
    write_text(folder / "table.tex", latex(all_results))
    write_text(folder / "statistics.csv", statistics_csv(all_pairings))
    write_text(folder / "statistics.md", statistics_markdown(all_results, all_pairings))
