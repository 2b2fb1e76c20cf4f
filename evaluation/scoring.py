"""Running fusion methods on subjects and scoring them, every method on the same volumes.

A subject is read once and brought to the network's grid: crop to the MRI, zero-pad, resize,
intensities to [0, 1]. On this grid all methods are fused and scored; with `grid="native"` the
volume protocol goes to the MRI's own grid instead. The published protocol is bound to the network's
grid.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.bids import read_json
from data.foreground import foreground, scale_between, without_hot_voxels
from data.grids import sides
from data.quality import doubts_table, say_doubts
from data.settings import Preprocessing
from data.subjects import Subject
from data.transforms import (
    KEYS,
    deterministic,
    rescale,
    to_item,
    to_native,
)
from data.volume import GRID_TOLERANCE, Volume, corner_distance, read_pair, read_volume
from evaluation.lesions import KINDS, LesionRecord, measure
from evaluation.methods import SOURCES, Method
from evaluation.plots import save_slices
from evaluation.scorebook import Part, ScoreBook, write_text
from metrics import Scorer, UndefinedScore
from training.devices.distributed import Process
from utils.errors import InputError, in_one_line, notice, report
from utils.pictures import planes_through_centre

DOUBTS = "doubts.json"  # {subject: what speaks against its pair}
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
        lesions: "standard" or "full", the kinds whose transfer the volume protocol measures; None
            for none.
    """

    size: int = 128
    recipe: str = "paper"
    grid: str = "network"
    mask: str = "none"
    planes: int = 1
    metrics: tuple[str, ...] | None = None
    lesions: str | None = None

    def grid_of(self, protocol: str) -> str:
        """The grid that a protocol scores on."""
        return "network" if protocol == "published" else self.grid

    def scorer(self, protocol: str, mri: Tensor, pet: Tensor, device: torch.device) -> Scorer:
        """The scorer of one subject. PSNR is always scored: it tells a copy of a source."""
        names = None if self.metrics is None else ("psnr", *self.metrics, "clipped")
        options = {"mask": self.mask, "planes": self.planes} if protocol == "volume" else {}
        return Scorer(mri, pet, protocol, names=names, device=device, **options)

    def describe(self, protocol: str) -> str:
        """One line of what a protocol scored."""
        size = f"{self.size}³ voxels ({self.recipe} recipe)"
        if protocol == "published":
            where = f"Slice 64 of the last axis of {size}"
            return f"{where}, no mask, no clipping, as the released code."
        grid = f"The network's grid, {size}" if self.grid == "network" else "The MRI's own grid"
        planes = "axial slices" if self.planes == 1 else "slices of all three planes"
        return (
            f"{grid}, clipped to [0, 1], mask: {self.mask}; slice metrics are means over {planes}."
        )


# One subject -------------------------------------------------------------------------------------


