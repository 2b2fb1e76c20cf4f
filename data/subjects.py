"""Find the MRI and PET of each subject, and say who was left out and why.

Two layouts are known, and which one a folder has is found by looking:

- published: `<root>/<subject>/<subject>_mri_MNI152.nii.gz` and `<subject>_FDG_MNI152.nii.gz`;
- BIDS: `sub-*/[ses-*/]anat/*_T1w.nii.gz` and `sub-*/[ses-*/]pet/*_pet.nii.gz`, with any further
  entities in the names; PETs of other tracers than FDG are left out (`data.bids`).

Registration needs the MRIs alone (`find_heads`), and takes label maps that lie beside them.

`.nii` is taken as well as `.nii.gz`. For inference there is also a table of pairs (`read_pairs`).
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.bids import (
    PET,
    T1W,
    BidsImage,
    Sidecars,
    Visit,
    has_images,
    images,
    listed,
    parts_not_downloaded,
    pet_problem,
    run_number,
    stem,
    tracer_remark,
    visits,
)
from data.tracers import FDG_NAME, is_fdg, names_nothing
from utils.errors import InputError
from utils.files import check_readable, reading_problem
from utils.text import read_table

PUBLISHED_MRI, PUBLISHED_PET = "_mri_MNI152", "_FDG_MNI152"
PUBLISHED_LABELS = "_labels_MNI152"
# Folders beside the subjects: what others made of them (BIDS), and what prepare.py writes for
# people to look at.
NOT_SUBJECTS = ("derivatives", "flagged", "qc")
LONGEST_NAME = 200  # bytes; file systems take 255, and files are named <subject>_..., too
_LOOKED_FOR = (
    "looked for <subject>/<subject>_mri_MNI152.nii.gz with <subject>_FDG_MNI152.nii.gz, and for "
    "sub-*/[ses-*/]anat/*_T1w.nii.gz with sub-*/[ses-*/]pet/*_pet.nii.gz"
)


@dataclass(frozen=True)
class Subject:
    """One MRI/PET pair.

    Attributes:
        name: unique in its cohort; the folder's name, in BIDS `sub-01` or `sub-01_ses-M00`.
        mri, pet: the two files.
        group: the participant, whose sessions have to stay on one side of a split.
        is_tracer_named: whether anything names the PET's tracer.
    """

    name: str
    mri: Path
    pet: Path
    group: str
    is_tracer_named: bool = True


@dataclass(frozen=True)
class Head:
    """One MRI, whoever has a PET.

    Attributes:
        name, group: as of a `Subject`.
        mri: the file.
        labels: a label map on the MRI's grid, None where there is none.
    """

    name: str
    mri: Path
    labels: Path | None
    group: str


@dataclass(frozen=True)
class LeftOut:
    """Something found and not used: a subject, or a file of a subject that is used."""

    name: str
    reason: str


@dataclass(frozen=True)
class Cohort:
    """What lies in a folder, in natural order of the names (s2 before s10).

    Attributes:
        subjects: the complete pairs, or heads.
        left_out: the subjects without a usable pair.
        layout: "published" or "BIDS".
        passed_over: single files that were not taken, of subjects that have a pair all the same.
        content: what each of the subjects has.
    """

    subjects: tuple[Subject, ...] | tuple[Head, ...]
    left_out: tuple[LeftOut, ...]
    layout: str
    passed_over: tuple[LeftOut, ...] = ()
    content: str = "MRI and PET"

    def summary(self) -> str:
        """For printing: the number of pairs, then a line for each that was left out."""
        lines = [f"{_count(self.subjects, 'subject')} with {self.content} ({self.layout} layout)"]
        if self.left_out:
            lines.append(f"{_count(self.left_out, 'subject')} left out:")
            lines += [f"  {item.name}: {item.reason}" for item in self.left_out]
        if self.passed_over:
            lines.append(f"{_count(self.passed_over, 'file')} not taken:")
            lines += [f"  {item.name}: {item.reason}" for item in self.passed_over]
        unnamed = [subject.pet.name for subject in self.subjects if _is_unnamed(subject)]
        if unnamed:
            number, example = _count(unnamed, "PET"), f"as {unnamed[0]}"
            lines.append(f"{number} whose tracer is not named, taken for FDG, {example}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ListedPair:
    """One line of a table of pairs; `output` is None where the table does not name it."""

    subject: str
    mri: Path
    pet: Path
    output: Path | None
    line: int


def _is_unnamed(subject: Subject | Head) -> bool:
    return isinstance(subject, Subject) and not subject.is_tracer_named


def find_subjects(
    root: str | os.PathLike,
    recording: str | None = None,
    run: str | int | None = None,
    tracer: str = FDG_NAME,
) -> Cohort:
    """Pair the files below `root`.

    Args:
        recording: BIDS only: take the PET with this `rec-` label, else one that names none.
        run: BIDS only: the same for `run-` numbers; also chooses among several MRIs.
        tracer: BIDS only: take the PETs of this one.

    Raises:
        InputError: no such folder, an empty one, one in neither layout or in both, or nobody with
            a pair.
    """
    root = Path(root)
    folders = _subject_folders(root)
    layout = _layout(root, folders)
    if layout == "published":
        if not is_fdg(tracer):
            problem = f"{root} is in the published layout, whose PETs are FDG, not {tracer}"
            raise InputError("--tracer", problem, "give a BIDS data set, or leave the flag out")
        found = [_published_subject(folder) for folder in folders]
    else:
        asked = _Asked(tracer, recording, run)
        found = _bids_subjects(root, folders, asked)
    subjects, left_out, passed_over = [], [], []
    for item, files in found:
        if isinstance(item, Subject):
            subjects.append(item)
            passed_over += files
        else:
            left_out.append(item)
    if not subjects:
        first = left_out[0]
        problem = f"none of {_count(left_out, 'subject')} has a pair ({first.name}: {first.reason})"
        raise InputError(root, problem, "complete the pairs")
    return Cohort(tuple(subjects), tuple(left_out), layout, tuple(passed_over))


def find_heads(root: str | os.PathLike, run: str | int | None = None) -> Cohort:
    """The MRIs below `root`, in either layout, with or without a PET beside them.

    A label map on the MRI's grid is `<subject>_labels_MNI152.nii.gz` in the published layout and
    `..._dseg.nii.gz`, named like the MRI otherwise, in BIDS.

    Args:
        run: BIDS only: which of several MRIs.

    Raises:
        InputError: no such folder, an empty one, one in neither layout or in both, or no MRI.
    """
    root = Path(root)
    folders = _subject_folders(root)
    layout = _layout(root, folders)
    if layout == "published":
        found = [_published_head(folder) for folder in folders]
    else:
        found = []
        for folder in folders:
            if folder.name.startswith("sub-"):
                found += [_bids_head(visit, run) for visit in visits(folder)]
    heads = tuple(item for item in found if isinstance(item, Head))
    left_out = tuple(item for item in found if isinstance(item, LeftOut))
    if not heads:
        first = left_out[0]
        problem = f"none of {_count(left_out, 'subject')} has an MRI ({first.name}: {first.reason})"
        raise InputError(root, problem, "complete the data set")
    return Cohort(heads, left_out, layout, content="MRI")


def published_file(root: Path, subject: str, ending: str) -> Path:
    """Where the published layout has a subject's MRI or PET, by `PUBLISHED_MRI` or `_PET`."""
    return root / subject / f"{subject}{ending}.nii.gz"


