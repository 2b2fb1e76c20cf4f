"""Pictures of an evaluation: box plots of the scores, and pages of subjects x methods."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.results import Results, Row
from evaluation.scorebook import source_of
from metrics import ALL_METRICS, keys_of
from utils.files import replacing
from utils.pictures import AS_WRITTEN, Planes, comparison_figure, save_figure

SLICES = "slices"  # folder of the planes that the pages are made of
PAGES = "pages.json"  # beside them: what each page was drawn of
SUBJECTS_A_PAGE = 4
ARROWS = {"higher": "higher is better", "lower": "lower is better"}
PART_TITLES = {
    "mean": "mean over both sources",
    "sum": "sum over both sources",
    "joint": "",
    "mri": "against the MRI",
    "pet": "against the PET",
    "min": "worse of the two sources",
}
BOX_COLOURS = "tab:blue", "0.6"  # methods, trivial rows


def save_slices(
    folder: Path, subject: str, volumes: Mapping[str, Planes], voxel_mm: Sequence[float]
) -> None:
    """Keep the planes of a subject's volumes in 8 bits; volumes not named now stay as they are.

    Args:
        volumes: {volume: its planes}, intensities in [0, 1]; values beyond become the nearer end.

    Raises:
        InputError: the file cannot be written.
    """
    path = folder / SLICES / f"{subject}.npz"
    arrays = {}
    if path.exists():
        with np.load(path) as there:
            arrays = {key: there[key] for key in there}
    for name, planes in volumes.items():
        for plane, image in planes.items():
            grey = np.clip(np.nan_to_num(image), 0, 1) * 255
            arrays[f"{plane}/{name}"] = grey.round().astype(np.uint8)
    arrays["voxel_mm"] = np.asarray(voxel_mm, dtype=np.float64)
    with replacing(path, "give another --out") as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_slices(folder: Path, subject: str) -> tuple[dict[str, Planes], np.ndarray]:
    """What `save_slices` kept: {volume: its planes in [0, 1]}, and the voxel sides in mm."""
    volumes: dict[str, Planes] = {}
    with np.load(folder / SLICES / f"{subject}.npz") as arrays:
        for key in arrays:
            if key != "voxel_mm":
                plane, name = key.split("/", 1)
                volumes.setdefault(name, {})[plane] = arrays[key] / np.float32(255)
        return volumes, arrays["voxel_mm"]


def save_pages(folder: Path, subjects: Sequence[str], rows: Sequence[Row]) -> None:
    """Pages of subjects x methods, `pictures-01.png` and so on; pages of an earlier evaluation go.

    A page of the same planes and columns as before stays.

    Args:
        rows: the methods that have a column, after the sources.
    """
    columns = {"MRI": "MRI", "PET": "PET"} | {row.label: row.title for row in rows}
    kept = [name for name in subjects if (folder / SLICES / f"{name}.npz").exists()]
    before, now = _drawn_pages(folder), {}
    for start in range(0, len(kept), SUBJECTS_A_PAGE):
        names = kept[start : start + SUBJECTS_A_PAGE]
        path = folder / f"pictures-{start // SUBJECTS_A_PAGE + 1:02d}.png"
        made_of = [[name, *_state(folder / SLICES / f"{name}.npz")] for name in names]
        about = hashlib.sha256(json.dumps([list(columns.items()), made_of]).encode()).hexdigest()
        if before.get(path.name) != [about, *_state(path)]:
            _save_page(folder, path, names, columns)
        now[path.name] = [about, *_state(path)]
    with replacing(folder / SLICES / PAGES, "give another --out") as part:
        part.write_text(json.dumps(now), encoding="utf-8")
    for path in folder.glob("pictures-[0-9][0-9]*.png"):
        if path.name not in now:
            path.unlink()


def _save_page(folder: Path, path: Path, names: Sequence[str], columns: Mapping[str, str]) -> None:
    volumes, voxel_mm = {}, {}
    for name in names:
        volumes[name], voxel_mm[name] = read_slices(folder, name)
    save_figure(path, comparison_figure(volumes, columns, voxel_mm), dpi=130)


def _drawn_pages(folder: Path) -> dict[str, list]:
    """{page: what it was drawn of, and its state}; a second a page is worth a look."""
    try:
        return dict(json.loads((folder / SLICES / PAGES).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _state(path: Path) -> list[int]:
    """Size and time of a file; of none, nothing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_size, status.st_mtime_ns]


def save_box_plots(folder: Path, all_results: Sequence[Results]) -> None:
    """One picture for each metric, `boxplots/<protocol>_<metric>.png`, a panel for each part."""
    for results, name in product(all_results, ALL_METRICS):
        keys = [key for key in keys_of(name) if key in results.keys]
        if keys:
            path = folder / "boxplots" / f"{results.protocol}_{name}.png"
            save_figure(path, box_plot(results, name, keys), dpi=90)


def box_plot(results: Results, name: str, keys: Sequence[str]) -> Figure:
    """Boxes (median, quartiles, 1.5 interquartile ranges) of the methods, participants as points.

    NaN and infinite scores are left out; the label of the method then says how many there are to
    see.
    """
    height = 0.9 + 0.33 * len(results.rows)
    figure = Figure(figsize=(0.9 + 3.0 * len(keys) + 1.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    metric = ALL_METRICS[name]
    title = f"{metric.title}, {results.protocol} protocol: {ARROWS[metric.direction]}"
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    ticks = range(len(results.rows), 0, -1)  # the first row at the top
    for panel, key in zip(panels, keys, strict=True):
        for tick, row in zip(ticks, results.rows, strict=True):
            _draw_box(panel, tick, results.values[row.label][key], BOX_COLOURS[row.is_trivial])
        panel.set_title(PART_TITLES[source_of(name, key)], fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
    panels[0].set_yticks(ticks, [row.title for row in results.rows], **AS_WRITTEN)
    panels[0].set_ylim(0.4, len(ticks) + 0.6)
    return figure


def _draw_box(panel: Axes, tick: int, scores: np.ndarray, colour: str) -> None:
    values = scores[np.isfinite(scores)]
    if values.size:
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        reach = 1.5 * (high - low)
        inside = values[(values >= low - reach) & (values <= high + reach)]
        starts, ends = [inside.min(), high], [low, inside.max()]
        panel.hlines([tick, tick], starts, ends, color="0.2", linewidth=1)
        look = {"color": colour, "alpha": 0.5, "edgecolor": "0.2", "linewidth": 0.8}
        panel.barh(tick, high - low, 0.6, low, **look)
        panel.vlines(median, tick - 0.3, tick + 0.3, color="black", linewidth=1.5)
        look = {"color": colour, "markersize": 3.5, "mec": "black", "mew": 0.4}
        panel.plot(values, np.full(values.size, tick), "o", **look)
    if values.size < scores.size:
        note = f"{values.size} of {scores.size} finite"
        look = {"ha": "right", "va": "center", "fontsize": 7, "color": "0.3"}
        panel.annotate(note, (0.98, tick), xycoords=("axes fraction", "data"), **look)
