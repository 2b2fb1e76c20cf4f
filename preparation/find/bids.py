"""Find the T1w MRIs and FDG-PETs of a BIDS data set and pair them, one pair for each subject.

Taken are `sub-*/[ses-*/]anat/*_T1w.nii[.gz]` and `sub-*/[ses-*/]pet/*_pet.nii[.gz]`, nothing below
`derivatives`, `sourcedata` or `code`. Two scans of one session belong together; without such two
the nearest dates of `*_scans.tsv` decide, and without dates the nearest session numbers. The PETs
of a data set all have one `rec-` label, that with which most subjects have a pair.
"""

import csv
import datetime
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from data.subjects import entities, stem
from preparation.descriptions import plausible_date
from preparation.pairing import (
    Candidate,
    Person,
    choose_version,
    days_between,
    drop_shared,
    left,
    pair_up,
)
from preparation.scans import PLAIN_NAME, Findings, LeftOutScan, Scan, ScanPair
from utils.errors import InputError
from utils.text import natural_key, read_text

_LOOKED_FOR = "looked for sub-*/[ses-*/]anat/*_T1w.nii.gz with sub-*/[ses-*/]pet/*_pet.nii.gz"
_ENTITIES = {
    "acquisition": "acq",
    "reconstruction": "rec",
    "session": "ses",
    "tracer": "trc",
    "run": "run",
    "task": "task",
    "subject": "sub",
}
_FILTERS = "t1w", "pet"


def find_bids(
    root: str | os.PathLike,
    max_days: int = 365,
    bids_filter: str | os.PathLike | Mapping | None = None,
) -> Findings:
    """Pair what lies in a BIDS data set; the pairs are called `sub-01`, or `sub-01_ses-M00` after
    the MRI's session.

    Args:
        root: folder with the `sub-*` folders.
        max_days: between the acquisitions of a pair, where `*_scans.tsv` has dates.
        bids_filter: entities that the files must have, as fMRIPrep's filter file has them, or the
            JSON file with them: `{"t1w": {"acquisition": "mprage"}, "pet": {"reconstruction":
            "coregavg"}}`; null asks for a file without the entity.

    Raises:
        InputError: no such folder, no subject in it, or a bad filter.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            root, "is a file" if root.is_file() else "no such folder", "give the data set's folder"
        )
    filters = _read_filter(bids_filter)
    _pet_jsons.cache_clear()
    left_out: list[LeftOutScan] = []
    folders = [folder for folder in _listed(root, left_out) if folder.name.startswith("sub-")]
    if not folders:
        raise InputError(root, "no subject in it", _LOOKED_FOR)
    people = {}
    for folder in _without_twins(folders, left_out):
        people[folder.name] = _person(root.absolute(), folder.absolute(), filters, left_out)
    notes = _keep_one_recording(people, max_days, left_out)
    pairs, without = pair_up(people, max_days, _by_session)
    pairs, shared = drop_shared(pairs)
    left_out = sorted([*left_out, *without, *shared], key=lambda item: natural_key(item.subject))
    return Findings(tuple(_named(pair) for pair in pairs), tuple(left_out), notes=tuple(notes))


def _named(pair: ScanPair) -> ScanPair:
    """The pair called after its MRI's session too."""
    session = pair.mri.session
    return replace(pair, name=f"{pair.name}_ses-{session}") if session else pair


# Folders -----------------------------------------------------------------------------------------


