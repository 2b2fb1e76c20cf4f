"""Tables of scans: read the user's list of pairs, write down what was found."""

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from data.bids import UNNAMED, entities, frame_durations, read_json, sidecar_of, tracer
from data.bids import pet_problem as problem_of_pet
from data.tracers import FDG_NAME, is_fdg, is_tracer
from preparation.descriptions import FILE_NAME, pet_problem, read_place
from preparation.formats import (
    NOT_READ,
    PAPERS,
    by_content,
    ending,
    modality_by_name,
    reason,
)
from preparation.pairing import days_between, drop_shared, too_far_apart
from preparation.read.dicom_header import SeriesHeader, describe_series
from preparation.scans import (
    PLAIN_NAME,
    SCAN_COLUMNS,
    Findings,
    LeftOutScan,
    Scan,
    ScanPair,
    scan_cells,
)
from utils.errors import InputError
from utils.files import reading_problem, visible, write_tsv
from utils.text import natural_key, read_table

_PAIR_COLUMNS = "subject", "mri", "pet"
_MOST_FILES = 50_000  # a dynamic PET of 100 frames has 20,000
_COLUMNS = (
    "subject",
    "status",
    *(f"mri_{column}" for column in SCAN_COLUMNS),
    *(f"pet_{column}" for column in SCAN_COLUMNS),
    "days",
    "path",
    "reason",
)


def read_scan_pairs(
    path: str | os.PathLike, max_days: int = 365, wanted: str = FDG_NAME
) -> Findings:
    """Read a table `subject,mri,pet` of NIfTI files, DICOM files or folders of DICOM files.

    Separated by commas, semicolons or tabs; relative paths start at the table's folder. The JSON
    beside a NIfTI PET may tell its `FrameDuration` and its `TracerName`. A line that cannot be used
    is left out with its number, which is a fault: every line was asked for. A subject in two lines
    is left out, because nobody knows which line is meant.

    Args:
        path: the table.
        max_days: between the acquisitions of a pair, where names tell both dates.
        wanted: the tracer; a PET that does not name its own is taken for it, because it was listed.

    Raises:
        InputError: no such file, not UTF-8 text, empty, columns missing, or no lines below the
            header.
    """
    path = Path(path)
    rows = read_table(path, _PAIR_COLUMNS)
    if not rows:
        remedy = "write one line `subject,mri,pet` for each pair"
        raise InputError(path, "no subjects in it", remedy)
    lines: dict[str, list[int]] = defaultdict(list)
    for line, row in rows:
        lines[row.get("subject", "").casefold()].append(line)
    pairs, left_out = [], []
    for line, row in rows:
        name = row.get("subject", "")
        others = [str(other) for other in lines[name.casefold()] if other != line]
        item = _listed_pair(path, line, row, max_days, wanted)
        if name and others:
            also = f"the subject is also in line {', '.join(others)}; keep one of them"
            item = LeftOutScan(name, path, f"line {line}: {also}", is_fault=True)
        (pairs if isinstance(item, ScanPair) else left_out).append(item)
    pairs, shared = drop_shared(sorted(pairs, key=lambda pair: natural_key(pair.name)))
    return Findings(tuple(pairs), (*left_out, *shared))


def _listed_pair(
    path: Path, line: int, row: dict[str, str], max_days: int, wanted: str
) -> ScanPair | LeftOutScan:
    """One line of the table as a pair, or what is wrong with it."""
    name = row.get("subject", "")

    def fault(at: Path, reason: str) -> LeftOutScan:
        return LeftOutScan(name, at, f"line {line}: {reason}", is_fault=True)

    if not PLAIN_NAME.fullmatch(name):
        return fault(path, f"not a subject name: {name!r}; use up to 64 letters, digits and . _ -")
    scans = []
    for column, modality in (("mri", "MRI"), ("pet", "PET")):
        if not row.get(column):
            return fault(path, f"no {column}; name both on each line")
        scan = _scan_at(path.parent / row[column], name, modality, wanted)
        if isinstance(scan, str):
            return fault(path.parent / row[column], scan)
        scans.append(scan)
    days = days_between(*scans)
    if days is not None and days > max_days:
        return fault(path, too_far_apart(days, max_days))
    warnings = scans[0].remarks + scans[1].remarks
    return ScanPair(name, *scans, days, warnings)


def _scan_at(path: Path, subject: str, modality: str, wanted: str) -> Scan | str:
    """The scan in a file or folder, or what is wrong with it."""
    files = _files_at(path, modality)
    if isinstance(files, str):
        return files
    kinds = [by_content(file) for file in files]
    kind = next((kind for kind in ("dicom", "nifti", *NOT_READ) if kind in kinds), None)
    if kind is None:
        return f"neither NIfTI nor DICOM: {files[0].name}"
    if kind in NOT_READ:
        return reason(kind)
    files, remarks = _of_kind(kind, files, kinds, modality)
    if modality == "MRI" and kind == "nifti" and len(files) > 1:
        return f"{len(files)} NIfTI files for one MRI"
    if modality_by_name(files[0]) not in (None, modality):
        return f"file looks like the other modality ({files[0].name} for the {modality})"
    listed = path.absolute() if path.is_dir() else None
    scan = _described(Scan(subject, modality, files, kind, listed=listed, remarks=remarks))
    # Without a header that can be read, reading the images will say why.
    header = describe_series(files, wanted) if kind == "dicom" else None
    header = header if isinstance(header, SeriesHeader) else None
    if modality == "PET" and (problem := _pet_problem(scan, header, wanted)):
        return problem
    if header and not scan.description:
        scan = replace(scan, description=header.description)
    if modality == "PET" and header and is_fdg(wanted):
        if not (header.names_tracer or is_tracer(scan.description, wanted)):
            scan = replace(scan, remarks=(*scan.remarks, UNNAMED))
    return _with_sidecar(scan, wanted) if modality == "PET" and kind == "nifti" else scan