def read_pairs(path: str | os.PathLike) -> list[ListedPair]:
    """Read a table of pairs for inference.

    A CSV with the header `mri,pet[,output][,subject]` (also separated by semicolons or tabs);
    relative paths start at the table's folder. Without a subject the MRI's file name stands for it.

    Raises:
        InputError: no such file, not text, no pairs, columns or cells missing, files that are not
            there, a subject that is no name, or a subject or output twice; with the line's number.
    """
    path = Path(path)
    rows = read_table(path, ("mri", "pet"), ("output", "subject"))
    pairs = [_listed_pair(path, line, row) for line, row in rows]
    if not pairs:
        raise InputError(path, "no pairs in it", "write one line `mri,pet` for each pair")
    _refuse_missing(path, pairs)
    _refuse_twice(path, "subject", pairs, "give each line its own name in a column `subject`")
    _refuse_twice(path, "output", pairs, "give each line its own output")
    return pairs


def name_problem(name: str) -> str | None:
    """Why `name` cannot name a subject (it becomes a part of paths and lists), None when it can."""
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "begins or ends with a blank"
    if len(os.fsencode(name)) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes, too long for the names of files"
    if "/" in name or "\\" in name or ".." in name or name == "." or re.match("[A-Za-z]:", name):
        return "has a path in it"
    if any(not character.isprintable() for character in name):
        return "has a control character in it"
    if re.search("[,;\"']", name) or name.startswith("#"):
        return "has a comma, semicolon, quote or leading # in it, which lists cannot hold"
    return None