class Case:
    """One subject's pair, read once, on the grids that it is scored on.

    Intensities of both grids share one scale: 0 and 1 are the smallest and the largest value of a
    source on the network's grid, as in the network's inputs.

    Attributes:
        read: MRI and PET as they were read; in `files` they are without hot voxels.

    Raises:
        InputError: a file that `data.volume.read_pair` refuses.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self.name = subject.name
        preprocessing = Preprocessing(settings.recipe, settings.size)
        self.recipe = preprocessing.form
        pair = read_pair(subject.mri, subject.pet)
        self.read = pair
        self.files = without_hot_voxels(pair, self.recipe.robust)
        self.steps = deterministic(preprocessing, self.files[0].voxel_mm)
        self.prepared = self.steps(to_item(*self.files))
        scaled = rescale()({key: self.prepared[key].as_tensor() for key in KEYS})
        # (1, 1, D, H, W) each
        self.inputs = tuple(torch.as_tensor(scaled[key])[None] for key in KEYS)

    @cached_property
    def native(self) -> tuple[Tensor, ...]:
        """MRI and PET at the MRI's own voxels, (1, 1, X, Y, Z) in [0, 1]."""
        volumes = []
        for key, file in zip(KEYS, self.files, strict=True):
            prepared = self.prepared[key]
            array = scale_between(file.array, float(prepared.min()), float(prepared.max()))
            volumes.append(torch.from_numpy(array)[None, None])
        return tuple(volumes)

    def pair(self, grid: str) -> tuple[Tensor, ...]:
        """MRI and PET as a network takes them, (1, 1, X, Y, Z) in [0, 1]."""
        return self.inputs if grid == "network" else self.native

    def sources(self, grid: str) -> tuple[Tensor, Tensor]:
        """MRI and PET, (X, Y, Z) in [0, 1]."""
        mri, pet = self.pair(grid)
        return mri[0, 0], pet[0, 0]

    def scale(self, key: str) -> float:
        """What 1 on the scale of the sources is in the units of a source's file."""
        return float(self.prepared[key].max() - self.prepared[key].min())

    def voxel_mm(self, grid: str) -> tuple[float, ...]:
        """Voxel sides of a grid in mm."""
        if grid == "native":
            return self.files[0].voxel_mm
        return tuple(sides(self.prepared["mri"].affine.numpy()).tolist())

    @torch.no_grad()
    def fuse(self, method: Method, grids: Iterable[str], device: torch.device) -> dict[str, Tensor]:
        """{grid: fused (X, Y, Z)}, on the scale of the sources and not clipped.

        Raises:
            InputError: a file of `method.folder` that is missing, unreadable or on another grid.
        """
        if method.folder:
            fused = self.read_fused(method.fused_file(self.name), method.scale)
            return {grid: self._onto(fused, grid) for grid in grids}
        if method.is_trivial:
            return {grid: method.model(*self.pair(grid))[0, 0] for grid in grids}
        output = method.model(*(volume.to(device) for volume in self.inputs)).float().cpu()
        volumes = {"network": output[0, 0]}
        if "native" in grids:
            native = to_native(output[0], self.prepared, self.steps)
            inside = foreground(self.files[0].array, self.recipe)
            volumes["native"] = torch.from_numpy(np.where(inside, native, 0))
        return {grid: volumes[grid] for grid in grids}

    def read_fused(self, path: Path, scale: tuple[float, float] | None = None) -> Volume:
        """A fused volume on the MRI's own grid, on the scale of the sources.

        Args:
            scale: what its file has for 0 and 1; None: these.

        Raises:
            InputError: it lies on another grid or is on another scale than [0, 1].
        """
        fused, mri = read_volume(path), self.files[0]
        if fused.array.shape != mri.array.shape:
            there, wanted = ("x".join(map(str, v.array.shape)) for v in (fused, mri))
            problem = f"{there} voxels, its MRI has {wanted}"
            raise InputError(path, problem, "bring it to the MRI's own grid")
        apart = corner_distance(mri.array.shape, fused.affine, mri.affine)
        if apart > GRID_TOLERANCE * min(mri.voxel_mm):
            problem = f"lies up to {apart:.3g} mm from the grid of its MRI"
            raise InputError(path, problem, "bring it to the MRI's own grid")
        return on_unit_scale(fused, scale)

    def _onto(self, fused: Volume, grid: str) -> Tensor:
        if grid == "native":
            return torch.from_numpy(fused.array)
        # In the place of the PET: cropped by the MRI's box, padded and resized like both sources.
        return self.steps(to_item(self.files[0], fused))["pet"].as_tensor()[0]


# Of volumes in [0, 1], with some room for what a network's output goes beyond.
LEAST_LOW, HIGHS = -0.1, (0.01, 1.5)


def on_unit_scale(fused: Volume, scale: tuple[float, float] | None) -> Volume:
    """A volume that another program fused, on the scale of the sources; not clipped.

    Percentiles decide, not the median, which noise in the air can lie below, nor single voxels.

    Args:
        scale: the values that stand for 0 and 1; None: these.

    Raises:
        InputError: it is on another scale.
    """
    if scale:
        low, high = map(np.float32, scale)
        fused = replace(fused, array=(fused.array - low) / (high - low))
    array = fused.array
    bright = array[array > 0]
    low = np.percentile(array, 0.1)
    high = np.percentile(bright, 99.9) if bright.size else 0
    if low < LEAST_LOW or not HIGHS[0] <= high <= HIGHS[1]:
        after = " after --fused-range" if scale else ""
        problem = f"its values{after} run from {array.min():.4g} to {array.max():.4g}"
        remedy = "bring it to the scale of the sources, [0, 1], or pass --fused-range LOW HIGH"
        raise InputError(fused.path, problem, remedy)
    return fused


# All subjects ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A method that one subject is still to be scored on, by which protocols, and its stamp."""

    method: Method
    protocols: list[str]
    stamp: list