def _listed(folder: Path, left_out: list[LeftOutScan]) -> list[Path]:
    """The visible entries of a folder in natural order; one that cannot be read is left out."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        subject = next((part for part in folder.parts if part.startswith("sub-")), "")
        left_out.append(
            LeftOutScan(subject, folder, (error.strerror or str(error)).lower(), is_fault=True)
        )
        return []
    return [folder / name for name in sorted(names, key=natural_key)]


def _without_twins(folders: list[Path], left_out: list[LeftOutScan]) -> list[Path]:
    """The subjects' folders, without those that some disks would take for one, and without odd
    names.
    """
    kept = []
    for folder in folders:
        twins = [
            other.name
            for other in folders
            if other.name.casefold() == folder.name.casefold() and other != folder
        ]
        if not folder.is_dir():
            continue
        if not PLAIN_NAME.fullmatch(folder.name):
            left_out.append(LeftOutScan(folder.name, folder, "not a subject name", is_fault=True))
        elif twins:
            reason = f"its name and {twins[0]} differ in case alone: two folders for one subject"
            left_out.append(LeftOutScan(folder.name, folder, reason, is_fault=True))
        else:
            kept.append(folder)
    return kept


def _person(
    root: Path, folder: Path, filters: dict[str, dict], left_out: list[LeftOutScan]
) -> Person:
    """The candidates of one participant, from all sessions."""
    entries = _listed(folder, left_out)
    sessions = [entry for entry in entries if entry.name.startswith("ses-") and entry.is_dir()]
    person = Person()
    for place in (folder, *sessions):
        session = place.name.removeprefix("ses-") if place != folder else None
        dates = _dates(place, left_out)
        for kind, ending in (("anat", "_T1w"), ("pet", "_pet")):
            if not (place / kind).is_dir():
                continue
            files = [
                file for file in _listed(place / kind, left_out) if stem(file).endswith(ending)
            ]
            for file in files:
                item = _candidate(root, file, folder.name, session, dates, filters)
                if isinstance(item, LeftOutScan):
                    left_out.append(item)
                else:
                    (person.mris if kind == "anat" else person.pets).append(item)
    return person


def _dates(place: Path, left_out: list[LeftOutScan]) -> dict[str, datetime.date]:
    """Acquisition dates by file name from `*_scans.tsv`; absurd ones and `n/a` are none."""
    dates = {}
    for table in (entry for entry in _listed(place, left_out) if entry.name.endswith("_scans.tsv")):
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(table)), delimiter="\t"))
        except (InputError, csv.Error) as error:
            reason = f"its dates cannot be read ({error})"
            left_out.append(LeftOutScan(_subject_of(table), table, reason, is_fault=True))
            continue
        for row in rows:
            day = re.match(r"(\d{4})-(\d{2})-(\d{2})", row.get("acq_time") or "")
            date = plausible_date(*map(int, day.groups())) if day else None
            if date:
                dates[Path(row.get("filename") or "").name] = date
    return dates


def _subject_of(file: Path) -> str:
    return next((part for part in file.parts if part.startswith("sub-")), "")


# Files -------------------------------------------------------------------------------------------


def _entities(file: Path) -> dict[str, str]:
    """`sub-01_trc-FDG_pet.nii.gz` -> {"sub": "01", "trc": "FDG"}."""
    return entities(file.name.split(".")[0])


def _candidate(
    root: Path,
    file: Path,
    subject: str,
    session: str | None,
    dates: dict[str, datetime.date],
    filters: dict[str, dict],
) -> Candidate | LeftOutScan:
    """One file as a candidate, or why it is none."""
    labels = _entities(file)
    if f"sub-{labels.get('sub')}" != subject or labels.get("ses", session) != session:
        return LeftOutScan(subject, file, "its name does not fit its folder", is_fault=True)
    modality = "MRI" if stem(file).endswith("_T1w") else "PET"
    wanted = filters["t1w" if modality == "MRI" else "pet"]
    if any(labels.get(entity) != value for entity, value in wanted.items()):
        return LeftOutScan(subject, file, "does not match --bids-filter")
    description = "_".join(
        f"{key}-{value}" for key, value in labels.items() if key not in ("sub", "ses")
    )
    scan = Scan(
        subject, modality, (file,), "nifti", description, dates.get(file.name), session=session
    )
    run = int(labels["run"]) if labels.get("run", "").isdecimal() else 0
    if modality == "MRI":
        return Candidate(scan, rank=run + 1000 * ("rec" in labels))
    try:
        sidecar = _sidecar(root, file)
        durations = frame_durations(sidecar)
    except (InputError, ValueError, TypeError) as error:
        return left(scan, f"its sidecar is damaged ({error})", is_fault=True)
    tracer = labels.get("trc") or str(sidecar.get("TracerName") or "")
    if tracer and not re.search("fdg|deoxyglucose", tracer, re.IGNORECASE):
        return left(scan, f"tracer is {tracer}, not FDG")
    warnings = () if tracer else ("the PET's tracer is not named, taken for FDG",)
    scan = replace(scan, frame_durations=durations)
    return Candidate(scan, rank=run, version=labels.get("rec", ""), warnings=warnings)


def frame_durations(sidecar: Mapping) -> tuple[float, ...] | None:
    """Seconds for each frame, None when the sidecar does not say. Raises ValueError or TypeError
    for no durations.
    """
    value = sidecar.get("FrameDuration")
    if value is None:
        return None
    seconds = tuple(float(item) for item in (value if isinstance(value, list) else [value]))
    if not all(0 < item < float("inf") for item in seconds):
        raise ValueError(f"FrameDuration {value}")
    return seconds


def _sidecar(root: Path, file: Path) -> dict:
    """The JSON fields that hold for a PET: files higher up hold for all below, nearer ones win."""
    labels = set(_entities(file).items())
    fields: dict = {}
    for folder in reversed([folder for folder in file.parents if folder.is_relative_to(root)]):
        for sidecar in _pet_jsons(folder):
            if set(_entities(sidecar).items()) <= labels:
                fields |= read_json(sidecar)
    return fields


@lru_cache(maxsize=4096)
def _pet_jsons(folder: Path) -> tuple[Path, ...]:
    """The PET sidecars of one folder, those with fewer entities first."""
    found = [
        file
        for file in folder.iterdir()
        if file.name == "pet.json" or file.name.endswith("_pet.json")
    ]
    return tuple(sorted(found, key=lambda file: (len(_entities(file)), file.name)))


def read_json(path: Path) -> dict:
    """Raises InputError when it cannot be read or is no JSON object."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(path, f"not JSON ({error})", "correct it") from error
    if not isinstance(content, dict):
        raise InputError(path, "not a JSON object", "correct it")
    return content


