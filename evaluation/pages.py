"""A page for each subject of an evaluation: all methods' volumes in one place, to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.subjects import Subject
from evaluation.methods import Method
from evaluation.scorebook import ScoreBook
from evaluation.scoring import Case, Settings
from inference.page.build import Layer, Page, write_page
from inference.page.fusion import NOTES, OWN_UNIT
from utils.colour import colour_map

FOLDER = "pages"
SHOWN = ("psnr", "ssim", "nmi")  # beside the volumes, against MRI and PET


def save_pages(
    subjects: Sequence[Subject],
    methods: Sequence[Method],
    protocol: str,
    settings: Settings,
    book: ScoreBook,
    device: torch.device,
) -> list[Path]:
    """Write `pages/<subject>.html` for each subject; the methods fuse it once more.

    Args:
        subjects: that every method has been scored on.
        protocol: whose scores are shown.

    Raises:
        InputError: a file that cannot be read any more or cannot be written.
    """
    files = []
    for subject in subjects:
        path = book.folder / FOLDER / f"{subject.name}.html"
        scores = score_rows(book, protocol, subject.name, methods)
        page = page_of(Case(subject, settings), methods, settings, scores, device)
        write_page(path, page, colour_map())
        files.append(path)
    return files


def page_of(
    case: Case,
    methods: Sequence[Method],
    settings: Settings,
    scores: list[list[str]],
    device: torch.device,
) -> Page:
    """One subject's page, on the grid that it is scored on; the first method is shown first."""
    sources = []
    for key, scaled in zip(("mri", "pet"), case.sources(settings.grid), strict=True):
        low = float(case.prepared[key].min())
        values = low + case.scale(key) * scaled.numpy()
        sources.append(Layer(key.upper(), values, (low, low + case.scale(key)), OWN_UNIT))
    fused = []
    for method in methods:
        volume = case.fuse(method, {settings.grid}, device)[settings.grid]
        fused.append(Layer(method.title, volume.numpy(), unit="0 to 1"))
    affine = case.files[0].affine
    if settings.grid == "network":
        affine = np.asarray(case.prepared["mri"].affine, dtype=np.float64)
    notes = [*NOTES, settings.describe("volume")]
    inside = case.sources(settings.grid)[0].numpy() > 0
    return Page(case.name, affine, *sources, fused, inside, scores, notes)


def score_rows(
    book: ScoreBook, protocol: str, subject: str, methods: Sequence[Method]
) -> list[list[str]]:
    """Rows of cells, the header first; MRI / PET in each cell, of the metrics that were scored."""
    by_method = [book.scores[protocol, method.label, subject] for method in methods]
    names = [name for name in SHOWN if f"{name}_mri" in by_method[0]]
    rows = [["against MRI / PET", *map(str.upper, names)]]
    for method, scores in zip(methods, by_method, strict=True):
        cells = [f"{scores[f'{name}_mri']:.3f} / {scores[f'{name}_pet']:.3f}" for name in names]
        rows.append([method.title, *cells])
    return rows