# Folders -----------------------------------------------------------------------------------------


def _subject_folders(root: Path) -> list[Path]:
    """The visible folders in `root` that can be subjects, in natural order."""
    if not os.path.exists(root):
        check_readable(root)
        raise InputError(root, "no such folder", "check the path")
    if not os.path.isdir(root):
        raise InputError(root, "is a file", "give the folder that holds the subjects")
    entries = listed(root)
    check_readable(root)
    if not entries:
        raise InputError(root, "the folder is empty", _LOOKED_FOR)
    folders = []
    for entry in entries:
        is_subject = entry.name not in NOT_SUBJECTS and not entry.name.startswith("__")
        is_elsewhere = "." not in entry.name and reading_problem(entry)
        if is_subject and (os.path.isdir(entry) or is_elsewhere):
            folders.append(entry)
    return folders


def _layout(root: Path, folders: list[Path]) -> str:
    """The one layout that the folders have."""
    published = [folder for folder in folders if _looks_published(folder)]
    bids = [folder for folder in folders if _looks_bids(folder)]
    if published and bids:
        problem = f"two layouts in one folder ({published[0].name} published, {bids[0].name} BIDS)"
        raise InputError(root, problem, "keep each layout in a folder of its own")
    if not published and not bids:
        for folder in folders:
            check_readable(folder)
        raise InputError(root, "no subject in it", _LOOKED_FOR)
    return "published" if published else "BIDS"


def _count(items: Iterable, noun: str) -> str:
    number = len(list(items))
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _names(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)


# Published layout --------------------------------------------------------------------------------


def _looks_published(folder: Path) -> bool:
    return bool(_ending_in(folder, PUBLISHED_MRI) or _ending_in(folder, PUBLISHED_PET))


def _ending_in(folder: Path, ending: str) -> list[Path]:
    """What in a folder is a NIfTI file by its name, which without .nii or .nii.gz ends so."""
    found = [file for file in listed(folder) if stem(file).endswith(ending)]
    return [file for file in found if not os.path.isdir(file)]


def _published_subject(folder: Path) -> tuple[Subject | LeftOut, list[LeftOut]]:
    """The pair in a subject's folder, whose files have to begin with the folder's name."""
    name = folder.name
    problem = name_problem(name)
    if problem:
        return LeftOut(name, f"the folder's name {problem}"), []
    if problem := reading_problem(folder):
        return LeftOut(name, ", ".join(problem)), []
    chosen, reasons = [], []
    for modality, ending in (("MRI", PUBLISHED_MRI), ("PET", PUBLISHED_PET)):
        files, reason = _published_image(folder, modality, ending)
        chosen += files
        reasons += [reason] if reason else []
    if reasons:
        return LeftOut(name, "; ".join(reasons)), []
    return Subject(name, *chosen, group=_participant(name)), []


def _published_image(folder: Path, modality: str, ending: str) -> tuple[list[Path], str | None]:
    """The files of a subject's folder that are an image by their names, and why it is not one."""
    candidates = _ending_in(folder, ending)
    files = [file for file in candidates if stem(file) == folder.name + ending]
    others = [file for file in candidates if file not in files]
    if not files:
        hint = f" (found {_names(others)})" if others else ""
        return files, f"no {modality}, {folder.name}{ending}.nii.gz is not there{hint}"
    if len(files) > 1:
        return files, f"several files for the {modality}: {_names(files)}"
    if problem := reading_problem(files[0]):
        return files, f"the {modality} is {files[0].name}: {', '.join(problem)}"
    return files, None