def evaluate(
    subjects: Sequence[Subject],
    methods: Sequence[Method],
    protocols: Sequence[str],
    settings: Settings,
    book: ScoreBook | None,
    folder: Path,
    process: Process,
) -> list[str]:
    """Score every method on every subject; what the book has already is skipped.

    What speaks against a pair is said, and kept in `doubts.json` beside the scores. Several
    processes share the subjects.

    Args:
        book: of the first process, None in the others.
        folder: of the evaluation.

    Returns:
        the subjects that a method, or all of them, could not be scored on; each error was reported.
    """
    names = [subject.name for subject in subjects]
    stamps, failed = _stamps(subjects, methods)
    record = LesionRecord(folder, process.rank) if settings.lesions else None
    is_shared = process.world_size > 1
    if process.is_main:
        book.drop_outdated(stamps)
    if process.is_main and is_shared:
        book.share()
        _join_doubts(folder, _read_doubts(folder))
        if record:
            record.join(names)
    pages = _share(book, folder, process)
    mine = process.share_of(subjects)
    tasks: dict[str, list[Task]] = {}
    for subject in mine:
        tasks[subject.name] = _missing(pages, subject.name, methods, protocols, stamps)
    _say_skipped(tasks, stamps, process)
    more, undefined, doubts = _score_all(mine, tasks, settings, pages, record, process)
    failed = set(process.gather(sorted(failed | more)))
    undefined = dict(process.gather(list(undefined.items())))
    doubts = dict(process.gather(list(doubts.items())))
    if process.is_main and is_shared:
        book.join(names)
        if record:
            record.join(names)
    if process.is_main:
        _say_undefined(undefined)
        if is_shared:
            _join_doubts(folder, doubts)
        print(doubts_table({name: doubts[name] for name in names if name in doubts}))
    return [name for name in names if name in failed]


def _share(book: ScoreBook | None, folder: Path, process: Process) -> ScoreBook | Part:
    """What this process writes its scores into."""
    there = process.gather(list(book.scores) if book else [])
    return book or Part(folder, process.rank, set(there))


def _say_skipped(
    tasks: dict[str, list[Task]], stamps: dict[str, dict[str, list]], process: Process
) -> None:
    total = sum(process.gather([sum(map(len, tasks.values()))]))
    possible = sum(map(len, stamps.values()))
    if total < possible:
        there = f"{possible - total} of {possible} volumes"
        print(f"{there} are scored already (--overwrite scores them anew)")


def _score_all(
    subjects: Sequence[Subject],
    tasks: dict[str, list[Task]],
    settings: Settings,
    book: ScoreBook | Part,
    record: LesionRecord | None,
    process: Process,
) -> tuple[set[str], dict[str, str], dict[str, list[str]]]:
    """Score one process's subjects.

    Returns:
        the subjects that something went wrong with, why scores have no value, by their key,
        and what speaks against pairs, by subject.
    """
    failed: set[str] = set()
    undefined: dict[str, str] = {}
    doubts = _read_doubts(book.folder) if process.is_main else {}
    rank = process.rank
    doubts_file = book.folder / (f"doubts-{rank}.json" if rank else DOUBTS)
    total = sum(map(len, tasks.values()))
    hidden = None if process.is_main else True
    with tqdm(total=total, desc="scoring", unit="volume", disable=hidden) as bar:
        for subject in subjects:
            todo = tasks[subject.name]
            if not todo:
                continue
            try:
                case = Case(subject, settings)
                doubts[subject.name] = say_doubts(subject.name, *case.read)
                # At once: after a kill a subject that is scored is not read again.
                write_text(doubts_file, json.dumps(doubts, indent=2) + "\n")
                errors = _score_case(
                    case, todo, settings, book, record, process.device, bar, undefined
                )
            except Exception as error:
                errors = [in_one_line(error, "scoring")]
            for error in errors:
                _report(subject, error)
                failed.add(subject.name)
    return failed, undefined, doubts


def _read_doubts(folder: Path) -> dict[str, list[str]]:
    """What is known to speak against pairs, found by any process."""
    known: dict[str, list[str]] = {}
    for path in sorted(folder.glob("doubts*.json")):
        known |= read_json(path)
    return known


def _join_doubts(folder: Path, doubts: dict[str, list[str]]) -> None:
    """Put what several processes have found into one file."""
    if doubts:
        write_text(folder / DOUBTS, json.dumps(doubts, indent=2) + "\n")
    for path in folder.glob("doubts-*.json"):
        path.unlink(missing_ok=True)


