"""Find the T1w MRIs and FDG-PETs of a BIDS data set and pair them, one pair for each subject.

Taken are `sub-*/[ses-*/]anat/*_T1w.nii[.gz]` and `sub-*/[ses-*/]pet/*_pet.nii[.gz]`, nothing below
`derivatives`, `sourcedata` or `code`. Two scans of one session belong together; without such two
the nearest dates of `*_scans.tsv` decide, and without dates the nearest session numbers. The PETs
of a data set all have one `rec-` label, that with which most subjects have a pair. What names and
sidecars say is read by `data.bids`.
"""

import csv
import datetime
import io
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data.bids import (
    PET,
    T1W,
    BidsImage,
    Sidecars,
    Visit,
    frame_durations,
    images,
    listed,
    parts_not_downloaded,
    pet_problem,
    read_json,
    run_number,
    tracer_remark,
    visits,
)
from data.tracers import FDG_NAME
from preparation.descriptions import plausible_date
from preparation.pairing import (
    Candidate,
    Person,
    choose_version,
    days_between,
    drop_shared,
    keep_version,
    left,
    pair_up,
    pet_versions,
)
from preparation.scans import PLAIN_NAME, Findings, LeftOutScan, Scan, ScanPair
from utils.errors import InputError
from utils.files import check_readable, reading_problem
from utils.text import natural_key, read_text

_LOOKED_FOR = "looked for sub-*/[ses-*/]anat/*_T1w.nii.gz with sub-*/[ses-*/]pet/*_pet.nii.gz"
# The names of entities in a filter file, and in file names.
_ENTITIES = {
    "acquisition": "acq",
    "reconstruction": "rec",
    "session": "ses",
    "tracer": "trc",
    "run": "run",
    "task": "task",
    "subject": "sub",
}
_FILTER_KINDS = {"t1w": T1W, "pet": PET}
# fMRIPrep's filter files have them too, and they follow from the kind.
_NO_ENTITIES = "datatype", "suffix", "extension"
_FILTER_REMEDY = 'write {"t1w": {"run": "1"}, "pet": {"reconstruction": "coregavg"}}'
# Behind all MRIs without it: scanners send a reconstructed series beside the original.
_RANK_OF_REC = 1000

# {suffix: {entity: label}}; None asks for a file without the entity.
Filters = Mapping[str, Mapping[str, str | None]]


def find_bids(
    root: str | os.PathLike,
    max_days: int = 365,
    bids_filter: str | os.PathLike | Mapping | None = None,
    wanted: str = FDG_NAME,
) -> Findings:
    """Pair what lies in a BIDS data set.

    The pairs are called `sub-01`, or `sub-01_ses-M00` after the MRI's session.

    Args:
        root: folder with the `sub-*` folders.
        max_days: between the acquisitions of a pair, where `*_scans.tsv` has dates.
        bids_filter: entities that the files must have, as fMRIPrep's filter file has them, or the
            JSON file with them: `{"t1w": {"acquisition": "mprage"}, "pet": {"reconstruction":
            "coregavg"}}`; null asks for a file without the entity.
        wanted: the tracer.

    Raises:
        InputError: no such folder, one that cannot be read, no subject in it, or a bad filter.
    """
    root = Path(root)
    check_readable(root)
    if not root.is_dir():
        problem = "is a file" if root.is_file() else "no such folder"
        raise InputError(root, problem, "give the data set's folder")
    filters = _read_filter(bids_filter)
    root = root.absolute()
    folders = [folder for folder in listed(root) if folder.name.startswith("sub-")]
    if not folders:
        raise InputError(root, "no subject in it", _LOOKED_FOR)

    left_out: list[LeftOutScan] = []
    sidecars = Sidecars(root)
    people = {}
    for folder in _plain_folders(folders, left_out):
        people[folder.name] = _person(folder, sidecars, filters, wanted, left_out)
    notes = _keep_one_reconstruction(people, max_days, left_out)

    pairs, without = pair_up(people, max_days, _by_session, wanted)
    pairs, shared = drop_shared(pairs)
    left_out = sorted([*left_out, *without, *shared], key=lambda item: natural_key(item.subject))
    return Findings(tuple(map(_named, pairs)), tuple(left_out), notes=tuple(notes))


