"""From everything a subject has to one MRI and one PET: nearest date, then preference, then the
newer image.

One pair a subject: a second visit of a person in another split would be a leak.
"""

import filecmp
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

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


def choose_version(
    people: Mapping[str, Person], order: Sequence[str], max_days: int, distance: Distance
) -> str | None:
    """The PET version with which most subjects have a pair; the first in `order` among equals, None
    without any.
    """
    found = {pet.version for person in people.values() for pet in person.pets}
    counts = {}
    for version in (name for name in order if name in found):
        kept = (
            Person(p.mris, [pet for pet in p.pets if pet.version == version])
            for p in people.values()
        )
        counts[version] = sum(_best(person, max_days, distance) is not None for person in kept)
    return max(counts, key=lambda version: counts[version], default=None)


def pair_up(
    people: Mapping[str, Person], max_days: int, distance: Distance = by_days
) -> tuple[list[ScanPair], list[LeftOutScan]]:
    """One pair for each subject that has one within `max_days`, and why everything else is left
    out.

    Gaps that nobody knows are allowed, with a warning. A subject without a pair is a fault, told
        once: its scans are
    left out with the same reason and are none.
    """
    pairs, left_out = [], []
    for name in sorted(people, key=natural_key):
        person = people[name]
        best = _best(person, max_days, distance)
        if best is None:
            left_out += _without_pair(name, person, max_days)
            continue
        mri, pet = best
        days = days_between(mri.scan, pet.scan)
        warnings = mri.warnings + pet.warnings
        if days is None:
            undated = " and ".join(
                scan.modality for scan in (mri.scan, pet.scan) if scan.date is None
            )
            warnings += (
                f"no usable date for the {undated}: the days between the scans are not known",
            )
        pairs.append(ScanPair(name, mri.scan, pet.scan, days, warnings))
        for chosen, others in ((mri, person.mris), (pet, person.pets)):
            reason = f"{label(chosen.scan)} is taken for this subject"
            left_out += [left(other.scan, reason) for other in others if other is not chosen]
    return pairs, left_out


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
    combinations = [
        pair
        for pair in product(person.mris, person.pets)
        if (days_between(*_scans(pair)) or 0) <= max_days
    ]
    return min(combinations, key=lambda pair: _order(pair, distance), default=None)


def _order(pair: tuple[Candidate, Candidate], distance: Distance) -> tuple:
    mri, pet = pair
    scans = _scans(pair)
    newer = tuple(-int(scan.image_id[1:]) if scan.image_id else 0 for scan in scans)
    names = tuple(natural_key("" if scan.image_id else os.fspath(scan.where)) for scan in scans)
    return mri.last_resort, pet.last_resort, distance(*scans), mri.rank, pet.rank, newer, names


def _scans(pair: tuple[Candidate, Candidate]) -> tuple[Scan, Scan]:
    return pair[0].scan, pair[1].scan


def _without_pair(name: str, person: Person, max_days: int) -> list[LeftOutScan]:
    """The subject's reason, and each of its candidates with the same one."""
    lacking = ["no T1 MRI"] * (not person.mris) + ["no FDG image"] * (not person.pets)
    if lacking:
        reason = " and ".join(lacking)
    else:
        gap = min(
            days_between(mri.scan, pet.scan) for mri, pet in product(person.mris, person.pets)
        )
        reason = too_far_apart(gap, max_days)
    scans = [candidate.scan for candidate in (*person.mris, *person.pets)]
    return [
        LeftOutScan(name, None, reason, is_fault=True),
        *(left(scan, f"no pair: {reason}") for scan in scans),
    ]


# The same image twice ----------------------------------------------------------------------------


def drop_shared(pairs: Iterable[ScanPair]) -> tuple[list[ScanPair], list[LeftOutScan]]:
    """Take out pairs whose MRI is their PET, and all pairs that share an image: nobody knows whose
    it is.
    """
    pairs = list(pairs)
    uses: dict[tuple[str, str], list[Path]] = {}
    for pair in pairs:
        for scan in (pair.mri, pair.pet):
            uses[pair.name, scan.modality] = list(scan.files)
    reasons: dict[str, LeftOutScan] = {}
    for group in _same_images(uses):
        for name, modality in group:
            others = [other for other, _ in group if other != name]
            path = uses[name, modality][0]
            problem = (
                f"same image as subject {others[0]}" if others else "MRI and PET are the same image"
            )
            reasons.setdefault(name, LeftOutScan(name, path, problem, is_fault=True))
    return [pair for pair in pairs if pair.name not in reasons], [reasons[name] for name in reasons]


def _same_images(uses: Mapping[tuple[str, str], list[Path]]) -> list[list[tuple[str, str]]]:
    """Groups of uses whose first files are equal; read only where sizes agree, fully only where
    beginnings do.
    """
    by_size, by_start = defaultdict(list), defaultdict(list)
    for use, files in uses.items():
        try:
            size = os.stat(files[0]).st_size
        except OSError:
            continue  # reading it will say what is wrong with it
        if size:
            by_size[len(files), size].append(use)
    for size, group in by_size.items():
        for use in group if len(group) > 1 else ():
            try:
                with open(uses[use][0], "rb") as file:
                    by_start[size, hashlib.sha256(file.read(_HASHED_BYTES)).digest()].append(use)
            except OSError:
                continue
    groups = []
    for group in by_start.values():
        while len(group) > 1:  # beginnings can be empty background, so that the whole files decide
            same = [
                use
                for use in group[1:]
                if filecmp.cmp(uses[group[0]][0], uses[use][0], shallow=False)
            ]
            if same:
                groups.append([group[0], *same])
            group = [use for use in group[1:] if use not in same]
    return groups