def _published_head(folder: Path) -> Head | LeftOut:
    """The MRI in a subject's folder, and its labels."""
    name = folder.name
    problem = name_problem(name)
    if problem:
        return LeftOut(name, f"the folder's name {problem}")
    files, reason = _published_image(folder, "MRI", PUBLISHED_MRI)
    if reason:
        return LeftOut(name, reason)
    labels = _published_image(folder, "labels", PUBLISHED_LABELS)[0]
    return Head(name, files[0], next(iter(labels), None), _participant(name))


def _participant(name: str) -> str:
    """The person behind a published subject's name.

    ADNI ids (`033_S_5198`) and BIDS labels (`sub-01`) are taken from the beginning of longer names,
    such as one for each visit; every other name is a person of its own.
    """
    match = re.match(r"(\d{3}_S_\d{4,5}|sub-[A-Za-z0-9]+)(?![A-Za-z0-9])", name)
    return match.group(1) if match else name


# BIDS --------------------------------------------------------------------------------------------


def _looks_bids(folder: Path) -> bool:
    return folder.name.startswith("sub-") and any(has_images(visit) for visit in visits(folder))


@dataclass(frozen=True)
class _Asked:
    """Which images of a session are wanted; None where none is named."""

    tracer: str
    recording: str | None
    run: str | int | None

    @property
    def labels(self) -> list[str]:
        """As they stand in names."""
        named = {"rec": self.recording, "run": self.run}
        return [f"{key}-{value}" for key, value in named.items() if value is not None]


def _bids_subjects(
    root: Path, folders: list[Path], asked: _Asked
) -> list[tuple[Subject | LeftOut, list[LeftOut]]]:
    """One subject for each session, and the files of each that were not taken."""
    sidecars = Sidecars(root)
    found = []
    for folder in folders:
        if folder.name.startswith("sub-"):
            found += [_bids_subject(visit, sidecars, asked) for visit in visits(folder)]
    return found


def _bids_subject(
    visit: Visit, sidecars: Sidecars, asked: _Asked
) -> tuple[Subject | LeftOut, list[LeftOut]]:
    """The pair of one session, and the files in it that were not taken."""
    passed_over = [LeftOut(str(part), why) for part, why in parts_not_downloaded(visit)]
    mris = _fitting(images(visit, T1W), passed_over)
    pets = _fitting(images(visit, PET), passed_over)
    pets = _usable(pets, asked.tracer, sidecars, passed_over)
    pets = _with_run(_with_recording(pets, asked.recording), asked.run)
    if len(mris) > 1:
        mris = _with_run(mris, asked.run)

    name = visit.participant + (f"_ses-{visit.session}" if visit.session is not None else "")
    problem = name_problem(name)
    reasons = [f"the name {problem}"] if problem else []
    reasons += _candidates_reason("T1w MRI", mris)
    reasons += _candidates_reason(f"{asked.tracer}-PET", pets, asked.labels)
    if reasons:
        notes = [f"{item.name}: {item.reason}" for item in passed_over]
        return LeftOut(name, "; ".join(reasons + notes)), []
    is_named = tracer_remark(pets[0].labels, _fields(pets[0], sidecars)) is None
    return Subject(name, mris[0].path, pets[0].path, visit.participant, is_named), passed_over


def _bids_head(visit: Visit, run: str | int | None) -> Head | LeftOut:
    """The MRI of one session, and its labels."""
    name = visit.participant + (f"_ses-{visit.session}" if visit.session is not None else "")
    passed_over: list[LeftOut] = []
    mris = _fitting(images(visit, T1W), passed_over)
    if len(mris) > 1:
        mris = _with_run(mris, run)
    problem = name_problem(name)
    reasons = [f"the name {problem}"] if problem else []
    reasons += _candidates_reason("T1w MRI", mris)
    if reasons:
        notes = [f"{item.name}: {item.reason}" for item in passed_over]
        return LeftOut(name, "; ".join(reasons + notes))
    mri = mris[0].path
    wanted = stem(mri).removesuffix("T1w") + "dseg"
    labels = [file for file in listed(mri.parent) if stem(file) == wanted]
    return Head(name, mri, next(iter(labels), None), visit.participant)


