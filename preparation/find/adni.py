"""Find the T1 MRIs and FDG-PETs of an ADNI download and pair them, one pair for each subject.

Nothing but names is looked at in the walk: subject, description, date and image id come from
folders and file names (`preparation.descriptions`), tables are optional. One header is read in a
folder of DICOM files without ADNI's names, and one of each PET that could be taken, for its tracer.

All PETs of a data set are of one processing version, because a smoother one beside a sharper one is
visible: the version with which most subjects have a pair, among equals the first of
`descriptions.PET_VERSIONS`. A pattern for PET descriptions takes the place of that choice.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.bids import UNNAMED
from data.tracers import FDG_NAME, is_fdg, is_tracer
from preparation import descriptions as names
from preparation.find.adni_tables import Row, merged, read_image_ids, read_tables, read_xml
from preparation.find.adni_walk import Download, Series, walk_download
from preparation.pairing import (
    Candidate,
    Person,
    by_days,
    choose_version,
    drop_shared,
    keep_version,
    left,
    pair_up,
    pet_versions,
)
from preparation.read.dicom_header import SeriesHeader, describe, describe_series
from preparation.scans import PLAIN_NAME, Findings, LeftOutScan, Scan, ScanPair
from utils.errors import InputError
from utils.text import natural_key

_LOOKED_FOR = (
    "give the folder of an ADNI download (<subject>/<description>/<date>/I<image id>/ADNI_*.dcm "
    "or .nii)"
)
_UNKNOWN_RANK = 9  # behind all that `t1_rank` knows: only the user's pattern asks for it


def find_adni(
    root: str | os.PathLike,
    ids: Path | None = None,
    tables: Sequence[Path] = (),
    mri_description: str | None = None,
    pet_description: str | None = None,
    max_days: int = 365,
    wanted: str = FDG_NAME,
) -> Findings:
    """Pair what lies in a download.

    Args:
        root: any folder above the images.
        ids: list of the image ids to keep (`read_image_ids`); the others are left out, and that is
            no fault.
        tables: collection CSVs, idaSearch CSVs, XMLs or folders of them, for what names do not say.
        mri_description: pattern for the MRIs to take, instead of ADNI's T1 descriptions.
        pet_description: pattern for the FDG-PETs to take, instead of one processing version.
        max_days: between the acquisitions of a pair.
        wanted: the tracer; a PET of another one than FDG has to name it, in its description or its
            header.

    Raises:
        InputError: no such folder, nothing of ADNI in it, a bad list, table or pattern, or no
            pydicom.
    """
    root = Path(root)
    _check_pattern("--mri-description", mri_description)
    _check_pattern("--pet-description", pet_description)
    asked = _Asked(Path(ids)) if ids is not None else None
    rows = read_tables(tables)
    download = walk_download(root)
    if not download.series and not download.left_out:
        raise InputError(root, "no ADNI images in it", _LOOKED_FOR)

    left_out = list(download.left_out)
    scans = _scans(download, rows, wanted, left_out)
    missing = asked.missing(scans, left_out) if asked else []
    if asked:
        scans, left_out = asked.keep(scans, left_out)

    people = {name: Person() for name in sorted(download.subjects)}
    for found in scans:
        _add_candidate(people, found, mri_description, pet_description, wanted, left_out)
    if not is_fdg(wanted):  # the version is chosen among those that name the tracer
        _drop_by_header(people, wanted, left_out)
    notes = _keep_one_version(people, pet_description, max_days, left_out)
    if is_fdg(wanted):
        _drop_by_header(people, wanted, left_out)

    pairs, without = pair_up(people, max_days, tracer=wanted)
    if asked:
        without = _less_faults(without, {found.scan.subject for found in scans})
    pairs, shared = drop_shared(pairs)
    pairs = [_completed(pair, download, rows) for pair in pairs]
    left_out = sorted([*left_out, *without, *shared], key=lambda item: natural_key(item.subject))
    notes = download.notes() + notes
    return Findings(tuple(pairs), tuple(left_out), tuple(missing), tuple(notes))


def _check_pattern(flag: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        problem = f"{pattern!r} is no regular expression ({error})"
        raise InputError(flag, problem, "correct it") from error


# Series -> scans ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A scan, and what was read of its header (None where the names told enough)."""

    scan: Scan
    header: SeriesHeader | None = None