def _say_undefined(reasons: dict[str, str]) -> None:
    """One line for each reason against scoring whole volumes; the tables count every NaN.

    Args:
        reasons: by the key of a score.
    """
    keys: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        if not reason.startswith("0/0"):  # that is about single methods and slices
            keys.setdefault(reason, []).append(key)
    for reason, without in keys.items():
        notice(f"no value (nan) of {', '.join(without)}: {reason}")


def _report(subject: Subject, error: InputError) -> None:
    report(InputError(f"{subject.name}: {error.source}", error.problem, error.remedy))


def _stamps(
    subjects: Sequence[Subject], methods: Sequence[Method]
) -> tuple[dict[str, dict[str, list]], set[str]]:
    """{method: {subject: stamp}}, and the subjects that lack a file."""
    stamps, failed = {method.label: {} for method in methods}, set()
    for subject in subjects:
        for method in methods:
            try:
                stamps[method.label][subject.name] = method.stamp(subject)
            except InputError as error:
                _report(subject, error)
                failed.add(subject.name)
    return stamps, failed


def _missing(
    book: ScoreBook | Part,
    subject: str,
    methods: Sequence[Method],
    protocols: Sequence[str],
    stamps: dict[str, dict[str, list]],
) -> list[Task]:
    """What is still to be done for one subject."""
    tasks = []
    for method in methods:
        stamp = stamps[method.label].get(subject)
        todo = [protocol for protocol in protocols if not book.has(protocol, method.label, subject)]
        if todo and stamp is not None:
            tasks.append(Task(method, todo, stamp))
    return tasks


def _score_case(
    case: Case,
    tasks: Sequence[Task],
    settings: Settings,
    book: ScoreBook | Part,
    record: LesionRecord | None,
    device: torch.device,
    bar: tqdm,
    undefined: dict[str, str],
) -> list[InputError]:
    """Fuse and score one subject by each method and write the scores; returns what went wrong.

    Args:
        undefined: gets the reason of every score without a value, by its key.
    """
    scorers = _scorers(case, tasks, settings, device)
    grids = {settings.grid, *map(settings.grid_of, scorers)}
    scores, stamps, pictured, errors = {}, {}, {}, []
    for task in tasks:
        label = task.method.label
        bar.set_postfix_str(f"{case.name}, {label}")
        try:
            fused = case.fuse(task.method, grids, device)
            mine = {}
            for protocol in task.protocols:
                volume = fused[settings.grid_of(protocol)]
                mine[protocol, label] = _scores(scorers[protocol], volume)
                undefined |= scorers[protocol].undefined
            if record and "volume" in task.protocols:
                kinds = KINDS[settings.lesions]
                mine["volume", label] |= measure(case, task.method, kinds, device, record)
            scores |= mine
            pictured[label], stamps[label] = fused[settings.grid], task.stamp
        except ValueError as error:  # what a scorer says of a volume with NaN in it
            errors.append(InputError(label, str(error), "look at this method's result"))
        except Exception as error:
            errors.append(in_one_line(error, label))
        bar.update()
    if pictured:
        _save_slices(book.folder, case, settings.grid, pictured)
        book.add(case.name, scores, stamps)
    return errors


def _scorers(
    case: Case, tasks: Sequence[Task], settings: Settings, device: torch.device
) -> dict[str, Scorer]:
    """{protocol: scorer} of the protocols that any task asks for."""
    scorers = {}
    try:
        for task in tasks:
            for protocol in task.protocols:
                if protocol not in scorers:
                    sources = case.sources(settings.grid_of(protocol))
                    scorers[protocol] = settings.scorer(protocol, *sources, device)
    except ValueError as error:  # such as a mask without a voxel
        raise InputError(case.files[0].path, str(error), "look at this pair") from error
    return scorers


def _scores(scorer: Scorer, fused: Tensor) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedScore)  # NaN is counted and shown in the tables
        return scorer(fused)


def _save_slices(folder: Path, case: Case, grid: str, fused: dict[str, Tensor]) -> None:
    """Keep three planes of each volume, for the pictures of all subjects."""
    volumes = dict(zip(SOURCES, case.sources(grid), strict=True)) | fused
    arrays = {name: volume.numpy() for name, volume in volumes.items()}
    planes = planes_through_centre(arrays["MRI"], arrays)
    save_slices(folder, case.name, planes, case.voxel_mm(grid))
