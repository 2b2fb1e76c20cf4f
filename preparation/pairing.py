"""From all that a subject has to one MRI and one PET: nearest date, then preference, then newest.

One pair a subject: a second visit of a person in another split would be a leak.
"""

import filecmp
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from data.tracers import FDG_NAME
from preparation.scans import LeftOutScan, Scan, ScanPair
from utils.text import natural_key

_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Candidate:
    """A scan that could be taken.

    Attributes:
        scan: the scan.
        rank: of preference among scans of the same distance, 0 best.
        last_resort: taken only when nothing else makes a pair.
        version: of processing; the PETs of a data set all have the same one.
        warnings: what the pair should say when this is taken.
    """

    scan: Scan
    rank: int = 0
    last_resort: bool = False
    version: str = ""
    warnings: tuple[str, ...] = ()


@dataclass
class Person:
    """One subject's candidates."""

    mris: list[Candidate] = field(default_factory=list)
    pets: list[Candidate] = field(default_factory=list)


# What to sort combinations by before preference, smallest first.
Distance = Callable[[Scan, Scan], tuple]


def days_between(mri: Scan, pet: Scan) -> int | None:
    """Days between the acquisitions, at least 0; None when one of them has no date."""
    return abs((mri.date - pet.date).days) if mri.date and pet.date else None


def by_days(mri: Scan, pet: Scan) -> tuple:
    """Known gaps before unknown ones, short before long."""
    days = days_between(mri, pet)
    return days is None, days or 0


def pet_versions(people: Mapping[str, Person]) -> set[str]:
    """The processing versions that there are."""
    found: set[str] = set()
    for person in people.values():
        found.update(pet.version for pet in person.pets)
    return found


def choose_version(
    people: Mapping[str, Person], order: Sequence[str], max_days: int, distance: Distance
) -> str | None:
    """The PET version with which most subjects have a pair, None without any PET.

    Among equals it is the first in `order`.
    """
    found = pet_versions(people)
    candidates = [version for version in order if version in found]

    def number_of_pairs(version: str) -> int:
        number = 0
        for person in people.values():
            pets = [pet for pet in person.pets if pet.version == version]
            number += _best(Person(person.mris, pets), max_days, distance) is not None
        return number

    return max(candidates, key=number_of_pairs, default=None)


def keep_version(person: Person, version: str | None, reason: str) -> list[LeftOutScan]:
    """Take a person's PETs of other versions away; they are returned as left out."""
    others = [pet for pet in person.pets if pet.version != version]
    person.pets = [pet for pet in person.pets if pet.version == version]
    return [left(pet.scan, reason) for pet in others]


def pair_up(
    people: Mapping[str, Person],
    max_days: int,
    distance: Distance = by_days,
    tracer: str = FDG_NAME,
) -> tuple[list[ScanPair], list[LeftOutScan]]:
    """One pair for each subject that has one within `max_days`, and why all else is left out.

    Gaps that nobody knows are allowed, with a warning. A subject without a pair is a fault, told
    once: its scans are left out with the same reason and are none.

    Args:
        people: the candidates of each subject.
        max_days: between the acquisitions of a pair.
        distance: what is the nearest.
        tracer: of the PETs, for the reasons.
    """
    pairs, left_out = [], []
    for name in sorted(people, key=natural_key):
        person = people[name]
        best = _best(person, max_days, distance)
        if best is None:
            left_out += _without_pair(name, person, max_days, tracer)
            continue
        mri, pet = best
        days = days_between(mri.scan, pet.scan)
        warnings = mri.warnings + pet.warnings
        if days is None:
            warnings += (_undated(mri.scan, pet.scan),)
        pairs.append(ScanPair(name, mri.scan, pet.scan, days, warnings))
        left_out += _not_chosen(mri, person.mris) + _not_chosen(pet, person.pets)
    return pairs, left_out


def _undated(mri: Scan, pet: Scan) -> str:
    modalities = [scan.modality for scan in (mri, pet) if scan.date is None]
    which = " and ".join(modalities)
    return f"no usable date for the {which}: the days between the scans are not known"


def _not_chosen(chosen: Candidate, candidates: Iterable[Candidate]) -> list[LeftOutScan]:
    reason = f"{label(chosen.scan)} is taken for this subject"
    return [left(other.scan, reason) for other in candidates if other is not chosen]


def left(scan: Scan, reason: str, is_fault: bool = False) -> LeftOutScan:
    """A scan as left out."""
    return LeftOutScan(scan.subject, scan.where, reason, scan, is_fault)


def too_far_apart(days: int, max_days: int) -> str:
    """The reason against two scans with so many days between them."""
    return f"MRI and PET are {days} days apart (limit {max_days})"


def label(scan: Scan) -> str:
    """How to call a scan in a reason: the image id, else where it lies."""
    return scan.image_id or scan.where.name