def _fitting(found: list[BidsImage], passed_over: list[LeftOut]) -> list[BidsImage]:
    """The files that are there and whose `sub-` and `ses-` agree with the folder they lie in."""
    taken = []
    for image in found:
        file = image.path
        problem = reading_problem(file)
        if problem:
            passed_over.append(LeftOut(file.name, ", ".join(problem)))
        elif image.fits_folder:
            taken.append(image)
        else:
            reason = f"its name does not fit its folder, {file.parent}"
            passed_over.append(LeftOut(file.name, reason))
    return taken


def _usable(
    pets: list[BidsImage], wanted: str, sidecars: Sidecars, passed_over: list[LeftOut]
) -> list[BidsImage]:
    """The PETs of the wanted tracer, corrected for attenuation, by their names and sidecars."""
    taken = []
    for pet in pets:
        try:
            fields = _fields(pet, sidecars)
        except InputError as error:
            passed_over.append(LeftOut(pet.path.name, f"its sidecar is damaged ({error})"))
            continue
        problem = pet_problem(pet.labels, fields, wanted)
        if problem:
            passed_over.append(LeftOut(pet.path.name, f"the {problem}"))
        else:
            taken.append(pet)
    return taken


def _fields(pet: BidsImage, sidecars: Sidecars) -> dict:
    """What its sidecars say; a damaged one does no harm where the name tells the tracer.

    Raises:
        InputError: damaged, and the name does not tell.
    """
    try:
        return sidecars.fields(pet.path)
    except InputError:
        if names_nothing(pet.labels.get("trc", "")):
            raise
        return {}


def _with_recording(pets: list[BidsImage], recording: str | None) -> list[BidsImage]:
    """The files of a recording; failing that, those that name none."""
    if recording is None:
        return pets
    matching = [pet for pet in pets if pet.labels.get("rec") == recording]
    return matching or [pet for pet in pets if "rec" not in pet.labels]


def _with_run(found: list[BidsImage], run: str | int | None) -> list[BidsImage]:
    """The files of a run; failing that, those that name none."""
    if run is None:
        return found
    matching = [image for image in found if image.run == run_number(run)]
    return matching or [image for image in found if image.run is None]


def _candidates_reason(
    what: str, candidates: list[BidsImage], asked: Iterable[str] = ()
) -> list[str]:
    """Nothing for exactly one candidate, else the reason against the subject."""
    if len(candidates) == 1:
        return []
    if not candidates:
        return [" ".join([f"no {what}", *(f"with {label}" for label in asked)])]
    return [f"several candidates for the {what}: {_names(image.path for image in candidates)}"]


# Tables of pairs ---------------------------------------------------------------------------------


def _listed_pair(path: Path, line: int, row: dict[str, str]) -> ListedPair:
    """One line of the table, its paths made relative to the table's folder."""
    for column in ("mri", "pet"):
        if not row.get(column):
            raise InputError(path, f"line {line}: no {column}", "name both files on each line")
    mri, pet = path.parent / row["mri"], path.parent / row["pet"]
    subject = row.get("subject") or stem(mri).removesuffix(PUBLISHED_MRI) or mri.name
    problem = name_problem(subject)
    if problem:
        problem = f"line {line}: the subject's name {subject!r} {problem}"
        raise InputError(path, problem, "give it a plain name in a column `subject`")
    output = path.parent / row["output"] if row.get("output") else None
    return ListedPair(subject, mri, pet, output, line)


def _refuse_missing(path: Path, pairs: list[ListedPair]) -> None:
    """Refuse a table that names files which are not there, all of them at once."""
    missing = []
    for pair in pairs:
        for file in (pair.mri, pair.pet):
            if problem := reading_problem(file):
                raise InputError(path, f"line {pair.line} {file}: {problem[0]}", problem[1])
            if not os.path.isfile(file):
                missing.append(f"line {pair.line} {file}")
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problem = f"no such file: {', '.join(missing[:5])}{more}"
        remedy = "correct the paths (relative ones start at the list's folder)"
        raise InputError(path, problem, remedy)


def _refuse_twice(path: Path, field: str, pairs: list[ListedPair], remedy: str) -> None:
    """Refuse two lines that would write to one place."""
    lines: dict[str, int] = {}
    for pair in pairs:
        value = getattr(pair, field)
        if value is None:
            continue
        first = lines.setdefault(str(value), pair.line)
        if first != pair.line:
            problem = f"line {pair.line}: the {field} {value} is that of line {first}"
            raise InputError(path, problem, remedy)