def _read_filter(bids_filter: str | os.PathLike | Mapping | None) -> dict[str, dict]:
    """{"t1w": {short entity: label}, "pet": ...}; a label of None asks for none."""
    if bids_filter is None:
        return {kind: {} for kind in _FILTERS}
    source = "--bids-filter" if isinstance(bids_filter, Mapping) else Path(bids_filter)
    content = bids_filter if isinstance(bids_filter, Mapping) else read_json(source)
    filters: dict[str, dict] = {kind: {} for kind in _FILTERS}
    remedy = 'write {"t1w": {"run": "1"}, "pet": {"reconstruction": "coregavg"}}'
    for kind, wanted in content.items():
        if kind.lower() not in _FILTERS or not isinstance(wanted, Mapping):
            raise InputError(source, f"{kind!r} is none of t1w and pet with their entities", remedy)
        for entity, value in wanted.items():
            if entity in ("datatype", "suffix", "extension"):
                continue  # fMRIPrep's files have them, and they follow from the kind
            if value is not None and not isinstance(value, str | int):
                raise InputError(source, f"{entity} of {kind} is neither a text nor null", remedy)
            filters[kind.lower()][_ENTITIES.get(entity, entity)] = (
                None if value is None else str(value)
            )
    return filters


# Choice ------------------------------------------------------------------------------------------


def _by_session(mri: Scan, pet: Scan) -> tuple:
    """One session before two, then known gaps before unknown ones, then the nearest session
    numbers.
    """
    days = days_between(mri, pet)
    numbers = [
        int(found[0]) if (found := re.search(r"\d+", scan.session or "")) else 0
        for scan in (mri, pet)
    ]
    return (
        mri.session != pet.session,
        days is None,
        days or 0,
        abs(numbers[0] - numbers[1]),
        min(numbers),
    )


def _keep_one_recording(
    people: dict[str, Person], max_days: int, left_out: list[LeftOutScan]
) -> list[str]:
    """Leave the PETs with other `rec-` labels out; the note that says which one is taken."""
    labels = sorted({pet.version for person in people.values() for pet in person.pets})
    if len(labels) < 2:
        return []
    chosen = choose_version(people, labels, max_days, _by_session)
    name = f"rec-{chosen}" if chosen else "no rec-"
    for person in people.values():
        reason = f"another reconstruction than the data set's ({name})"
        left_out += [left(pet.scan, reason) for pet in person.pets if pet.version != chosen]
        person.pets = [pet for pet in person.pets if pet.version == chosen]
    return [f"PET reconstruction: {name} (--bids-filter chooses another)"]
