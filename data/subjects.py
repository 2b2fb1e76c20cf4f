"""Find the MRI and PET of each subject, and say who was left out and why.

Two layouts are known, and which one a folder has is found by looking:

- published: `<root>/<subject>/<subject>_mri_MNI152.nii.gz` and `<subject>_FDG_MNI152.nii.gz`;
- BIDS: `sub-*/[ses-*/]anat/*_T1w.nii.gz` and `sub-*/[ses-*/]pet/*_pet.nii.gz`, with any further
  entities in the names.

`.nii` is taken as well as `.nii.gz`. For inference there is also a table of pairs (`read_pairs`).
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError
from utils.text import natural_key, read_table

PUBLISHED_MRI, PUBLISHED_PET = "_mri_MNI152", "_FDG_MNI152"
# Folders beside the subjects: what others made of them (BIDS), and what prepare.py writes for
# people to look at.
NOT_SUBJECTS = ("derivatives", "flagged", "qc")
_KINDS = ("anat", "pet")
_SUFFIXES = (".nii.gz", ".nii")
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
    """

    name: str
    mri: Path
    pet: Path
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
        subjects: the complete pairs.
        left_out: the subjects without a usable pair.
        layout: "published" or "BIDS".
        passed_over: single files that were not taken, of subjects that have a pair all the same.
    """

    subjects: tuple[Subject, ...]
    left_out: tuple[LeftOut, ...]
    layout: str
    passed_over: tuple[LeftOut, ...] = ()

    def summary(self) -> str:
        """For printing: the number of pairs, then a line for each that was left out."""
        lines = [f"{_count(self.subjects, 'subject')} with MRI and PET ({self.layout} layout)"]
        if self.left_out:
            lines.append(f"{_count(self.left_out, 'subject')} left out:")
            lines += [f"  {item.name}: {item.reason}" for item in self.left_out]
        if self.passed_over:
            lines.append(f"{_count(self.passed_over, 'file')} not taken:")
            lines += [f"  {item.name}: {item.reason}" for item in self.passed_over]
        return "\n".join(lines)


@dataclass(frozen=True)
class ListedPair:
    """One line of a table of pairs; `output` is None where the table does not name it."""

    subject: str
    mri: Path
    pet: Path
    output: Path | None
    line: int


def find_subjects(
    root: str | os.PathLike, recording: str | None = None, run: str | int | None = None
) -> Cohort:
    """Pair the files below `root`.

    Args:
        recording: BIDS only: take the PET with this `rec-` label, else one that names none.
        run: BIDS only: the same for `run-` numbers; also chooses among several MRIs.

    Raises:
        InputError: no such folder, an empty one, one in neither layout or in both, or nobody with
            a pair.
    """
    root = Path(root)
    folders = _subject_folders(root)
    published = [folder for folder in folders if _looks_published(folder)]
    bids = [folder for folder in folders if _looks_bids(folder)]
    if published and bids:
        problem = f"two layouts in one folder ({published[0].name} published, {bids[0].name} BIDS)"
        raise InputError(root, problem, "keep each layout in a folder of its own")
    if not published and not bids:
        raise InputError(root, "no subject in it", _LOOKED_FOR)
    if published:
        found, layout = [_published_subject(folder) for folder in folders], "published"
    else:
        sessions = [place for folder in folders for place in _sessions(folder)]
        found, layout = [_bids_subject(place, recording, run) for place in sessions], "BIDS"
    subjects = tuple(item for item, _ in found if isinstance(item, Subject))
    left_out = tuple(item for item, _ in found if isinstance(item, LeftOut))
    if not subjects:
        first = left_out[0]
        problem = f"none of {_count(left_out, 'subject')} has a pair ({first.name}: {first.reason})"
        raise InputError(root, problem, "complete the pairs")
    passed_over = tuple(
        file for item, files in found if isinstance(item, Subject) for file in files
    )
    return Cohort(subjects, left_out, layout, passed_over)


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
    missing = [
        f"line {pair.line} {file}"
        for pair in pairs
        for file in (pair.mri, pair.pet)
        if not os.path.isfile(file)
    ]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problem = f"no such file: {', '.join(missing[:5])}{more}"
        raise InputError(
            path, problem, "correct the paths (relative ones start at the list's folder)"
        )
    _refuse_twice(path, "subject", pairs, "give each line its own name in a column `subject`")
    _refuse_twice(path, "output", pairs, "give each line its own output")
    return pairs


def name_problem(name: str) -> str | None:
    """Why `name` cannot name a subject (it becomes a part of paths and lists), None when it can."""
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "begins or ends with a blank"
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
        raise InputError(root, "no such folder", "check the path")
    if not os.path.isdir(root):
        raise InputError(root, "is a file", "give the folder that holds the subjects")
    entries = _listed(root)
    if not entries:
        raise InputError(root, "the folder is empty", _LOOKED_FOR)
    visible = [entry for entry in entries if not entry.name.startswith((".", "__"))]
    folders = [entry for entry in visible if os.path.isdir(entry)]
    return [folder for folder in folders if folder.name not in NOT_SUBJECTS]


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, in natural order."""
    try:
        return sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(folder, f"cannot be read ({reason})", "make it readable") from error


