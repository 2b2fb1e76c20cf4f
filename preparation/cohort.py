"""Prepare a cohort: every pair of scans converted, aligned, written and pictured.

    plan    which subjects there are to make, and what earlier runs have made of them
    run     make what is missing, each subject in a process of its own
    judge   flag what is implausible; what is plausible depends on the cohort, so all come together
    settle  only now each subject appears in the data set, among the plausible or the flagged ones

What is finished stays finished: a subject is not made again when it was made from the same files
with the same options and versions, and its images are whole.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data.tracers import FDG_NAME, is_fdg
from preparation.align.quality import LEAST_NMI, judge
from preparation.align.template import PACKAGED, load_template
from preparation.output.folder import PreparedFolder
from preparation.output.layout import Place, name_problems, place_of, write_bids_dataset
from preparation.scans import ScanPair
from preparation.subject import VERSION, Job, PrepareOptions, prepare_subject
from utils.cluster import run_on_cluster
from utils.errors import InputError, notice
from utils.processes import Outcome, Task, run_tasks

BYTES_EACH = 1 << 30  # memory of a process at 1 mm
DISK_EACH = 30_000_000  # bytes of two volumes of 1 mm with a scanner's noise
PACKAGES = ("antspyx", "pydicom", "nilearn")  # that only preparation needs
_CHANGE_VOXELS = (
    *PACKAGES,
    "numpy",
    "scipy",
    "nibabel",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
)
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Order:
    """What a run is asked to do with its pairs.

    Attributes:
        options: how the files of each subject come out.
        folder: the data set, locked; subjects that are not among the pairs stay as they are.
        source: folder or table that the pairs were found in.
        jobs: subjects at a time, on this machine.
        scheduler: of the Dask cluster whose machines do the work instead.
        limit_s: wall-clock seconds for each.
        force: make everything anew.
        strict: also flag every subject whose NMI in the brain is below a fixed limit.
    """

    options: PrepareOptions
    folder: PreparedFolder
    source: Path
    jobs: int = 1
    scheduler: str | None = None
    limit_s: float = 600.0
    force: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Item:
    """A subject on its way; each stage makes a new one.

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
    flags: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def name(self) -> str:
        return self.pair.name

    @property
    def is_to_be_made(self) -> bool:
        """Whether nothing is there of it and nothing speaks against it."""
        return self.record is None and self.problem is None

    @property
    def status(self) -> str:
        """flagged, failed, warned, skipped (made before) or ok."""
        if self.record is None:
            return "failed"
        if self.flags:
            return "flagged"
        if self.is_old:
            return "skipped"
        return "warned" if self.warnings else "ok"

    @property
    def warnings(self) -> list[str]:
        """Of the pair as it was found now, and of its images when they were made."""
        when_made = self.record["warnings"] if self.record else ()
        return list(dict.fromkeys([*self.pair.warnings, *when_made]))


def prepare(
    pairs: Sequence[ScanPair],
    order: Order,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    tell: Callable[[str], None] = notice,
) -> list[Item]:
    """Make what is not made yet, judge all, and bring each subject to its place.

    Args:
        progress: wraps the iteration over finished subjects, with their number.
        tell: says a line about one subject that went wrong, as soon as it is known.

    Returns:
        an item for each pair, in their order.

    Raises:
        InputError: the template or the folder cannot be used, or the folder holds a data set of
            another kind.
    """

    def told(item: Item) -> Item:
        if item.problem:
            tell(f"{item.name}: {item.problem}")
        return item

    if order.options.template:  # one error for all, before anything is touched
        load_template(order.options.template)
    if order.options.warp:
        order.options.warp.check()
    versions = _versions()
    items = {item.name: told(item) for item in plan(pairs, order)}
    to_make = [item for item in items.values() if item.is_to_be_made]
    _compare_space(order.folder.root, len(to_make))
    with contextlib.closing(run(to_make, order, versions)) as finished:
        for item in progress(finished, len(to_make)):
            items[item.name] = told(item)
    settled = []
    for item in judged(items.values(), order.strict):
        after = settle(item, order.folder)
        settled.append(after if after is item else told(after))
    if order.options.layout == "bids":
        participants = order.folder.participants()
        write_bids_dataset(
            order.folder.root,
            versions["dc2fusion"],
            participants,
            order.source,
            order.options.tracer,
        )
    order.folder.tidy()
    return settled


