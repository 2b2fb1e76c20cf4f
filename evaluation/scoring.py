"""Running fusion methods on subjects and scoring what they make, every method on the same volumes.

A subject is read once and brought to the network's grid: crop to the MRI, zero-pad, resize,
intensities to [0, 1]. On this grid all methods are fused and scored; with `grid="native"` the
volume protocol goes to the MRI's own grid instead. The published protocol is bound to the network's
grid.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.subjects import Subject
from data.transforms import (
    KEYS,
    RECIPES,
    deterministic,
    foreground,
    rescale,
    scale_like,
    to_item,
    to_native,
)
from data.volume import GRID_TOLERANCE, Volume, corner_distance, read_pair, read_volume
from evaluation.methods import SOURCES, Method
from evaluation.plots import save_slices
from evaluation.scorebook import ScoreBook
from metrics import Scorer, UndefinedScore
from utils.errors import InputError, report
from utils.pictures import planes_through_centre

GRIDS = ("network", "native")
PUBLISHED_SIZE = 128  # the published protocol's slice belongs to this grid


@dataclass(frozen=True)
class Settings:
    """What every score depends on besides the files.

    Attributes:
        size: voxels a side of the network's grid.
        recipe: of the preprocessing, "paper" or "released".
        grid: of the volume protocol, "network" or "native".
        mask, planes: of the volume protocol, see `metrics.Scorer`.
        metrics: names to compute; None for all that a protocol has.
    """

    size: int = 128
    recipe: str = "paper"
    grid: str = "network"
    mask: str = "none"
    planes: int = 1
    metrics: tuple[str, ...] | None = None

    def grid_of(self, protocol: str) -> str:
        """The grid that a protocol scores on."""
        return "network" if protocol == "published" else self.grid

    def scorer(self, protocol: str, mri: Tensor, pet: Tensor, device: torch.device) -> Scorer:
        """The scorer of one subject. PSNR is always scored: it tells a copy of a source."""
        names = None if self.metrics is None else ("psnr", *self.metrics, "clipped")
        options = {"mask": self.mask, "planes": self.planes} if protocol == "volume" else {}
        return Scorer(mri, pet, protocol, names=names, device=device, **options)


# One subject -------------------------------------------------------------------------------------


class Case:
    """One subject's pair, read once, on the grids that it is scored on.

    Intensities of both grids share one scale: 0 and 1 are the smallest and the largest value of a
        source on
    the network's grid, as in the network's inputs.

    Raises:
        InputError: a file that `data.volume.read_pair` refuses.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self.name = subject.name
        self.files = read_pair(subject.mri, subject.pet)
        self.steps = deterministic(RECIPES[settings.recipe], settings.size, self.files[0].voxel_mm)
        self.prepared = self.steps(to_item(*self.files))
        scaled = rescale()({key: self.prepared[key].as_tensor() for key in KEYS})
        self.inputs = tuple(
            torch.as_tensor(scaled[key])[None] for key in KEYS
        )  # (1, 1, D, H, W) each

    @cached_property
    def native(self) -> tuple[Tensor, ...]:
        """MRI and PET at the MRI's own voxels, (1, 1, X, Y, Z) in [0, 1]."""
        pairs = zip(KEYS, self.files, strict=True)
        arrays = [scale_like(volume.array, self.prepared[key]) for key, volume in pairs]
        return tuple(torch.from_numpy(array)[None, None] for array in arrays)

    def sources(self, grid: str) -> tuple[Tensor, Tensor]:
        """MRI and PET, (X, Y, Z) in [0, 1]."""
        mri, pet = self.inputs if grid == "network" else self.native
        return mri[0, 0], pet[0, 0]

    def voxel_mm(self, grid: str) -> tuple[float, ...]:
        """Voxel sides of a grid in mm."""
        if grid == "native":
            return self.files[0].voxel_mm
        affine = self.prepared["mri"].affine
        return tuple(float(side) for side in affine[:3, :3].norm(dim=0))

    @torch.no_grad()
    def fuse(self, method: Method, grids: Iterable[str], device: torch.device) -> dict[str, Tensor]:
        """{grid: fused (X, Y, Z)}, on the scale of the sources and not clipped.

        Raises:
            InputError: a file of `method.folder` that is missing, unreadable or on another grid.
        """
        if method.folder:
            fused = self._read_fused(method.fused_file(self.name))
            return {grid: self._onto(fused, grid) for grid in grids}
        if method.is_trivial:
            pairs = {grid: self.inputs if grid == "network" else self.native for grid in grids}
            return {grid: method.model(*pair)[0, 0] for grid, pair in pairs.items()}
        output = method.model(*(volume.to(device) for volume in self.inputs)).float().cpu()
        volumes = {"network": output[0, 0]}
        if "native" in grids:
            native = to_native(output[0], self.prepared, self.steps)
            volumes["native"] = torch.from_numpy(
                np.where(foreground(self.files[0].array), native, 0)
            )
        return {grid: volumes[grid] for grid in grids}

    def _read_fused(self, path: Path) -> Volume:
        fused, mri = read_volume(path), self.files[0]
        if fused.array.shape != mri.array.shape:
            sides = ["x".join(map(str, volume.array.shape)) for volume in (fused, mri)]
            raise InputError(
                path, f"{sides[0]} voxels, its MRI has {sides[1]}", "bring it to the MRI's own grid"
            )
        apart = corner_distance(mri.array.shape, fused.affine, mri.affine)
        if apart > GRID_TOLERANCE * min(mri.voxel_mm):
            problem = f"lies up to {apart:.3g} mm from the grid of its MRI"
            raise InputError(path, problem, "bring it to the MRI's own grid")
        values = fused.array[fused.array > 0]
        if not values.size or np.median(values) > 1:
            problem = f"its values run from {fused.array.min():.4g} to {fused.array.max():.4g}"
            raise InputError(path, problem, "bring it to the scale of the sources, [0, 1]")
        return fused

    def _onto(self, fused: Volume, grid: str) -> Tensor:
        if grid == "native":
            return torch.from_numpy(fused.array)
        # In the place of the PET: cropped by the MRI's box, padded and resized like both sources.
        return self.steps(to_item(self.files[0], fused))["pet"].as_tensor()[0]