def _scans(
    download: Download, rows: dict[str, Row], wanted: str, left_out: list[LeftOutScan]
) -> list[_Found]:
    """All images of the download that are MRI or PET in a format that can be read, each once."""
    found = []
    for series in download.series:
        item = _scan(series, download, rows, wanted)
        if isinstance(item, LeftOutScan):
            left_out.append(item)
        else:
            found.append(item)
    return _without_copies(found, left_out)


def _scan(
    series: Series, download: Download, rows: dict[str, Row], wanted: str
) -> _Found | LeftOutScan:
    """One series with what its names, the tables and, where these do not tell, its header say."""
    place, where = names.read_place(series.folder), series.folder
    if series.subject and place.subject and series.subject != place.subject:
        reason = f"the file names say {series.subject}, the folder {place.subject}"
        return LeftOutScan(place.subject, where, reason, is_fault=True)
    image = series.image_id or place.image_id
    row = _row(image, place.date is None, download, rows)
    header = None
    if series.modality is None and series.format == "dicom":
        header = describe_series(series.paths, wanted)
        if isinstance(header, str):
            return LeftOutScan(place.subject or "", where, header, is_fault=True)

    in_header = header or SeriesHeader("", "", "", None)
    subject = series.subject or place.subject or row.subject or in_header.patient
    if not PLAIN_NAME.fullmatch(subject):
        reason = "neither folders nor header say whose image it is"
        return LeftOutScan("", where, reason, is_fault=True)
    if row.subject and row.subject != subject.upper():
        reason = f"the table says that {image} is an image of {row.subject}"
        return LeftOutScan(subject, where, reason, is_fault=True)
    told = row.description, series.description, place.description, in_header.description
    description = next(filter(None, told), "")
    modality = series.modality
    if modality is None:
        modality = header.modality if header else _modality(row, description)
    scan = Scan(
        subject,
        modality or "",
        files=series.paths,
        format=series.format,
        description=description,
        date=place.date or row.date,
        image_id=image,
    )
    return _found(scan, header)


def _found(scan: Scan, header: SeriesHeader | None) -> _Found | LeftOutScan:
    """The scan, unless its kind or number of files shows that it cannot be used."""
    if scan.modality not in ("MRI", "PET"):
        modality = scan.modality
        return left(scan, f"modality {modality}" if modality else "names do not tell MRI from PET")
    if scan.modality == "MRI" and scan.format == "nifti" and len(scan.files) > 1:
        return left(scan, f"{len(scan.files)} NIfTI files for one MRI", is_fault=True)
    return _Found(scan, header)


def _row(image: str | None, undated: bool, download: Download, rows: dict[str, Row]) -> Row:
    """The tables' row of an image; its XML is read only when the folder does not tell the date."""
    row = rows.get(image, Row())
    return merged(row, _xml_row(image, download)) if undated and row.date is None else row


def _xml_row(image: str | None, download: Download) -> Row:
    """What the XML beside an image says; nothing for a damaged one, which a note tells."""
    if image not in download.xml:
        return Row()
    try:
        return read_xml(download.xml[image])[1]
    except InputError as error:
        if str(error) not in download.remarks:
            download.remarks.append(str(error))
        return Row()


def _modality(row: Row, description: str) -> str | None:
    """MRI or PET from a table or a description, for NIfTI files without ADNI's names."""
    told = {"mri": "MRI", "mr": "MRI", "pet": "PET", "pt": "PET"}.get(row.modality.lower())
    if told:
        return told
    if names.looks_like_pet(description):
        return "PET"
    return "MRI" if names.t1_rank(description) is not None else None