def _named(pair: ScanPair) -> ScanPair:
    """The pair called after its MRI's session too."""
    session = pair.mri.session
    return replace(pair, name=f"{pair.name}_ses-{session}") if session else pair


# Folders -----------------------------------------------------------------------------------------


def _plain_folders(folders: list[Path], left_out: list[LeftOutScan]) -> list[Path]:
    """The subjects' folders, less odd names and those that some disks would take for one."""
    same_name = defaultdict(list)
    for folder in folders:
        same_name[folder.name.casefold()].append(folder)
    kept = []
    for folder in folders:
        twins = [other for other in same_name[folder.name.casefold()] if other != folder]
        if not (folder.is_dir() or reading_problem(folder)):
            continue
        if not PLAIN_NAME.fullmatch(folder.name):
            left_out.append(LeftOutScan(folder.name, folder, "not a subject name", is_fault=True))
        elif twins:
            reason = (
                f"its name and {twins[0].name} differ in case alone: two folders for one subject"
            )
            left_out.append(LeftOutScan(folder.name, folder, reason, is_fault=True))
        else:
            kept.append(folder)
    return kept


def _person(
    folder: Path,
    sidecars: Sidecars,
    filters: Filters,
    wanted: str,
    left_out: list[LeftOutScan],
) -> Person:
    """The candidates of one participant, from all sessions."""
    person = Person()
    try:
        places = visits(folder)
    except InputError as error:
        left_out.append(_unreadable(folder.name, error))
        return person
    for visit in places:
        for part, why in parts_not_downloaded(visit):
            left_out.append(LeftOutScan(folder.name, part, why, is_fault=True))
        dates = _dates(visit, left_out)
        for suffix, candidates in ((T1W, person.mris), (PET, person.pets)):
            try:
                found = images(visit, suffix)
            except InputError as error:
                left_out.append(_unreadable(folder.name, error))
                continue
            for image in found:
                item = _candidate(image, suffix, dates, sidecars, filters, wanted)
                (left_out if isinstance(item, LeftOutScan) else candidates).append(item)
    return person


def _unreadable(subject: str, error: InputError) -> LeftOutScan:
    return LeftOutScan(subject, Path(error.source), error.problem, is_fault=True)


def _dates(visit: Visit, left_out: list[LeftOutScan]) -> dict[str, datetime.date]:
    """Acquisition dates by file name from `*_scans.tsv`; absurd ones and `n/a` are none."""
    dates = {}
    try:
        tables = [file for file in listed(visit.folder) if file.name.lower().endswith("_scans.tsv")]
    except InputError as error:
        left_out.append(_unreadable(visit.participant, error))
        return dates
    for table in tables:
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(table)), delimiter="\t"))
        except (InputError, csv.Error) as error:
            reason = f"its dates cannot be read ({error})"
            left_out.append(LeftOutScan(visit.participant, table, reason, is_fault=True))
            continue
        for row in rows:
            day = re.match(r"(\d{4})-(\d{2})-(\d{2})", row.get("acq_time") or "")
            date = plausible_date(*map(int, day.groups())) if day else None
            if date:
                dates[Path(row.get("filename") or "").name] = date
    return dates


# Files -------------------------------------------------------------------------------------------


def _candidate(
    image: BidsImage,
    suffix: str,
    dates: Mapping[str, datetime.date],
    sidecars: Sidecars,
    filters: Filters,
    wanted: str,
) -> Candidate | LeftOutScan:
    """One file as a candidate, or why it is none."""
    subject, file = image.visit.participant, image.path
    if not image.fits_folder:
        return LeftOutScan(subject, file, "its name does not fit its folder", is_fault=True)
    if not _matches(image, filters[suffix]):
        return LeftOutScan(subject, file, "does not match --bids-filter")
    if problem := reading_problem(file):
        return LeftOutScan(subject, file, ", ".join(problem), is_fault=True)
    scan = Scan(
        subject,
        "MRI" if suffix == T1W else "PET",
        files=(file,),
        format="nifti",
        description=_description(image),
        date=dates.get(file.name),
        session=image.visit.session,
    )
    run = image.run if isinstance(image.run, int) else 0
    if suffix == T1W:
        return Candidate(scan, rank=run + _RANK_OF_REC * ("rec" in image.labels))
    return _pet_candidate(image, scan, run, sidecars, wanted)