# All subjects ------------------------------------------------------------------------------------


def evaluate(
    subjects: Sequence[Subject],
    methods: Sequence[Method],
    protocols: Sequence[str],
    settings: Settings,
    book: ScoreBook,
    device: torch.device,
) -> list[str]:
    """Score every method on every subject; what the book has already is skipped.

    Returns:
        the subjects that a method, or all of them, could not be scored on; each error was reported.
    """
    stamps, failed = _stamps(subjects, methods)
    book.drop_outdated(stamps)
    jobs = {s.name: _missing(book, s.name, methods, protocols, stamps) for s in subjects}
    total, possible = sum(map(len, jobs.values())), sum(map(len, stamps.values()))
    if total < possible:
        print(
            f"{possible - total} of {possible} volumes are scored already (--overwrite scores them anew)"
        )
    with tqdm(total=total, desc="scoring", unit="volume", disable=None) as bar:
        for subject in subjects:
            todo = jobs[subject.name]
            if not todo:
                continue
            try:
                errors = _score_case(
                    Case(subject, settings), todo, settings, book, stamps, device, bar
                )
            except InputError as error:
                errors = [error]
            for error in errors:
                report(InputError(f"{subject.name}: {error.source}", error.problem, error.remedy))
                failed.append(subject.name)
    return [subject.name for subject in subjects if subject.name in failed]


def _stamps(subjects: Sequence[Subject], methods: Sequence[Method]) -> tuple[dict, list[str]]:
    """{method: {subject: stamp}}, and the subjects that lack a file."""
    stamps, failed = {method.label: {} for method in methods}, []
    for subject in subjects:
        for method in methods:
            try:
                stamps[method.label][subject.name] = method.stamp(subject)
            except InputError as error:
                report(InputError(f"{subject.name}: {error.source}", error.problem, error.remedy))
                failed.append(subject.name)
    return stamps, failed


def _missing(
    book: ScoreBook, subject: str, methods: Sequence[Method], protocols: Sequence[str], stamps: dict
) -> list:
    """(method, protocols that are still to be scored) of one subject."""
    jobs = []
    for method in methods:
        todo = [protocol for protocol in protocols if not book.has(protocol, method.label, subject)]
        if todo and subject in stamps[method.label]:
            jobs.append((method, todo))
    return jobs


def _score_case(
    case: Case,
    jobs: list[tuple[Method, list[str]]],
    settings: Settings,
    book: ScoreBook,
    stamps: dict,
    device: torch.device,
    bar: tqdm,
) -> list[InputError]:
    """Fuse and score one subject by each method and write the scores; returns what went wrong."""
    scorers = _scorers(
        case, dict.fromkeys(protocol for _, todo in jobs for protocol in todo), settings, device
    )
    grids = {settings.grid, *map(settings.grid_of, scorers)}
    scores, pictured, errors = {}, {}, []
    for method, todo in jobs:
        bar.set_postfix_str(f"{case.name}, {method.label}")
        try:
            fused = case.fuse(method, grids, device)
            scores |= {
                (p, method.label): _scores(scorers[p], fused[settings.grid_of(p)]) for p in todo
            }
            pictured[method.label] = fused[settings.grid]
        except InputError as error:
            errors.append(error)
        except ValueError as error:  # what a scorer says of a volume with NaN in it
            errors.append(InputError(method.label, str(error), "look at this method's result"))
        bar.update()
    if pictured:
        _save_slices(book.folder, case, settings.grid, pictured)
        book.add(case.name, scores, {label: stamps[label][case.name] for label in pictured})
    return errors


def _scorers(
    case: Case, protocols: Iterable[str], settings: Settings, device: torch.device
) -> dict[str, Scorer]:
    try:
        sources = {protocol: case.sources(settings.grid_of(protocol)) for protocol in protocols}
        return {
            protocol: settings.scorer(protocol, *pair, device) for protocol, pair in sources.items()
        }
    except ValueError as error:  # such as a mask without a voxel
        raise InputError(case.files[0].path, str(error), "look at this pair") from error


def _scores(scorer: Scorer, fused: Tensor) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScore)  # NaN is counted and shown in the tables
        return scorer(fused)


def _save_slices(folder: Path, case: Case, grid: str, fused: dict[str, Tensor]) -> None:
    """Keep three planes of each volume, for the pictures of all subjects."""
    volumes = dict(zip(SOURCES, case.sources(grid), strict=True)) | fused
    arrays = {name: volume.numpy() for name, volume in volumes.items()}
    save_slices(
        folder, case.name, planes_through_centre(arrays["MRI"], arrays), case.voxel_mm(grid)
    )