def _best(person: Person, max_days: int, distance: Distance) -> tuple[Candidate, Candidate] | None:
    """The combination to take, with candidates of last resort only when the others make none."""
    allowed = []
    for mri, pet in product(person.mris, person.pets):
        days = days_between(mri.scan, pet.scan)
        if days is None or days <= max_days:
            allowed.append((mri, pet))
    return min(allowed, key=lambda pair: _order(*pair, distance), default=None)


def _order(mri: Candidate, pet: Candidate, distance: Distance) -> tuple:
    """What combinations are sorted by, best first; the last two make the choice definite."""
    return (
        mri.last_resort,
        pet.last_resort,
        distance(mri.scan, pet.scan),
        mri.rank,
        pet.rank,
        (_newer_first(mri.scan), _newer_first(pet.scan)),
        (_name_of(mri.scan), _name_of(pet.scan)),
    )


def _newer_first(scan: Scan) -> int:
    """ADNI numbers its images in the order in which they came."""
    return -int(scan.image_id[1:]) if scan.image_id else 0


def _name_of(scan: Scan) -> tuple:
    return natural_key("" if scan.image_id else os.fspath(scan.where))


def _without_pair(name: str, person: Person, max_days: int, tracer: str) -> list[LeftOutScan]:
    """The subject's reason, and each of its candidates with the same one."""
    lacking = ["no T1 MRI"] * (not person.mris) + [f"no {tracer} image"] * (not person.pets)
    if lacking:
        reason = " and ".join(lacking)
    else:
        combinations = product(person.mris, person.pets)
        nearest = min(days_between(mri.scan, pet.scan) for mri, pet in combinations)
        reason = too_far_apart(nearest, max_days)
    scans = [candidate.scan for candidate in (*person.mris, *person.pets)]
    fault = LeftOutScan(name, None, reason, is_fault=True)
    return [fault, *(left(scan, f"no pair: {reason}") for scan in scans)]


# The same image twice ----------------------------------------------------------------------------


# Whose scan it is, and its modality.
_Use = tuple[str, str]


def drop_shared(pairs: Iterable[ScanPair]) -> tuple[list[ScanPair], list[LeftOutScan]]:
    """Take out pairs that share an image, or whose MRI is their PET: nobody knows whose it is."""
    pairs = list(pairs)
    files: dict[_Use, tuple[Path, ...]] = {}
    for pair in pairs:
        files[pair.name, "MRI"] = pair.mri.files
        files[pair.name, "PET"] = pair.pet.files
    faults: dict[str, LeftOutScan] = {}
    for group in _same_images(files):
        for name, modality in group:
            others = [other for other, _ in group if other != name]
            problem = "MRI and PET are the same image"
            if others:
                problem = f"same image as subject {others[0]}"
            path = files[name, modality][0]
            faults.setdefault(name, LeftOutScan(name, path, problem, is_fault=True))
    kept = [pair for pair in pairs if pair.name not in faults]
    return kept, list(faults.values())


def _same_images(files: Mapping[_Use, Sequence[Path]]) -> list[list[_Use]]:
    """Groups of uses whose first files are equal.

    Files are read only where sizes agree, and fully only where beginnings do.
    """
    groups = []
    for same_size in _grouped(files, files, _size):
        for same_start in _grouped(same_size, files, _start):
            groups += _equal_files(same_start, files)
    return groups


def _grouped(
    uses: Iterable[_Use],
    files: Mapping[_Use, Sequence[Path]],
    key: Callable[[Sequence[Path]], Hashable | None],
) -> list[list[_Use]]:
    """Uses whose files have the same key, where there are several; None is no key."""
    groups = defaultdict(list)
    for use in uses:
        try:
            value = key(files[use])
        except OSError:
            continue  # reading it will say what is wrong with it
        if value is not None:
            groups[value].append(use)
    return [group for group in groups.values() if len(group) > 1]


def _size(files: Sequence[Path]) -> tuple[int, int] | None:
    """Number of files and bytes of the first; empty files are not the same image."""
    size = os.stat(files[0]).st_size
    return (len(files), size) if size else None


def _start(files: Sequence[Path]) -> bytes:
    with open(files[0], "rb") as file:
        return hashlib.sha256(file.read(_HASHED_BYTES)).digest()


def _equal_files(uses: list[_Use], files: Mapping[_Use, Sequence[Path]]) -> list[list[_Use]]:
    """Groups by all bytes: beginnings alone can be empty background."""
    groups = []
    while len(uses) > 1:
        first, *others = uses
        same, different = [first], []
        for use in others:
            is_same = filecmp.cmp(files[first][0], files[use][0], shallow=False)
            (same if is_same else different).append(use)
        if len(same) > 1:
            groups.append(same)
        uses = different
    return groups
