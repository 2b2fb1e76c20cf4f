"""Prepare a cohort: every pair of scans converted, aligned, written and pictured, each in a process
of its own.

What is finished stays finished: a subject is skipped when it was made from the same files with the
    same options
and versions, and its images are whole. All subjects are judged together at the end, because what a
plausible alignment looks like depends on the cohort; only then do they appear in the data set.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from preparation.align.quality import LEAST_NMI, judge
from preparation.align.template import PACKAGED, load_template
from preparation.output.folder import PreparedFolder
from preparation.output.layout import Place, name_problems, place_of, write_bids_dataset
from preparation.scans import ScanPair
from preparation.subject import VERSION, Job, PrepareOptions, prepare_subject
from utils.errors import InputError, notice
from utils.processes import Outcome, Task, run_tasks

BYTES_EACH = 1 << 30  # memory of a process at 1 mm
DISK_EACH = 30_000_000  # bytes of two volumes of 1 mm with a scanner's noise
PACKAGES = ("antspyx", "pydicom", "nilearn")  # that only preparation needs
_OTHERS = (
    "numpy",
    "scipy",
    "nibabel",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
)  # change voxels, too
_ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Item:
    """A subject on its way.

    Attributes:
        pair, place: what it is made of and where it goes.
        fingerprint: of its inputs, options and versions.
        record: the JSON beside its images once they are complete.
        is_old: made by an earlier run.
        is_refused: its scans cannot be used; other problems may be gone the next time.
        problem: one line on why it cannot be made.
        flags: why its alignment is implausible; empty when it is not.
        seconds: that its process took.
    """

    pair: ScanPair
    place: Place
    fingerprint: str = ""
    record: dict | None = None
    is_old: bool = False
    is_refused: bool = False
    problem: str | None = None
    flags: list[str] = field(default_factory=list)
    seconds: float | None = None

    @property
    def status(self) -> str:
        """flagged, failed, warned, skipped (made before) or ok."""
        if self.record is None:
            return "failed"
        if self.flags:
            return "flagged"
        return "skipped" if self.is_old else "warned" if self.warnings else "ok"

    @property
    def warnings(self) -> list[str]:
        """Of the pair as it was found now, and of its images when they were made."""
        return list(
            dict.fromkeys([*self.pair.warnings, *(self.record["warnings"] if self.record else ())])
        )


def prepare(
    pairs: Sequence[ScanPair],
    options: PrepareOptions,
    folder: PreparedFolder,
    source: Path,
    jobs: int = 1,
    limit_s: float = 600.0,
    force: bool = False,
    strict: bool = False,
    progress: Callable[[Iterable, int], Iterable] = lambda outcomes, total: outcomes,
    tell: Callable[[str], None] = notice,
) -> list[Item]:
    """Make what is not made yet, judge all, and bring each subject to its place.

    Args:
        folder: the data set, locked; subjects that are not in `pairs` stay as they are.
        source: folder or table that the pairs were found in.
        jobs: subjects at a time.
        limit_s: wall-clock seconds for each.
        force: make everything anew.
        strict: also flag every subject whose NMI in the brain is below a fixed limit.
        progress: wraps the iteration over outcomes, with the number of all subjects.
        tell: says a line about one subject that went wrong, as soon as it is known.

    Returns:
        an item for each pair, in their order.

    Raises:
        InputError: the template or the folder cannot be used, or the folder holds a data set of
            another kind.
    """
    if options.template:  # one error for all, before anything is touched
        load_template(options.template)
    items = _plan(pairs, options, folder, force)
    for item in items:
        if item.problem:
            tell(f"{item.pair.name}: {item.problem}")
    by_name = {item.pair.name: item for item in items}
    versions = _versions()
    tasks = [
        Task(
            name,
            Job(item.pair, item.place, options, folder.root, item.fingerprint, versions),
            folder.log(name),
        )
        for name, item in by_name.items()
        if not item.record and not item.problem
    ]
    _compare_space(folder.root, len(tasks))
    with contextlib.closing(run_tasks(prepare_subject, tasks, jobs, limit_s)) as outcomes:
        for outcome in progress(outcomes, len(tasks)):
            _note(by_name[outcome.task.name], outcome, folder, tell)
    _judge(items, strict)
    for item in items:
        _settle(item, folder, tell)
    if options.layout == "bids":
        write_bids_dataset(folder.root, versions["dc2fusion"], folder.participants(), source)
    folder.tidy()
    return items


# Planning ----------------------------------------------------------------------------------------


def _plan(
    pairs: Sequence[ScanPair], options: PrepareOptions, folder: PreparedFolder, force: bool
) -> list[Item]:
    """Every pair with its place and fingerprint, and what earlier runs have made of it."""
    places = [
        place_of(pair.name, options.layout, options.space, options.template) for pair in pairs
    ]
    there, own = folder.subjects(), {place.folder for place in places}
    _refuse_another_kind(folder.root, there, options)
    others = [path.as_posix() for path in there if path not in own]
    if others:
        notice(
            f"{folder.root}: {len(others)} subjects of earlier runs stay as they are: {_first(others)}"
        )
    waiting = folder.waiting() - {pair.name for pair in pairs}
    if waiting:
        problem = f"{len(waiting)} subjects of an interrupted run wait for one that has them among its pairs"
        notice(f"{folder.unjudged}: {problem}: {_first(waiting)}")
    problems, items = name_problems(pairs, options.layout, there), []
    for pair, place in zip(pairs, places, strict=True):
        item = Item(pair, place, problem=problems.get(pair.name))
        items.append(item)
        if item.problem:
            continue
        try:
            item.fingerprint = fingerprint(pair, options)
        except OSError as error:
            item.problem = f"{error.filename}: cannot be read ({error.strerror}); check the disk"
            continue
        if folder.is_foreign(place):
            item.problem = f"{folder.root / place.folder}: is there and not made by this program; choose another --out"
        elif not force:
            item.record = folder.complete_record(pair.name, place, item.fingerprint)
            item.is_old = item.record is not None
    return items


def _first(names: Iterable[str]) -> str:
    """The first names of many."""
    names = sorted(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _refuse_another_kind(
    root: Path, there: Mapping[Path, tuple[str, dict]], options: PrepareOptions
) -> None:
    """Refuse to put subjects beside others that were made in another way: no training could use
    both.

    Raises:
        InputError: layout, space, mask, or the template that the images lie on, differ.
    """
    wanted = _kind(options.layout, asdict(options), template_name(options.template))
    for folder, (layout, record) in there.items():
        held = _kind(layout, record.get("options", {}), record.get("template"))
        for flag, value in held.items():
            if value != wanted[flag]:
                problem = f"holds subjects made with {flag} {value} ({folder.as_posix()}), not {wanted[flag]}"
                raise InputError(root, problem, "choose another --out, or the same options")


def _kind(layout: str, options: Mapping, template: str | None) -> dict[str, str | None]:
    """What all subjects of a data set must have in common, by flag."""
    space, mask = options.get("space"), options.get("mask")
    decides = space == "mni" or mask == "brain"  # else the template only serves the judgement
    return {
        "--layout": layout,
        "--space": space,
        "--mask": mask,
        "--template": template if decides else None,
    }


def template_name(path: Path | None) -> str:
    """How a template is called in the records, as by `preparation.align.template.load_template`."""
    return PACKAGED if path is None else path.name.split(".nii")[0]


def _compare_space(root: Path, subjects: int) -> None:
    """Say so when the disk may not hold what is to be made; each subject looks again before it
    writes.
    """
    free, needed = shutil.disk_usage(root).free, subjects * DISK_EACH
    if free < needed:
        notice(
            f"{root}: {free / 1e9:.1f} GB are free, {subjects} subjects can need {needed / 1e9:.1f} GB"
        )


def fingerprint(pair: ScanPair, options: PrepareOptions) -> str:
    """A hash of everything that a subject's files depend on: inputs, options, template and
    versions.

    Raises:
        OSError: an input or the template is not there.
    """
    inputs = []
    for scan in (pair.mri, pair.pet):
        for path in sorted(scan.files):
            status = os.stat(path)
            inputs.append([os.fspath(path.absolute()), status.st_size, status.st_mtime_ns])
    about = [
        [s.modality, s.format, s.description, s.frame_durations, s.matrix_z]
        for s in (pair.mri, pair.pet)
    ]
    template = (
        hashlib.sha256(options.template.read_bytes()).hexdigest() if options.template else "nilearn"
    )
    content = [VERSION, inputs, about, asdict(options) | {"template": template}, _versions()]
    return hashlib.sha256(
        json.dumps(content, default=str).encode("utf-8", "surrogateescape")
    ).hexdigest()


def _versions() -> dict[str, str]:
    """Of the project and of the packages whose version can change voxels."""
    found = {
        "dc2fusion": tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    }
    for package in (*PACKAGES, *_OTHERS):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


# The cohort --------------------------------------------------------------------------------------


def _note(
    item: Item, outcome: Outcome, folder: PreparedFolder, tell: Callable[[str], None]
) -> None:
    """What has become of a subject's task."""
    item.record, item.problem, item.seconds = outcome.result, outcome.problem, outcome.seconds
    if not item.problem:
        return
    # Where the same inputs, options and versions gave a result before, it cannot be the scans.
    known = folder.complete_record(item.pair.name, item.place, item.fingerprint) is not None
    item.is_refused = outcome.is_final and not known
    if not item.is_refused and folder.has_result(item.pair.name, item.place):
        item.problem += "; the earlier result stays" + (
            "" if known else ", made of other inputs or options"
        )
    tell(f"{item.pair.name}: {item.problem}")


def _judge(items: Iterable[Item], strict: bool) -> None:
    """Flag what is implausible by itself or against the cohort."""
    made = {item.pair.name: item for item in items if item.record}
    figures = {name: item.record["figures"] for name, item in made.items()}
    flags = judge(figures)
    for name, item in made.items():
        item.flags = flags[name]
        if strict and not item.flags and (figures[name].get("nmi_brain") or math.inf) < LEAST_NMI:
            item.flags = [
                f"NMI in the brain is {figures[name]['nmi_brain']:.3f}, below {LEAST_NMI} (--strict)"
            ]


def _settle(item: Item, folder: PreparedFolder, tell: Callable[[str], None]) -> None:
    """A complete subject to its place; what is left of one whose scans give none any more, away."""
    try:
        if item.record:
            folder.settle(item.pair.name, item.place, bool(item.flags), item.fingerprint)
        elif item.is_refused and not folder.is_foreign(item.place):
            folder.remove(item.pair.name, item.place)
    except (InputError, OSError) as error:
        item.record, item.flags = None, []
        item.problem = " ".join(str(error).split())
        tell(f"{item.pair.name}: {item.problem}")
