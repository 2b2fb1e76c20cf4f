"""`report.html` of a run: one file without network, written anew after every validation.

Curves of the loss and of the scores beside the average's, pictures of the same slices over the
epochs, and what to do next. All of it comes from the run's tables and from `pictures/`, so that a
run that goes on has what was there before.
"""

import base64
import csv
import html
import io
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from training.config import TrainConfig
from training.hyperparameters import FUSION, REGISTRATION, SLICES
from training.registration import BEFORE, RegistrationExample
from training.validation import Example
from utils.files import replacing
from utils.text import natural_key

REPORT, PICTURES = "report.html", "pictures"
REMEDY = "free space, then --resume"
SHOWN = 12  # epochs of a subject, the first and the last among them
AVERAGE, COPY = "average", "copy-mri"
_PICTURE = re.compile(r"epoch-(\d+)\.png")
MOST_FOLDED = 0.01  # of the voxels
_STALLED = 10  # validations without a better score
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.1rem .8rem;border-bottom:1px solid #ccc;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "figure{display:inline-block;margin:.3rem;text-align:center}figure img{height:11rem}"
    ".row{background:#111;color:#ddd}"
)

Row = Mapping[str, str]


def keep_picture(folder: Path, epoch: int, example: Example | RegistrationExample) -> None:
    """Keep one plane of a subject, see `Example.strip`.

    Raises:
        InputError: the file cannot be written.
    """
    path = folder / PICTURES / example.subject / f"epoch-{epoch:06d}.png"
    with replacing(path, REMEDY) as part:
        imsave(part, example.strip(), cmap="gray", vmin=0, vmax=1, format="png")


def drop_pictures(folder: Path, epoch: int) -> None:
    """Drop the pictures of epochs after `epoch`, left by an epoch that was not finished."""
    for path in (folder / PICTURES).glob("*/epoch-*.png"):
        match = _PICTURE.fullmatch(path.name)
        if match and int(match[1]) > epoch:
            path.unlink()


def write_report(folder: Path, config: TrainConfig) -> None:
    """Write the page of a run from what lies in its folder.

    Raises:
        InputError: the page cannot be written.
    """
    method, epochs = config.model, config.epochs  # `scores.csv` knows the network by its name
    look = LOOKS[config.kind]
    losses, scores = _table(folder / "losses.csv"), _table(folder / "scores.csv")
    done = int(losses[-1]["epoch"]) if losses else 0
    name = html.escape(folder.name)
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>',
        f"<style>{_STYLE}</style><h1>{name}</h1>",
        f"<p>{html.escape(method)}, epoch {done} of {epochs}; best.pt is chosen by "
        f"{html.escape(config.best_by)}.</p>",
        "<h2>What to do next</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in look.advice(folder, scores, method, epochs)),
        "</ul><h2>Scores of the last validation</h2>",
        _score_table(scores, (method, *look.beside)),
        "<h2>Curves</h2>",
        _image(_png(_curves(losses, scores, method, look)), "loss and scores over the epochs"),
        f"<h2>The same slice over the epochs</h2><p>{look.words}</p>",
        *_galleries(folder / PICTURES),
        "</html>\n",
    ]
    with replacing(folder / REPORT, REMEDY) as part:
        part.write_bytes("\n".join(parts).encode("utf-8", "replace"))


@dataclass(frozen=True)
class Look:
    """What the page of a kind of model shows.

    Attributes:
        beside: what the network is held against, by its name in `scores.csv`; the first one has
            curves.
        panels: {title: {score: in words}}.
        words: of the pictures.
        advice: `(folder, scores, method, epochs) -> lines`.
    """

    beside: tuple[str, ...]
    panels: dict[str, dict[str, str]]
    words: str
    advice: Callable[[Path, Sequence[Row], str, int], list[str]]


def registration_advice(folder: Path, scores: Sequence[Row], method: str, epochs: int) -> list[str]:
    """What the tables of a registration say to do next, a line each."""
    mine, before = _series(scores, method), _series(scores, BEFORE)
    if not mine:
        return ["no validation yet: wait for the first one"]
    lines = []
    for name, words in (("dice", "Dice"), ("similarity", "the similarity")):
        if name in mine and name in before:
            last = max(mine[name])
            gain = mine[name][last] - before[name][last]
            lines.append(f"{words} is {gain:+.3f} against the affine alignment")
    last = max(mine["folded"])
    if mine["folded"][last] > MOST_FOLDED:
        lines.append(
            f"{mine['folded'][last]:.2%} of the voxels are folded: raise --regulariser-weight, or "
            "train transmorph-diff"
        )
    if last < epochs:
        lines.append(f"the training goes on; after an interruption: --resume {folder}")
        return lines
    lines.append(f"use it: python prepare.py --space mni --warp {folder} ... (docs/prepare.md)")
    return lines