def _images(folder: Path, ending: str) -> list[Path]:
    """The NIfTI files in `folder` whose name without .nii or .nii.gz ends in `ending`."""
    if not os.path.isdir(folder):
        return []
    found = [file for file in _listed(folder) if stem(file).endswith(ending)]
    return [file for file in found if os.path.isfile(file)]


def stem(file: Path) -> str:
    """The name without .nii or .nii.gz; '' for a file that is no NIfTI by its name."""
    for suffix in _SUFFIXES:
        if file.name.endswith(suffix):
            return file.name.removesuffix(suffix)
    return ""


def _count(items: Iterable, noun: str) -> str:
    number = len(list(items))
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _names(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)


# Published layout --------------------------------------------------------------------------------


def _looks_published(folder: Path) -> bool:
    return bool(_images(folder, PUBLISHED_MRI) or _images(folder, PUBLISHED_PET))


def _published_subject(folder: Path) -> tuple[Subject | LeftOut, list[LeftOut]]:
    """The pair in a subject's folder, whose files have to begin with the folder's name."""
    name = folder.name
    problem = name_problem(name)
    if problem:
        return LeftOut(name, f"the folder's name {problem}"), []
    chosen, reasons = [], []
    for modality, ending in (("MRI", PUBLISHED_MRI), ("PET", PUBLISHED_PET)):
        files = [file for file in _images(folder, ending) if stem(file) == name + ending]
        others = [file for file in _images(folder, ending) if file not in files]
        chosen += files
        if not files:
            hint = f" (found {_names(others)})" if others else ""
            reasons.append(f"no {modality}, {name}{ending}.nii.gz is not there{hint}")
        elif len(files) > 1:
            reasons.append(f"several files for the {modality}: {_names(files)}")
    if reasons:
        return LeftOut(name, "; ".join(reasons)), []
    return Subject(name, *chosen, group=_participant(name)), []


def _participant(name: str) -> str:
    """The person behind a published subject's name.

    ADNI ids (`033_S_5198`) and BIDS labels (`sub-01`) are taken from the beginning of longer names,
    such as one for each visit; every other name is a person of its own.
    """
    match = re.match(r"(\d{3}_S_\d{4,5}|sub-[A-Za-z0-9]+)(?![A-Za-z0-9])", name)
    return match.group(1) if match else name


# BIDS --------------------------------------------------------------------------------------------


def _looks_bids(folder: Path) -> bool:
    return folder.name.startswith("sub-") and any(
        os.path.isdir(place / kind)
        for place in (folder, *_session_folders(folder))
        for kind in _KINDS
    )


def _session_folders(folder: Path) -> list[Path]:
    named = [entry for entry in _listed(folder) if entry.name.startswith("ses-")]
    return [entry for entry in named if os.path.isdir(entry)]