def _without_copies(found: list[_Found], left_out: list[LeftOutScan]) -> list[_Found]:
    """Each image once, DICOM before NIfTI.

    Parts of one series in two folders are joined, copies left out.
    """
    kept: dict[tuple, _Found] = {}
    for item in sorted(found, key=lambda item: item.scan.format):
        scan = item.scan
        key = (scan.subject, scan.image_id or scan.where, names.plain(scan.description))
        first = kept.setdefault(key, item).scan
        if first is scan:
            continue
        names_here = {file.name for file in scan.files}
        are_parts = not any(file.name in names_here for file in first.files)
        if first.format == scan.format == "dicom" and are_parts:
            files = sorted(first.files + scan.files, key=lambda file: natural_key(file.name))
            kept[key] = replace(kept[key], scan=replace(first, files=tuple(files)))
        else:
            left_out.append(left(scan, f"the same image as {first.where}"))
    return list(kept.values())


# The user's list of ids ---------------------------------------------------------------------------


class _Asked:
    """The images that a list asks for."""

    def __init__(self, path: Path) -> None:
        self._list_name = path.name
        self._ids = read_image_ids(path)

    def missing(self, scans: list[_Found], left_out: list[LeftOutScan]) -> list[str]:
        """The ids of the list that are nowhere in the download."""
        present = {found.scan.image_id for found in scans}
        present |= {_id_of(item) for item in left_out}
        return [image for image in self._ids if image not in present]

    def keep(
        self, scans: list[_Found], left_out: list[LeftOutScan]
    ) -> tuple[list[_Found], list[LeftOutScan]]:
        """The scans on the list, and all the others as left out.

        What nobody asked for is no fault; what has no id may be one that was asked for.
        """
        asked = set(self._ids)
        others = []
        for item in left_out:
            image = _id_of(item)
            may_be_asked = image is None or image in asked
            others.append(replace(item, is_fault=item.is_fault and may_be_asked))
        kept = []
        for found in scans:
            image = found.scan.image_id
            if image in asked:
                kept.append(found)
            elif image:
                others.append(left(found.scan, f"not in {self._list_name}"))
            else:
                others.append(left(found.scan, f"no image id to look up in {self._list_name}"))
        return kept, others


def _id_of(item: LeftOutScan) -> str | None:
    """The image id of something that is there and cannot be used."""
    if item.scan:
        return item.scan.image_id
    return names.read_place(item.path).image_id if item.path else None


def _less_faults(items: list[LeftOutScan], subjects: set[str]) -> list[LeftOutScan]:
    """The same, with faults of these subjects alone: nobody asked for the others."""
    return [replace(item, is_fault=item.is_fault and item.subject in subjects) for item in items]


# Scans -> candidates -----------------------------------------------------------------------------


def _add_candidate(
    people: dict[str, Person],
    found: _Found,
    mri_description: str | None,
    pet_description: str | None,
    wanted: str,
    left_out: list[LeftOutScan],
) -> None:
    """Give the scan to its subject, or say why it is neither a T1 MRI nor a PET to take."""
    scan = found.scan
    person = people.setdefault(scan.subject, Person())
    if scan.modality == "MRI":
        problem = _mri_problem(scan.description, mri_description)
    else:
        problem = _pet_problem(found, pet_description, wanted)
    if problem:
        left_out.append(left(scan, problem))
    elif scan.modality == "MRI":
        rank = names.t1_rank(scan.description)
        rank = _UNKNOWN_RANK if rank is None else rank
        last_resort = names.is_last_resort(scan.description) and mri_description is None
        person.mris.append(Candidate(scan, rank, last_resort))
    else:
        version, rank = names.pet_version(scan.description, wanted)
        person.pets.append(Candidate(scan, rank, version=version))