def _files_at(path: Path, modality: str) -> tuple[Path, ...] | str:
    """The file, or the files of the folder; what is wrong where there is none."""
    if problem := reading_problem(path):
        return f"the {modality} is {', '.join(problem)}"
    try:
        if path.is_file():
            return (path.absolute(),)
        if not path.is_dir():
            return f"no such file for the {modality}"
        return _files_below(path) or f"no files in the {modality}'s folder"
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        return f"the {modality} cannot be read ({said})".lower()


def _of_kind(
    kind: str, files: tuple[Path, ...], kinds: list[str], modality: str
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files of one kind, with a remark on the others.

    What is named like DICOM files beside it and is none is kept: reading it will say so.
    """
    own = [file for file, its_kind in zip(files, kinds, strict=True) if its_kind == kind]
    endings = {ending(file) for file in own} - {""} if kind == "dicom" else set()
    kept = tuple(file for file in files if file in own or ending(file) in endings)
    others = [file for file in files if file not in kept and ending(file) not in PAPERS]
    if kind == "nifti":
        others = [file for file in others if ending(file) != ".json"]
    if not others:
        return kept, ()
    what = {"dicom": "DICOM", "nifti": "NIfTI"}[kind]
    counted = f"{len(others)} that are no {what}, as {others[0].name}"
    return kept, (f"files of the {modality}'s folder passed over: {counted}",)


def _pet_problem(scan: Scan, header: SeriesHeader | None, wanted: str) -> str | None:
    """Why a PET has another tracer, or no attenuation correction, by its name and its header."""
    problem = pet_problem(scan.description, wanted)
    if header:
        problem = problem or pet_problem(header.description, wanted) or header.pet_problem
    return problem


def _files_below(folder: Path) -> tuple[Path, ...]:
    """The visible files of a folder and its folders, in natural order."""

    def refused(error: OSError) -> None:
        raise error

    found = []
    for at, folders, files in os.walk(folder.absolute(), onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(at, name) for name in visible(files, folders)]
        if len(found) > _MOST_FILES:
            raise ValueError(f"more than {_MOST_FILES} files are no one scan; name its own folder")
    return tuple(sorted(found, key=lambda file: natural_key(os.fspath(file))))


def _described(scan: Scan) -> Scan:
    """The scan with what ADNI's names say, where it has them."""
    match, place = FILE_NAME.fullmatch(scan.files[0].name), read_place(scan.files[0].parent)
    if match is None:
        return scan
    image = f"I{match['image']}" if match["image"] else place.image_id
    return replace(scan, description=match["description"], date=place.date, image_id=image)


def _with_sidecar(pet: Scan, wanted: str) -> Scan | str:
    """A NIfTI PET with the FrameDuration of the JSON beside it, or what this says against it."""
    first = pet.files[0]
    sidecar = sidecar_of(first)
    try:
        is_there = os.path.lexists(sidecar) or reading_problem(sidecar)
        fields = read_json(sidecar) if is_there else {}
        durations = frame_durations(fields)
    except (InputError, ValueError, TypeError) as error:
        return f"the PET's sidecar is damaged ({error})"
    labels = entities(first)
    is_named = tracer(labels, fields) or is_tracer(pet.description, wanted)
    if not is_fdg(wanted) and not is_named:
        fields = fields | {"TracerName": wanted}
    if problem := problem_of_pet(labels, fields, wanted):
        return problem
    # Without a sidecar nothing has said that the tracer is not known.
    is_doubtful = is_fdg(wanted) and fields and not is_named
    remarks = (*pet.remarks, UNNAMED) if is_doubtful else pet.remarks
    return replace(pet, frame_durations=durations, remarks=remarks)


def refuse_inside(out: str | os.PathLike, source: str | os.PathLike) -> None:
    """Refuse an output folder in the input folder: its files would be found as inputs next time.

    Raises:
        InputError: `out` is `source` or lies below it, links resolved.
    """
    if Path(out).resolve().is_relative_to(Path(source).resolve()):
        raise InputError(out, f"lies in the input folder {source}", "choose another output folder")


# Writing -----------------------------------------------------------------------------------------


def write_pairs_tsv(path: str | os.PathLike, findings: Findings) -> None:
    """Write one line for each pair and each thing left out, as by `utils.tsv.write_tsv`.

    Raises:
        InputError: the file cannot be written.
    """
    rows = [*map(_pair_row, findings.pairs), *map(_left_out_row, findings.left_out)]
    rows += [
        {"status": "left out", "reason": f"image {image} is not in the download"}
        for image in findings.missing_ids
    ]
    write_tsv(path, _COLUMNS, rows, "give a folder that can be written to")


def _pair_row(pair: ScanPair) -> dict[str, object]:
    cells = scan_cells(pair.mri) | scan_cells(pair.pet)
    return {
        "subject": pair.name,
        "status": "paired",
        **cells,
        "days": pair.days,
        "reason": "; ".join(pair.warnings),
    }


def _left_out_row(item: LeftOutScan) -> dict[str, object]:
    cells = scan_cells(item.scan) if item.scan else {}
    return {
        "subject": item.subject,
        "status": "left out",
        **cells,
        "path": item.path,
        "reason": item.reason,
    }
