"""Lists of subjects: read one, draw a split by seed, write it down.

A participant (`Subject.group`) with several sessions always lies on one side of a split.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.subjects import Cohort, Subject, name_problem
from utils.errors import InputError
from utils.files import replacing
from utils.text import natural_key, read_text

TRAIN_FILE, VALIDATION_FILE = "train.txt", "validation.txt"
_NAMED_AT_MOST = 5


def read_list(path: str | os.PathLike) -> list[str]:
    """Read subject names: one a line, or the published one line separated by commas.

    Blank lines, what follows a `#` at the beginning of a line or after a blank, quotes around
    names, surplus separators, a byte order mark and CRLF are no part of the names. Order is kept.

    Raises:
        InputError: no such file, not text, no name, a name twice, or a name with a path in it.
    """
    path = Path(path)
    names: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = re.split(r"(?:^|\s)#", line, maxsplit=1)[0]
        for cell in re.split(r"[,;\t]", line):
            name = cell.strip().strip("\"'").strip()
            if not name:
                continue
            problem = name_problem(name)
            if problem:
                problem = f"line {number}: the subject's name {name!r} {problem}"
                raise InputError(path, problem, "list names of subjects, not files")
            names.append(name)
    if not names:
        raise InputError(path, "no subjects in the list", "write one subject a line")
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise InputError(path, f"listed more than once: {_some(doubled)}", "keep each once")
    return names


def select(cohort: Cohort, names: Sequence[str], list_path: str | os.PathLike) -> list[Subject]:
    """The subjects of a list, in its order.

    Raises:
        InputError: a name that is not in the cohort, or one that was left out of it.
    """
    by_name = {subject.name: subject for subject in cohort.subjects}
    reasons = {item.name: item.reason for item in cohort.left_out}
    unusable = [f"{name} ({reasons[name]})" for name in names if name in reasons]
    if unusable:
        remedy = "complete the pair or take the name off the list"
        raise InputError(list_path, f"cannot be used: {_some(unusable)}", remedy)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        example = cohort.subjects[0].name
        remedy = f"the data have names like {example}, correct the list or --data"
        raise InputError(list_path, f"not in the data: {_some(unknown)}", remedy)
    return [by_name[name] for name in names]


def random_split(
    subjects: Sequence[Subject], seed: int, validation_fraction: float = 0.1
) -> tuple[list[Subject], list[Subject]]:
    """Draw whole participants into (train, validation), at least one on each side.

    The result depends on the names and the seed alone, not on the order of `subjects`; both sides
    are in natural order.

    Args:
        validation_fraction: of the participants, in (0, 1), rounded to the nearest number.

    Raises:
        InputError: fewer than two participants.
    """
    groups = sorted({subject.group for subject in subjects})
    if len(groups) < 2:
        problem = f"{len(groups)} participant cannot be split into training and validation"
        raise InputError("--data", problem, "give two or more, or both lists by flags")
    random.Random(seed).shuffle(groups)
    count = min(max(1, round(validation_fraction * len(groups))), len(groups) - 1)
    held_out = set(groups[:count])
    ordered = sorted(subjects, key=lambda subject: natural_key(subject.name))
    train = [subject for subject in ordered if subject.group not in held_out]
    validation = [subject for subject in ordered if subject.group in held_out]
    return train, validation


def check_disjoint(
    train: Sequence[Subject], validation: Sequence[Subject], validation_path: str | os.PathLike
) -> None:
    """Refuse lists that share a subject, or a participant with two sessions.

    Raises:
        InputError: naming them.
    """
    seen = {subject.group for subject in train}
    shared = [subject.name for subject in validation if subject.group in seen]
    if shared:
        problem = f"also in training, or the same person: {_some(shared)}"
        raise InputError(validation_path, problem, "keep each participant on one side")


def write_split(
    folder: str | os.PathLike, train: Sequence[Subject], validation: Sequence[Subject]
) -> None:
    """Write `train.txt` and `validation.txt` into `folder`, one subject a line, for `read_list`.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = Path(folder)
    for name, subjects in ((TRAIN_FILE, train), (VALIDATION_FILE, validation)):
        with replacing(folder / name, "choose another folder") as part:
            part.write_text("".join(f"{subject.name}\n" for subject in subjects), "utf-8")


def _some(names: Sequence[str]) -> str:
    """The first five names and how many more there are."""
    rest = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")