def _mri_problem(description: str, pattern: str | None) -> str | None:
    """Why it is no MRI to take; the user's pattern is asked in place of ADNI's descriptions."""
    if pattern is not None:
        is_asked = names.matches(pattern, description)
        return None if is_asked else f"does not match --mri-description {pattern}"
    if names.looks_like_pet(description):
        return "file looks like the other modality (an MRI by its name, a PET by its description)"
    return None if names.t1_rank(description) is not None else "not a T1 series by its description"


def _pet_problem(found: _Found, pattern: str | None, wanted: str) -> str | None:
    """Why it is no PET to take; the user's pattern is asked beside what speaks against it."""
    description = found.scan.description
    if names.t1_rank(description) is not None and not names.looks_like_pet(description):
        return "file looks like the other modality (a PET by its name, an MRI by its description)"
    problem = names.pet_problem(description, wanted)
    if not problem and found.header:
        problem = found.header.pet_problem
    if not problem and pattern and not names.matches(pattern, description):
        problem = f"does not match --pet-description {pattern}"
    return problem


def _keep_one_version(
    people: dict[str, Person], pattern: str | None, max_days: int, left_out: list[LeftOutScan]
) -> list[str]:
    """Leave the PETs of other processing versions out; the note that says which one is taken."""
    if pattern is not None:
        versions = sorted(pet_versions(people))
        if len(versions) < 2:
            return []
        taken = ", ".join(versions)
        return [f"--pet-description {pattern} takes PETs of different smoothness: {taken}"]
    version = choose_version(people, names.PET_VERSIONS, max_days, by_days)
    if version is None:
        return []
    reason = f"another processing version than the data set's ({version})"
    for person in people.values():
        left_out += keep_version(person, version, reason)
    return [f"PET version: {version} (--pet-description chooses another)"]


def _drop_by_header(people: dict[str, Person], wanted: str, left_out: list[LeftOutScan]) -> None:
    """Look into one file of each PET, for tracer and attenuation correction.

    A description without prefix can be wrong.
    """
    for person in people.values():
        if not person.mris:
            continue  # no pair can come of it, and a header costs time
        kept = []
        for pet in person.pets:
            seen = _by_header(pet, wanted)
            if isinstance(seen, LeftOutScan):
                left_out.append(seen)
            else:
                kept.append(seen)
        person.pets = kept


def _by_header(candidate: Candidate, wanted: str) -> Candidate | LeftOutScan:
    """A PET with what its header makes doubtful, or why it is not taken."""
    pet = candidate.scan
    first = pet.files[0]
    header = describe(first, wanted) if pet.format == "dicom" else None
    if isinstance(header, SeriesHeader) and header.correction_problem:
        header = describe_series(pet.files, wanted)  # corrected planes may lie beside it
    if isinstance(header, str):
        return left(pet, f"{first.name}: {header}", is_fault=True)
    if header and header.pet_problem:
        return left(pet, header.pet_problem)
    if is_tracer(pet.description, wanted) or (header and header.names_tracer):
        return candidate
    if not is_fdg(wanted):
        return left(pet, f"tracer is not named, not known to be {wanted}")
    # Of ADNI's processed series those without a tracer before the description are FDG.
    is_doubtful = header and candidate.version == names.RAW
    return replace(candidate, warnings=(*candidate.warnings, UNNAMED)) if is_doubtful else candidate


def _completed(pair: ScanPair, download: Download, rows: dict[str, Row]) -> ScanPair:
    """The pair with the number of planes that the MRI's XML promises, and what is known of it."""
    image = pair.mri.image_id
    matrix_z = rows.get(image, Row()).matrix_z or _xml_row(image, download).matrix_z
    warnings = pair.warnings
    if names.WITHDRAWN.fullmatch(pair.name):
        warnings += ("ADNI withdrew the subjects 381_S_10### for quality",)
    return replace(pair, mri=replace(pair.mri, matrix_z=matrix_z), warnings=warnings)