def _sessions(folder: Path) -> list[Path]:
    """Where a participant's pairs can lie: in each session, or in the participant's folder."""
    if not folder.name.startswith("sub-"):
        return []
    sessions = _session_folders(folder)
    direct = not sessions or any(os.path.isdir(folder / kind) for kind in _KINDS)
    return [folder] * direct + sessions


def entities(name: str) -> dict[str, str]:
    """BIDS entities of a file's stem: `sub-01_trc-FDG_pet` -> {"sub": "01", "trc": "FDG"}."""
    parts = name.split("_")[:-1]
    return dict(part.split("-", 1) for part in parts if "-" in part)


def _bids_subject(
    place: Path, recording: str | None, run: str | int | None
) -> tuple[Subject | LeftOut, list[LeftOut]]:
    """The pair in one session, and the files in it that were not taken."""
    session = place.name if place.name.startswith("ses-") else ""
    participant = place.parent.name if session else place.name
    name = f"{participant}_{session}" if session else participant
    mris, strays = _belonging(_images(place / "anat", "_T1w"), participant, session)
    pets, others = _belonging(_images(place / "pet", "_pet"), participant, session)
    pets, tracers = _with_fdg(pets)
    passed_over = strays + others + tracers
    if len(mris) > 1:
        mris = _with_run(mris, run)
    pets = _with_run(_with_recording(pets, recording), run)
    asked = [f"rec-{recording}"] * (recording is not None) + [f"run-{run}"] * (run is not None)
    problem = name_problem(name)
    reasons = [f"the name {problem}"] if problem else []
    reasons += _candidates_reason("T1w MRI", mris) + _candidates_reason("FDG-PET", pets, asked)
    if reasons:
        notes = [f"{item.name}: {item.reason}" for item in passed_over]
        return LeftOut(name, "; ".join(reasons + notes)), []
    return Subject(name, mris[0], pets[0], group=participant), passed_over


def _belonging(
    files: list[Path], participant: str, session: str
) -> tuple[list[Path], list[LeftOut]]:
    """The files whose `sub-` and `ses-` agree with the folder they lie in, and the others."""
    taken, strays = [], []
    for file in files:
        labels = entities(stem(file))
        person, visit = f"sub-{labels.get('sub')}", f"ses-{labels.get('ses')}"
        if person == participant and ("ses" not in labels or visit == session):
            taken.append(file)
        else:
            strays.append(LeftOut(file.name, f"its name does not fit its folder, {file.parent}"))
    return taken, strays


def _with_fdg(files: list[Path]) -> tuple[list[Path], list[LeftOut]]:
    """The PETs whose tracer (`trc-`, in old data sets `acq-`) is FDG or not named, and the others."""
    taken, others = [], []
    for file in files:
        labels = entities(stem(file))
        tracer = labels.get("trc", labels.get("acq"))
        if tracer is None or "FDG" in tracer.upper():
            taken.append(file)
        else:
            others.append(LeftOut(file.name, f"the tracer is {tracer}, not FDG"))
    return taken, others


def _with_recording(files: list[Path], recording: str | None) -> list[Path]:
    """The files of a recording; failing that, those that name none."""
    if recording is None:
        return files
    matching = [file for file in files if entities(stem(file)).get("rec") == recording]
    return matching or [file for file in files if "rec" not in entities(stem(file))]


def _with_run(files: list[Path], run: str | int | None) -> list[Path]:
    """The files of a run (02 is 2); failing that, those that name none."""
    if run is None:
        return files
    wanted = str(run).lstrip("0")
    matching = [file for file in files if entities(stem(file)).get("run", "").lstrip("0") == wanted]
    return matching or [file for file in files if "run" not in entities(stem(file))]


def _candidates_reason(what: str, files: list[Path], asked: Iterable[str] = ()) -> list[str]:
    """Nothing for exactly one candidate, else the reason against the subject."""
    if len(files) == 1:
        return []
    if not files:
        return [" ".join([f"no {what}", *(f"with {label}" for label in asked)])]
    return [f"several candidates for the {what}: {_names(files)}"]


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
