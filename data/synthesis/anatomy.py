"""The anatomies that pairs are drawn from: label maps of a folder, and procedural heads."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from tqdm import tqdm

from data.foreground import box_of
from data.phantom.cohort import subject_seed
from data.phantom.head import VERSION
from data.phantom.many import make_subjects
from data.synthesis.tissues import TISSUES, brain, from_freesurfer, from_phantom
from utils.errors import InputError
from utils.files import replacing
from utils.text import natural_key

SOURCES = ("labels", "heads", "both")
HEADS = 24  # procedural heads that pairs are drawn from
HEADS_SEED = 20231016
HEAD_VOXEL_MM = 1.5  # of the procedural heads: their folds are coarser than those of people
MARGIN_MM = 10.0  # of air kept around a head
LARGEST_LABEL = 2**15

Progress = Callable[[Iterable], Iterable]


@dataclass(frozen=True)
class Anatomy:
    """One head as tissue numbers.

    Attributes:
        name: of the file, or of the procedural head.
        tissues: (X, Y, Z) uint8 in RAS+ order, numbers of `data.synthesis.tissues.TISSUES`; cropped
            to the head and `MARGIN_MM` around it.
        voxel_mm: edges of a voxel.
        centre: (3,) voxel in the middle of the brain.
    """

    name: str
    tissues: torch.Tensor
    voxel_mm: tuple[float, float, float]
    centre: tuple[float, float, float]

    def to(self, device: torch.device) -> "Anatomy":
        """The same anatomy with its tissues on a device."""
        return replace(self, tissues=self.tissues.to(device))


def find_anatomies(
    source: str, labels: str | os.PathLike | None, cache: str | os.PathLike
) -> list[Anatomy]:
    """The anatomies of a source; says by bars what takes long.

    Args:
        source: "labels", "heads" or "both".
        labels: folder of label maps, for "labels" and "both".
        cache: folder for what is made of the procedural heads.

    Raises:
        InputError: no folder of label maps where they are asked for, or as `read_label_maps` and
            `procedural_heads`.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}, choose from {', '.join(SOURCES)}")
    anatomies = []
    if source != "heads":
        if labels is None:
            problem = f"is missing beside --synthesis {source}"
            raise InputError("--labels", problem, "give the folder of the label maps")
        anatomies += read_label_maps(labels, partial(tqdm, desc="label maps", disable=None))
    if source != "labels":
        bar = partial(tqdm, desc="procedural heads", disable=None)
        anatomies += procedural_heads(HEADS, HEADS_SEED, cache, bar)
    return anatomies


def read_label_maps(folder: str | os.PathLike, progress: Progress = iter) -> list[Anatomy]:
    """Every label map (.nii, .nii.gz) of a folder, in natural order.

    Args:
        folder: FreeSurfer's labels, extracerebral ones as SynthSeg's training maps have them; for
            instance the label maps of SynthSeg's repository.
        progress: wraps the iteration over files, for instance `tqdm`.

    Raises:
        InputError: no such folder, no map in it, or one that is not a 3-D map of a head's labels.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "give the folder of the label maps")
    files = sorted(folder.iterdir(), key=lambda file: natural_key(file.name))
    files = [file for file in files if file.name.lower().endswith((".nii", ".nii.gz"))]
    if not files:
        raise InputError(folder, "no label map in it", "give a folder of .nii.gz label maps")
    return [_read_label_map(file) for file in progress(files)]


def _read_label_map(file: Path) -> Anatomy:
    remedy = "give FreeSurfer label maps"
    try:
        image = nib.as_closest_canonical(nib.load(file))
        values = np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(file, f"cannot be read ({error})", remedy) from error
    if values.ndim != 3:
        raise InputError(file, f"has {values.ndim} axes, a label map has 3", remedy)
    labels = np.rint(values).astype(np.int32) if np.isfinite(values).all() else None
    if labels is None or not np.array_equal(labels, values) or labels.min() < 0:
        raise InputError(file, "holds values that are no labels", remedy)
    if labels.max() > LARGEST_LABEL:
        raise InputError(file, f"holds the label {labels.max()}", remedy)
    voxel_mm = tuple(float(side) for side in image.header.get_zooms()[:3])
    name = file.name.removesuffix(".gz").removesuffix(".nii")
    return _anatomy(name, from_freesurfer(labels), voxel_mm, file)


def procedural_heads(
    count: int, seed: int, cache: str | os.PathLike, progress: Progress = iter
) -> list[Anatomy]:
    """Heads of `data.phantom`, made once and kept as files.

    Args:
        count: how many.
        seed: of the cohort; other heads than those of `data.phantom.cohort` with the same seed.
        cache: folder that the tissues are kept in.
        progress: wraps the iteration over heads.

    Raises:
        InputError: the cache cannot be written.
    """
    names = [f"head-{VERSION}-{seed}-{index + 1:03d}" for index in range(count)]
    paths = [Path(cache) / f"{name}.npy" for name in names]
    known = [_kept(path) for path in paths]
    # cohorts count from 0 upwards, these seeds lie beyond any of them
    missing = [10**6 + index for index, tissues in enumerate(known) if tissues is None]
    made = make_subjects((subject_seed(seed, index) for index in missing), HEAD_VOXEL_MM)
    heads = []
    for name, path, tissues in zip(progress(names), paths, known, strict=True):
        if tissues is None:
            tissues = from_phantom(next(made).labels)
            with replacing(path, "free space") as part, open(part, "wb") as file:
                np.save(file, tissues)
        heads.append(_anatomy(name, tissues, (HEAD_VOXEL_MM,) * 3, path))
    return heads


def _kept(path: Path) -> np.ndarray | None:
    """The tissues of a head that was made before, None where there are none."""
    try:
        return np.load(path)
    except Exception:  # not there yet, or damaged
        return None


def _anatomy(
    name: str, tissues: np.ndarray, voxel_mm: tuple[float, float, float], source: Path
) -> Anatomy:
    """An anatomy cropped to its head.

    Raises:
        InputError: there is no brain in it.
    """
    inside = brain()[tissues]
    if inside.sum() * np.prod(voxel_mm) < 1e5:  # mm^3: a newborn's brain has four times as much
        raise InputError(source, "holds no brain by FreeSurfer's labels", "give another label map")
    box, centre = [], []
    for head, within, side in zip(box_of(tissues > 0), box_of(inside), voxel_mm, strict=True):
        margin = round(MARGIN_MM / side)
        start = max(head.start - margin, 0)
        box.append(slice(start, head.stop + margin))
        centre.append((within.start + within.stop - 1) / 2 - start)
    cropped = np.ascontiguousarray(tissues[tuple(box)])
    assert cropped.max() < len(TISSUES)
    return Anatomy(name, torch.from_numpy(cropped), voxel_mm, tuple(centre))