def advice(folder: Path, scores: Sequence[Row], method: str, epochs: int) -> list[str]:
    """What the tables say to do next, a line each."""
    mine = _series(scores, method)
    average = _series(scores, AVERAGE)
    smaller = _smaller(mine, "ssim")
    lines = []
    if not smaller:
        return ["no validation yet: wait for the first one"]
    last = max(smaller)
    reference = _smaller(average, "ssim")
    if reference and smaller[last] < max(reference.values()):
        lines.append(
            "the smaller SSIM is still below the average's: train on, or look at the pictures and "
            "at --lr"
        )
    elif reference:
        lines.append("the smaller SSIM is above the average's: the network is worth looking at")
    best = max(smaller, key=smaller.get)
    later = sum(epoch > best for epoch in smaller)
    if later >= _STALLED:
        lines.append(f"no better SSIM since epoch {best}, {later} validations ago")
    if last < epochs:
        lines.append(f"the training goes on; after an interruption: --resume {folder}")
        return lines
    lines.append(
        f"look at a pair: python infer_sigleImage.py --checkpoint {folder} --mri MRI --pet PET "
        "--page"
    )
    lines.append(f"score it: python evaluate.py --data DATA --methods mine={folder}")
    return lines


_OF_SOURCES = {
    metric.upper(): {f"{metric}_{source}": source for source in ("mri", "pet")}
    for metric in ("ssim", "psnr", "nmi")
}
_OF_HEADS = {
    "Dice": {"dice": ""},
    "similarity": {"similarity": ""},
    "folded voxels": {"folded": ""},
}
_FUSED = Look((AVERAGE, COPY), _OF_SOURCES, Example.words, advice)
LOOKS = {
    FUSION: _FUSED,
    SLICES: _FUSED,
    REGISTRATION: Look((BEFORE,), _OF_HEADS, RegistrationExample.words, registration_advice),
}


def _table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of the run, none where it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _series(scores: Sequence[Row], method: str) -> dict[str, dict[int, float]]:
    """{score: {epoch: mean}} of a method, as far as it is finite."""
    series: dict[str, dict[int, float]] = {}
    for row in scores:
        mean = float(row["mean"])
        if row["method"] == method and math.isfinite(mean):
            series.setdefault(row["score"], {})[int(row["epoch"])] = mean
    return series


def _smaller(series: Mapping[str, Mapping[int, float]], metric: str) -> dict[int, float]:
    """{epoch: the smaller one of a metric's means against MRI and PET}."""
    mri, pet = series.get(f"{metric}_mri", {}), series.get(f"{metric}_pet", {})
    return {epoch: min(mri[epoch], pet[epoch]) for epoch in mri if epoch in pet}


def _score_table(scores: Sequence[Row], methods: Sequence[str]) -> str:
    """The last means of every method, a row a score."""
    names = list(dict.fromkeys(row["score"] for row in scores))
    last = {(row["method"], row["score"]): row for row in scores}
    head = "".join(f"<th>{html.escape(other)}</th>" for other in methods)
    lines = [f"<table><tr><th></th>{head}</tr>"]
    for name in names:
        cells = []
        for other in methods:
            row = last.get((other, name))
            cells.append(f"<td>{float(row['mean']):.3f}</td>" if row else "<td></td>")
        lines.append(f"<tr><td>{html.escape(name)}</td>{''.join(cells)}</tr>")
    return "".join(lines) + "</table>"


def _curves(losses: Sequence[Row], scores: Sequence[Row], method: str, look: Look) -> Figure:
    """The total loss, and each panel's scores beside those of what the network is held against."""
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    against = look.beside[0]
    mine, reference = _series(scores, method), _series(scores, against)
    panels = _filled(look.panels, mine.keys() | reference.keys())
    first, *others = figure.subplots(1, 1 + len(panels))
    epochs = [int(row["epoch"]) for row in losses]
    first.plot(epochs, [float(row["loss/total"]) for row in losses], marker=".")
    first.set_title("loss")
    for axes, (title, lines) in zip(others, panels.items(), strict=True):
        for (score, words), colour in zip(lines.items(), ("C0", "C3"), strict=False):
            for series, style, name in ((mine, "-", method), (reference, "--", against)):
                points = series.get(score, {})
                line = {"color": colour, "linestyle": style, "marker": "."}
                label = f"{name}, {words}" if words else name
                axes.plot(list(points), list(points.values()), label=label, **line)
        axes.set_title(title)
    for axes in (first, *others):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.legend(*others[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _filled(panels: Mapping[str, Mapping], scores: Collection[str]) -> Mapping[str, Mapping]:
    """The panels that have something to show, such as Dice where there are labels; else all."""
    filled = {title: lines for title, lines in panels.items() if lines.keys() & scores}
    return filled or panels


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90)
    return content.getvalue()


def _image(png: bytes, words: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def _galleries(folder: Path) -> list[str]:
    """The pictures of each subject in a row, at most SHOWN of them."""
    parts = []
    if not folder.is_dir():
        return parts
    for subject in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        pictures = sorted(path for path in subject.iterdir() if _PICTURE.fullmatch(path.name))
        if not pictures:
            continue
        chosen = np.linspace(0, len(pictures) - 1, min(SHOWN, len(pictures))).round().astype(int)
        parts.append(f'<h3>{html.escape(subject.name)}</h3><div class="row">')
        for path in (pictures[index] for index in chosen):
            epoch = int(_PICTURE.fullmatch(path.name)[1])
            image = _image(path.read_bytes(), f"epoch {epoch}")
            parts.append(f"<figure>{image}<figcaption>epoch {epoch}</figcaption></figure>")
        parts.append("</div>")
    return parts
