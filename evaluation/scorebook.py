"""`scores.csv`, the long-form table of an evaluation, and what its rows were made from.

A row is (protocol, method, subject, metric, source, value). `source` is "mri", "pet" or "min" (the
worse of the two) for the parts of a metric, "mean" or "sum" for its value over both sources, and
"joint" where it has no parts. Beside it, `scores.json` holds the settings and, for each method and
subject, a stamp of the files behind the scores, so that an interrupted evaluation goes on and a
changed file is never mixed in. While an evaluation runs, each further subject is a line of
`scores.jsonl`: both files would else be written anew for every one. Where several processes share
the subjects, each further one has such a file of its own, `scores-1.jsonl` and so on.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from metrics import ALL_METRICS, keys_of
from utils.errors import InputError, notice
from utils.files import append_text, replacing

COLUMNS = ("protocol", "method", "subject", "metric", "source", "value")
SCORES, STAMPS, NEW = "scores.csv", "scores.json", "scores.jsonl"
VERSION = 2  # raise it when the way from files to scores changes
ANOTHER = "choose another --out, or --overwrite to score anew"

Scores = dict[str, float]  # by the keys of `metrics.score`


def source_of(name: str, key: str) -> str:
    """The column `source` of a metric's key: "min" of "psnr_min", "mean" of "psnr"."""
    if key != name:
        return key.removeprefix(f"{name}_")
    return ALL_METRICS[name].combine or "joint"


# key of `metrics.score` -> the columns (metric, source) of its row, in the order of ALL_METRICS
PLACES = {key: (name, source_of(name, key)) for name in ALL_METRICS for key in keys_of(name)}


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and rename it into it.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path, "give another --out") as part:
        part.write_text(text, encoding="utf-8")


