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
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from training.validation import Example
from utils.files import replacing
from utils.planes import plane_of
from utils.text import natural_key

REPORT, PICTURES = "report.html", "pictures"
REMEDY = "free space, then --resume"
SHOWN = 12  # epochs of a subject, the first and the last among them
AVERAGE, COPY = "average", "copy-mri"
_PICTURE = re.compile(r"epoch-(\d+)\.png")
_STALLED = 10  # validations without a better score
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ccc;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "figure{display:inline-block;margin:.3rem;text-align:center}figure img{height:11rem}"
    ".row{white-space:nowrap;overflow-x:auto;background:#111;color:#ddd}"
)

Row = Mapping[str, str]


def keep_picture(folder: Path, epoch: int, example: Example) -> None:
    """Keep the axial plane through the middle of the MRI's head: MRI, PET and fused in a row.

    Raises:
        InputError: the file cannot be written.
    """
    filled = np.flatnonzero((example.mri > 0).any(axis=(0, 1)))
    middle = int(filled.mean()) if filled.size else example.mri.shape[2] // 2
    volumes = example.mri, example.pet, example.fused
    planes = [plane_of(volume, 2, (0, 0, middle)) for volume in volumes]
    path = folder / PICTURES / example.subject / f"epoch-{epoch:06d}.png"
    with replacing(path, REMEDY) as part:
        imsave(part, np.hstack(planes), cmap="gray", vmin=0, vmax=1, format="png")


def drop_pictures(folder: Path, epoch: int) -> None:
    """Drop the pictures of epochs after `epoch`, left by an epoch that was not finished."""
    for path in (folder / PICTURES).glob("*/epoch-*.png"):
        match = _PICTURE.fullmatch(path.name)
        if match and int(match[1]) > epoch:
            path.unlink()


def write_report(folder: Path, method: str, epochs: int, best_by: str) -> None:
    """Write the page of a run from what lies in its folder.

    Args:
        method: the name of the network in `scores.csv`.
        epochs: of the whole training.
        best_by: the score that chooses `best.pt`.

    Raises:
        InputError: the page cannot be written.
    """
    losses, scores = _table(folder / "losses.csv"), _table(folder / "scores.csv")
    done = int(losses[-1]["epoch"]) if losses else 0
    name = html.escape(folder.name)
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>',
        f"<style>{_STYLE}</style><h1>{name}</h1>",
        f"<p>{html.escape(method)}, epoch {done} of {epochs}; best.pt is chosen by "
        f"{html.escape(best_by)}.</p>",
        "<h2>What to do next</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in advice(folder, scores, method, epochs)),
        "</ul><h2>Scores of the last validation</h2>",
        _score_table(scores, method),
        "<h2>Curves</h2>",
        _image(_png(_curves(losses, scores, method)), "loss and scores over the epochs"),
        "<h2>The same slice over the epochs</h2><p>MRI, PET and fused, one window [0, 1].</p>",
        *_galleries(folder / PICTURES),
        "</html>\n",
    ]
    with replacing(folder / REPORT, REMEDY) as part:
        part.write_bytes("\n".join(parts).encode("utf-8", "replace"))


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


def _score_table(scores: Sequence[Row], method: str) -> str:
    """The last means of every method, a column a score."""
    names = list(dict.fromkeys(row["score"] for row in scores))
    last = {(row["method"], row["score"]): row for row in scores}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = [f"<table><tr><th></th>{head}</tr>"]
    for other in (method, AVERAGE, COPY):
        cells = []
        for name in names:
            row = last.get((other, name))
            cells.append(f"<td>{float(row['mean']):.3f}</td>" if row else "<td></td>")
        lines.append(f"<tr><td>{html.escape(other)}</td>{''.join(cells)}</tr>")
    return "".join(lines) + "</table>"


def _curves(losses: Sequence[Row], scores: Sequence[Row], method: str) -> Figure:
    """The total loss, and each metric against MRI and PET beside the average's."""
    metrics = ("ssim", "psnr", "nmi")
    figure = Figure(figsize=(14, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    first, *others = figure.subplots(1, 1 + len(metrics))
    epochs = [int(row["epoch"]) for row in losses]
    first.plot(epochs, [float(row["loss/total"]) for row in losses], marker=".")
    first.set_title("loss")
    mine, average = _series(scores, method), _series(scores, AVERAGE)
    for axes, metric in zip(others, metrics, strict=True):
        for source, colour in (("mri", "C0"), ("pet", "C3")):
            for series, style, name in ((mine, "-", method), (average, "--", AVERAGE)):
                points = series.get(f"{metric}_{source}", {})
                look = {"color": colour, "linestyle": style, "marker": "."}
                axes.plot(list(points), list(points.values()), label=f"{name}, {source}", **look)
        axes.set_title(metric.upper())
    for axes in (first, *others):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    others[-1].legend(fontsize=7)
    return figure


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
