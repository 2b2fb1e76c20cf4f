"""`table.md` and `table.tex`, like the paper's Table 1: best bold, second underlined."""

from collections.abc import Callable, Sequence
from pathlib import Path

from evaluation.results import COPY_DB, Cell, Results, column, heading, selection_scores
from evaluation.scorebook import write_text
from metrics import ALL_METRICS

PAPER = (
    "Printed in the paper's Table 1 (arXiv 2310.06291): ADNI, other subjects, no row above is "
    "comparable with it"
)
PAPER_COLUMNS = ("PSNR", "SSIM", "NMI", "FMI (as the paper calls it)")
PAPER_ROWS = {
    "SwinFuse (2D)": ("14.102±1.490", "0.623±0.020", "1.275±0.019", "0.817±0.009"),
    "MATR (2D)": ("15.997±1.190", "0.658±0.035", "1.451±0.009", "0.795±0.018"),
    "DILRAN (2D)": ("19.028±0.821", "0.690±0.033", "1.301±0.015", "0.806±0.019"),
    "DC2Fusion (3D)": ("20.714±1.377", "0.718±0.033", "1.312±0.012", "0.807±0.020"),
}


def notes(results: Results) -> list[str]:
    """The rules of the tables and what is missing in them, one sentence each."""
    lines = [
        f"{results.about} Mean ± population standard deviation (ddof = 0) over n = {results.n} "
        "participants; a cell with fewer valid scores says so and is not ranked.",
        "Best printed mean bold, second underlined, among all rows but copies of a source (‡: PSNR "
        f"to one source above {COPY_DB:g} dB), which an average over sources may reward without "
        "any fusion.",
        "Without a mark a column is the mean over MRI and PET; `min` is each participant's worse "
        "source.",
    ]
    missing = []
    for row in results.rows:
        counts = []
        for name, count in results.undefined(row.label).items():
            if name == "transfer":  # not the formula's fault
                continue
            counts.append(f"{ALL_METRICS[name].title} ({count} of {results.n})")
        if counts:
            missing.append(f"{row.title}: {', '.join(counts)}")
    if missing:
        lines.append(f"No value, because the formula has none for the input: {'; '.join(missing)}.")
    return lines


def _body(results: Results, keys: Sequence[str], mark: Callable[[Cell], str]) -> list[list[str]]:
    """A table's rows: the method's title, then its cells."""
    columns = [column(results, key) for key in keys]
    rows = []
    for i, row in enumerate(results.rows):
        title = f"{row.title} ‡" if row.label in results.copies else row.title
        rows.append([title, *(mark(cells[i]) for cells in columns)])
    return rows


# Markdown ----------------------------------------------------------------------------------------


def markdown(all_results: Sequence[Results]) -> str:
    """`table.md`."""
    lines = ["# Scores", ""]
    for results in all_results:
        lines += [f"## Protocol: {results.protocol}", ""]
        lines += [f"{line}  " for line in notes(results)]
        lines.append("")
        for title, keys in results.groups().items():
            header = ["Method", *map(heading, keys)]
            body = _body(results, keys, _markdown_mark)
            lines += [f"### {title}", "", *markdown_table(header, body), ""]
        lines += _markdown_extra(results)
    return "\n".join(lines)


def _markdown_extra(results: Results) -> list[str]:
    """What stands below the tables of a protocol."""
    if results.protocol == "published":
        rows = [[name, *cells] for name, cells in PAPER_ROWS.items()]
        return [f"### {PAPER}", "", *markdown_table(["Method", *PAPER_COLUMNS], rows), ""]
    chosen = selection_scores(results)
    if not chosen:
        return []
    header = ["Method", "min(mean SSIM to MRI, mean SSIM to PET)"]
    rows = [[row.title, f"{chosen[row.label]:.3f}"] for row in results.rows]
    return ["### The score that chooses best.pt", "", *markdown_table(header, rows), ""]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, all columns but the first flush right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    lines = []
    for row in [header, rule, *rows]:
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _markdown_mark(cell: Cell) -> str:
    marked = {1: f"**{cell.text}**", 2: f"<u>{cell.text}</u>"}
    return marked.get(cell.rank, cell.text)


# LaTeX -------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "³": "$^3$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "‡": r"$\ddagger$",
}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex(all_results: Sequence[Results]) -> str:
    """`table.tex`: tables to \\input into a paper that loads booktabs."""
    lines = ["% needs \\usepackage{booktabs}", ""]
    for results in all_results:
        for title, keys in results.groups().items():
            about = f"{results.about} {_short_notes(results)}"
            caption = f"{title}, {results.protocol} protocol. {about}"
            header = ["Method", *map(heading, keys)]
            lines += _latex_table(caption, header, _body(results, keys, _latex_mark))
        if results.protocol == "published":
            rows = [[name, *map(escape, cells)] for name, cells in PAPER_ROWS.items()]
            lines += _latex_table(PAPER, ["Method", *PAPER_COLUMNS], rows)
    return "\n".join(lines)


def _latex_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose cells, but not its caption, header and first column, are LaTeX already."""
    body = []
    for first, *cells in rows:
        body.append(" & ".join([escape(first), *cells]) + r" \\")
    return [
        r"\begin{table*}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape, header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
        "",
    ]


def _short_notes(results: Results) -> str:
    return (
        f"Mean ± population standard deviation (ddof = 0) over n = {results.n} participants; best "
        "bold, second underlined; copies of a source (‡) are not ranked."
    )


def _latex_mark(cell: Cell) -> str:
    # \bm would need a package, and a bold \pm adds nothing.
    text = escape(cell.text)
    marked = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}
    return marked.get(cell.rank, text)


def escape(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def write_tables(folder: Path, all_results: Sequence[Results]) -> None:
    """Write `table.md` and `table.tex`.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_text(folder / "table.md", markdown(all_results))
    write_text(folder / "table.tex", latex(all_results))