def csv_text(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """The text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


class ScoreBook:
    """The scores of one output folder.

    Args:
        folder: of the evaluation; made when the first scores are written.
        settings: plain values on which every score depends.
        overwrite: forget what is there.

    Attributes:
        scores: {(protocol, method, subject): {key: value}}.

    Raises:
        InputError: what is there was made with other settings, or cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps({"version": VERSION, **settings}))
        self.scores: dict[tuple[str, str, str], Scores] = {}
        self.stamps: dict[str, dict[str, list]] = {}
        self._is_written = False  # whether the tables hold what there is, but for `NEW`
        self._forgets = overwrite
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(self.folder, "is a file", "give a folder")
        if (self.folder / SCORES).exists() and not overwrite:
            self._read_stamps()
            self._read_scores()
            self._read_new()

    def _read_stamps(self) -> None:
        path = self.folder / STAMPS
        try:
            content = json.loads(path.read_text("utf-8"))
            there, stamps = content["settings"], content["stamps"]
            self.stamps = {method: dict(known) for method, known in stamps.items()}
            names = there.keys() | self.settings.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = f"does not say how {SCORES} beside it was made"
            raise InputError(path, problem, ANOTHER) from error
        for name in sorted(names):
            old, new = there.get(name), self.settings.get(name)
            if old != new:
                problem = f"holds scores with {name} {_text(old)}, not {_text(new)}"
                raise InputError(self.folder, problem, ANOTHER)

    def _read_scores(self) -> None:
        path = self.folder / SCORES
        keys = {place: key for key, place in PLACES.items()}
        try:
            with open(path, newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            if tuple(header) != COLUMNS:
                raise ValueError(f"its columns are {header}")
            for protocol, method, subject, metric, source, value in rows:
                scores = self.scores.setdefault((protocol, method, subject), {})
                scores[keys[metric, source]] = float(value)
        except (OSError, ValueError, KeyError, csv.Error) as error:
            problem = f"not a table of scores ({type(error).__name__}: {error})"
            raise InputError(path, problem, ANOTHER) from error

    def _read_new(self) -> None:
        """What an evaluation that was killed had still to write into the tables."""
        for path in self._new_files():
            self._read_lines(path)

    def _new_files(self) -> list[Path]:
        return sorted(self.folder.glob("scores*.jsonl"))

    def _read_lines(self, path: Path) -> None:
        for line in path.read_text("utf-8", errors="replace").splitlines():
            with suppress(
                ValueError, KeyError, TypeError, AttributeError, RecursionError
            ):  # the last line may be half
                entry = json.loads(line)
                scores = {}
                for protocol, method, values in entry["scores"]:
                    read = {key: float(value) for key, value in values.items() if key in PLACES}
                    scores[protocol, method] = read
                self._take(entry["subject"], scores, dict(entry["stamps"]))

    def drop_outdated(self, stamps: Mapping[str, Mapping[str, list]]) -> None:
        """Forget, with a notice, the scores of methods and subjects whose files have changed.

        Args:
            stamps: {method: {subject: stamp}} as it is now.
        """
        for method, by_subject in stamps.items():
            known = self.stamps.get(method, {})
            mine = {key for key in self.scores if key[1] == method and key[2] in by_subject}
            gone = {key for key in mine if known.get(key[2]) != by_subject[key[2]]}
            if gone:
                subjects = len({subject for _, _, subject in gone})
                notice(
                    f"{method}: its files are not those of the scores of {subjects} subjects; "
                    "scoring these again"
                )
                for key in gone:
                    del self.scores[key]
                self._save()  # before a new stamp could vouch for old scores

    def has(self, protocol: str, method: str, subject: str) -> bool:
        """Whether this is scored already."""
        return (protocol, method, subject) in self.scores

    def add(
        self, subject: str, scores: Mapping[tuple[str, str], Scores], stamps: Mapping[str, list]
    ) -> None:
        """Take in a subject's {(protocol, method): scores} with {method: stamp}; write."""
        self._take(subject, scores, stamps)
        if not self._is_written:
            self._save()
            return
        append_text(self.folder / NEW, _line(subject, scores, stamps), "give another --out")

    def close(self) -> None:
        """Write the tables, if there is something new."""
        if self._new_files():
            self._save()

    def share(self) -> None:
        """Write the tables before other processes add to them, each with a `Part`."""
        self._save()

    def join(self, subjects: Sequence[str]) -> None:
        """Take in what the others have added, as one process would have.

        Args:
            subjects: in the order of the tables.
        """
        self._read_new()
        order = {name: place for place, name in enumerate(subjects)}
        keys = sorted(self.scores, key=lambda key: order.get(key[2], -1))
        self.scores = {key: self.scores[key] for key in keys}
        for method, stamps in self.stamps.items():
            names = sorted(stamps, key=lambda name: order.get(name, -1))
            self.stamps[method] = {name: stamps[name] for name in names}
        self._save()

    def _take(
        self, subject: str, scores: Mapping[tuple[str, str], Scores], stamps: Mapping[str, list]
    ) -> None:
        for method, stamp in stamps.items():
            self.stamps.setdefault(method, {})[subject] = stamp
        for (protocol, method), values in scores.items():
            # As they are read again: an evaluation that goes on gives the same tables.
            read = {key: float(_digits(value)) for key, value in values.items()}
            self.scores[protocol, method, subject] = read

    def _save(self) -> None:
        if self._forgets:  # or the new stamps could vouch for old scores
            for path in (*self._new_files(), self.folder / SCORES):
                path.unlink(missing_ok=True)
            self._forgets = False
        content = {"settings": self.settings, "stamps": self.stamps}
        write_text(self.folder / STAMPS, json.dumps(content, indent=1) + "\n")
        rows = []
        for where, values in self.scores.items():
            for key, place in PLACES.items():
                if key in values:
                    rows.append((*where, *place, _digits(values[key])))
        write_text(self.folder / SCORES, csv_text(COLUMNS, rows))
        for path in self._new_files():  # all of it is in the tables now
            path.unlink(missing_ok=True)
        self._is_written = True

    def complete(
        self, protocols: Sequence[str], methods: Sequence[str], subjects: Sequence[str]
    ) -> list[str]:
        """The subjects that have scores of every method by every protocol."""
        found = []
        for subject in subjects:
            wanted = product(protocols, methods, [subject])
            if all(key in self.scores for key in wanted):
                found.append(subject)
        return found

    def values(
        self, protocol: str, methods: Sequence[str], participants: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, list[float]]]:
        """{method: {key: one value for each participant}}; the sessions of one are averaged first.

        Args:
            participants: {participant: subjects}, all of them scored.
        """
        table = {}
        for method in methods:
            columns: dict[str, list[float]] = {}
            for subjects in participants.values():
                sessions = [self.scores[protocol, method, subject] for subject in subjects]
                for key in PLACES:
                    if key in sessions[0]:
                        mean = math.fsum(scores[key] for scores in sessions) / len(sessions)
                        columns.setdefault(key, []).append(mean)
            table[method] = columns
        return table


class Part:
    """The scores that another process than the first adds.

    Args:
        folder: of the evaluation.
        rank: the process's number.
        there: (protocol, method, subject) that are scored already.
    """

    def __init__(self, folder: Path, rank: int, there: set[tuple[str, str, str]]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / f"scores-{rank}.jsonl"
        self.there = there

    def has(self, protocol: str, method: str, subject: str) -> bool:
        """Whether this is scored already."""
        return (protocol, method, subject) in self.there

    def add(
        self, subject: str, scores: Mapping[tuple[str, str], Scores], stamps: Mapping[str, list]
    ) -> None:
        """Write a subject's {(protocol, method): scores} with {method: stamp}."""
        append_text(self.path, _line(subject, scores, stamps), "give another --out")


def _line(
    subject: str, scores: Mapping[tuple[str, str], Scores], stamps: Mapping[str, list]
) -> str:
    listed = []
    for (protocol, method), values in scores.items():
        listed.append((protocol, method, {key: _digits(v) for key, v in values.items()}))
    return json.dumps({"subject": subject, "stamps": stamps, "scores": listed}) + "\n"


def _digits(value: float) -> str:
    return f"{value:.10g}"


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