# Plan --------------------------------------------------------------------------------------------


def plan(pairs: Sequence[ScanPair], order: Order) -> list[Item]:
    """Every pair with its place and fingerprint, and what earlier runs have made of it.

    Raises:
        InputError: the folder holds a data set of another kind.
    """
    options, folder = order.options, order.folder
    there = folder.subjects()
    _refuse_another_kind(folder.root, there, options)
    problems = name_problems(pairs, options.layout, there)
    items = []
    for pair in pairs:
        place = place_of(pair.name, options.layout, options.space, options.template, options.tracer)
        item = Item(pair, place, problem=problems.get(pair.name))
        items.append(item if item.problem else _compared(item, order))
    _mention_others(items, folder, there)
    return items


def _compared(item: Item, order: Order) -> Item:
    """An item with its fingerprint, and its record where an earlier run has made the same."""
    folder = order.folder
    try:
        item = replace(item, fingerprint=fingerprint(item.pair, order.options))
    except OSError as error:
        problem = f"{error.filename}: cannot be read ({error.strerror}); check the disk"
        return replace(item, problem=problem)
    if folder.is_foreign(item.place):
        where = folder.root / item.place.folder
        problem = f"{where}: is there and not made by this program; choose another --out"
        return replace(item, problem=problem)
    if order.force:
        return item
    record = folder.complete_record(item.name, item.place, item.fingerprint)
    return replace(item, record=record, is_old=record is not None)


def _mention_others(items: Iterable[Item], folder: PreparedFolder, there: Iterable[Path]) -> None:
    """Say which subjects of earlier runs this one leaves alone."""
    own = {item.place.folder for item in items}
    others = [path.as_posix() for path in there if path not in own]
    if others:
        stay = f"{len(others)} subjects of earlier runs stay as they are"
        notice(f"{folder.root}: {stay}: {_first(others)}")
    waiting = folder.waiting() - {item.name for item in items}
    if waiting:
        wait = f"{len(waiting)} subjects of an interrupted run wait for one"
        notice(f"{folder.unjudged}: {wait} that has them among its pairs: {_first(waiting)}")