def _pet_candidate(
    image: BidsImage, scan: Scan, run: int, sidecars: Sidecars, wanted: str
) -> Candidate | LeftOutScan:
    """A PET with what its sidecars say, or why it is none to take."""
    try:
        fields = sidecars.fields(image.path)
        durations = frame_durations(fields)
    except (InputError, ValueError, TypeError) as error:
        return left(scan, f"its sidecar is damaged ({error})", is_fault=True)
    problem = pet_problem(image.labels, fields, wanted)
    if problem:
        return left(scan, problem)
    remark = tracer_remark(image.labels, fields)
    scan = replace(scan, frame_durations=durations)
    version = image.labels.get("rec", "")
    return Candidate(scan, rank=run, version=version, warnings=(remark,) if remark else ())


def _description(image: BidsImage) -> str:
    """The entities that tell this file from others of the session."""
    shown = [f"{key}-{value}" for key, value in image.labels.items() if key not in ("sub", "ses")]
    return "_".join(shown)


def _matches(image: BidsImage, wanted: Mapping[str, str | None]) -> bool:
    """Whether the file has the labels of a filter; runs are numbers, 02 is 2."""
    for entity, value in wanted.items():
        label = image.labels.get(entity)
        if entity == "run":
            label, value = run_number(label), run_number(value)
        if label != value:
            return False
    return True


def _read_filter(bids_filter: str | os.PathLike | Mapping | None) -> Filters:
    """The filter with the entities' short names."""
    filters: dict[str, dict] = {suffix: {} for suffix in _FILTER_KINDS.values()}
    if bids_filter is None:
        return filters
    if isinstance(bids_filter, Mapping):
        source, content = "--bids-filter", bids_filter
    else:
        source, content = Path(bids_filter), read_json(Path(bids_filter))
    for kind, wanted in content.items():
        suffix = _FILTER_KINDS.get(kind.lower())
        if suffix is None or not isinstance(wanted, Mapping):
            problem = f"{kind!r} is none of t1w and pet with their entities"
            raise InputError(source, problem, _FILTER_REMEDY)
        for entity, value in wanted.items():
            if entity in _NO_ENTITIES:
                continue
            if value is not None and not isinstance(value, str | int):
                problem = f"{entity} of {kind} is neither a text nor null"
                raise InputError(source, problem, _FILTER_REMEDY)
            label = None if value is None else str(value)
            filters[suffix][_ENTITIES.get(entity, entity)] = label
    return filters


# Choice ------------------------------------------------------------------------------------------


def _by_session(mri: Scan, pet: Scan) -> tuple:
    """One session before two, then the shortest known gap, then the nearest session numbers."""
    days = days_between(mri, pet)
    first, second = _session_number(mri), _session_number(pet)
    return (
        mri.session != pet.session,
        days is None,
        days or 0,
        abs(first - second),
        min(first, second),
    )


def _session_number(scan: Scan) -> int:
    digits = re.search(r"\d+", scan.session or "")
    return int(digits[0]) if digits else 0


def _keep_one_reconstruction(
    people: dict[str, Person], max_days: int, left_out: list[LeftOutScan]
) -> list[str]:
    """Leave the PETs with other `rec-` labels out; the note that says which one is taken."""
    labels = sorted(pet_versions(people))
    if len(labels) < 2:
        return []
    chosen = choose_version(people, labels, max_days, _by_session)
    name = f"rec-{chosen}" if chosen else "no rec-"
    reason = f"another reconstruction than the data set's ({name})"
    for person in people.values():
        left_out += keep_version(person, chosen, reason)
    return [f"PET reconstruction: {name} (--bids-filter chooses another)"]