def _first(names: Iterable[str]) -> str:
    """The first names of many."""
    names = sorted(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _refuse_another_kind(
    root: Path, there: Mapping[Path, tuple[str, dict]], options: PrepareOptions
) -> None:
    """Refuse to put subjects beside others made in another way: no training could use both.

    Raises:
        InputError: layout, space, mask, or the template that the images lie on, differ.
    """
    warp = options.warp and options.warp.digest
    wanted = _kind(options.layout, asdict(options), template_name(options.template), warp)
    for folder, (layout, record) in there.items():
        about = record.get("options", {}), record.get("template"), record.get("warp")
        held = _kind(layout, *about)
        for flag, value in held.items():
            if value != wanted[flag]:
                made = f"subjects made with {flag} {value} ({folder.as_posix()})"
                problem = f"holds {made}, not {wanted[flag]}"
                raise InputError(root, problem, "choose another --out, or the same options")


def _kind(
    layout: str, options: Mapping, template: str | None, warp: str | None
) -> dict[str, str | None]:
    """What all subjects of a data set must have in common, by flag."""
    space, mask = options.get("space"), options.get("mask")
    decides = space == "mni" or mask == "brain"  # else the template only serves the judgement
    return {
        "--layout": layout,
        "--space": space,
        "--mask": mask,
        "--tracer": _tracer_kind(options.get("tracer", FDG_NAME)),
        "--template": template if decides else None,
        "--warp": warp and f"{warp[:12]}.. (SHA-256)",
    }


def _tracer_kind(name: str) -> str:
    """One name for all names of FDG."""
    return FDG_NAME if is_fdg(name) else name


def template_name(path: Path | None) -> str:
    """How a template is called in the records, as by `preparation.align.template.load_template`."""
    return PACKAGED if path is None else path.name.split(".nii")[0]


def _compare_space(root: Path, subjects: int) -> None:
    """Say so when the disk may not hold it all; each subject looks again before it writes."""
    free, needed = shutil.disk_usage(root).free, subjects * DISK_EACH
    if free < needed:
        need = f"{subjects} subjects can need {needed / 1e9:.1f} GB"
        notice(f"{root}: {free / 1e9:.1f} GB are free, {need}")


def fingerprint(pair: ScanPair, options: PrepareOptions) -> str:
    """A hash of all that a subject's files depend on: inputs, options, template and versions.

    Raises:
        OSError: an input or the template is not there.
    """
    inputs, about = [], []
    for scan in (pair.mri, pair.pet):
        for path in sorted(scan.files):
            status = os.stat(path)
            inputs.append([os.fspath(path.absolute()), status.st_size, status.st_mtime_ns])
        parts = scan.modality, scan.format, scan.description, scan.frame_durations, scan.matrix_z
        about.append(parts)
    template = "nilearn"
    if options.template:
        template = hashlib.sha256(options.template.read_bytes()).hexdigest()
    chosen = asdict(options) | {"template": template}
    if is_fdg(options.tracer):  # as before there was a choice
        del chosen["tracer"]
    chosen["warp"] = options.warp and options.warp.digest
    if options.warp is None:  # as before there was one
        del chosen["warp"]
    content = [VERSION, inputs, about, chosen, _versions()]
    text = json.dumps(content, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _versions() -> dict[str, str]:
    """Of the project and of the packages whose version can change voxels."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    found = {"dc2fusion": project["version"]}
    for package in _CHANGE_VOXELS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


# Run ---------------------------------------------------------------------------------------------


def run(items: Iterable[Item], order: Order, versions: dict[str, str]) -> Iterator[Item]:
    """Make subjects; each comes with its record or its problem as soon as it is finished."""
    to_make = {item.name: item for item in items}
    tasks = []
    for name, item in to_make.items():
        root, mark = order.folder.root, item.fingerprint
        job = Job(item.pair, item.place, order.options, root, mark, versions)
        tasks.append(Task(name, job, order.folder.log(name)))
    if order.scheduler:
        outcomes = run_on_cluster(prepare_subject, tasks, order.scheduler, order.limit_s)
    else:
        outcomes = run_tasks(prepare_subject, tasks, order.jobs, order.limit_s)
    with contextlib.closing(outcomes):  # kills the processes of a run that is left early
        for outcome in outcomes:
            yield _finished(to_make[outcome.task.name], outcome, order.folder)


def _finished(item: Item, outcome: Outcome, folder: PreparedFolder) -> Item:
    """What has become of a subject's task."""
    item = replace(item, record=outcome.result, seconds=outcome.seconds)
    problem = outcome.problem
    if not problem:
        return item
    # Where the same inputs, options and versions gave a result before, it cannot be the scans.
    known = folder.complete_record(item.name, item.place, item.fingerprint) is not None
    is_refused = outcome.is_final and not known
    if not is_refused and folder.has_result(item.name, item.place):
        problem += "; the earlier result stays"
        if not known:
            problem += ", made of other inputs or options"
    return replace(item, problem=problem, is_refused=is_refused)


# Judge and settle --------------------------------------------------------------------------------


def judged(items: Iterable[Item], strict: bool) -> list[Item]:
    """The items, with flags where one is implausible by itself or against the cohort."""
    items = list(items)
    figures = {item.name: item.record["figures"] for item in items if item.record}
    flags = judge(figures)
    after = []
    for item in items:
        found = tuple(flags.get(item.name, ()))
        if strict and item.record and not found:
            found = _strict_flags(figures[item.name])
        after.append(replace(item, flags=found))
    return after


def _strict_flags(figures: Mapping) -> tuple[str, ...]:
    """What --strict finds fault with, whatever the cohort is like."""
    nmi = figures.get("nmi_brain") or math.inf
    if nmi >= LEAST_NMI:
        return ()
    return (f"NMI in the brain is {nmi:.3f}, below {LEAST_NMI} (--strict)",)


def settle(item: Item, folder: PreparedFolder) -> Item:
    """Bring a complete subject to its place, and clear away what its scans no longer give.

    Returns:
        the item itself, or where the disk refuses one without a record and with the problem.
    """
    try:
        if item.record:
            folder.settle(item.name, item.place, bool(item.flags), item.fingerprint)
        elif item.is_refused and not folder.is_foreign(item.place):
            folder.remove(item.name, item.place)
    except (InputError, OSError) as error:
        problem = " ".join(str(error).split())
        return replace(item, record=None, flags=(), problem=problem)
    return item
