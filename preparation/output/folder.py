"""The folder that `prepare.py` fills: one run at a time, subjects that appear whole or not at all.

    <root>/<subject>/...             plausible subjects
    <root>/flagged/<subject>/...     implausible ones
    <root>/.prepare/working/...      being written, on its way out, or of the libraries; deleted
                                     when a run starts
    <root>/.prepare/unjudged/...     done, waiting until the whole cohort can be judged; what a run
                                     continues from
    <root>/.prepare/lock, workers    locks, which the system takes back from a killed process

A subject's record (JSON, the last file to be written into its folder) is the mark that it is
complete.
"""

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib

from preparation.output.layout import FLAGGED, HIDDEN, PICTURES, Place, discard, move_into
from utils.errors import InputError
from utils.files import is_part
from utils.locks import locked

ORPHANS_S = 20  # how long processes of a killed run are waited for

_PLAIN_PATH = re.compile(r"[\w./+@%~-]+", re.ASCII)  # ANTs takes commas, blanks and brackets apart


class PreparedFolder:
    """An output folder and the states that a subject in it can be in.

    Args:
        root: the data set; made when missing.

    Raises:
        InputError: it cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.working, self.unjudged = root / HIDDEN / "working", root / HIDDEN / "unjudged"
        self.trash = self.working / ".old"
        try:
            (root / HIDDEN).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot be made ({error.strerror or error})"
            raise InputError(root, problem, "choose another --out") from error

    def picture(self, name: str) -> Path:
        """The quality control picture of a subject."""
        return self.root / PICTURES / f"{name}.png"

    def warp_picture(self, name: str) -> Path:
        """The MRI over the template before and after the learned field."""
        return self.root / PICTURES / f"{name}_warp.png"

    def log(self, name: str) -> Path:
        """What the libraries printed while a subject was made."""
        return self.root / PICTURES / f"{name}.log"

    # Locks ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only run in this folder, and clear away what a killed one has left half-done.

        Raises:
            InputError: another run is at work, or processes of a killed one still are.
        """
        with locked(self.root / HIDDEN / "lock") as owner:
            if owner is None:
                problem = "another prepare.py is at work in this folder"
                raise InputError(self.root, problem, "wait for it, or choose another --out")
            with locked(self.root / HIDDEN / "workers", patience_s=ORPHANS_S) as free:
                if free is None:
                    problem = "processes of a run that was killed are still at work"
                    raise InputError(self.root, problem, "wait a few minutes, or end them")
            shutil.rmtree(self.working, ignore_errors=True)
            for part in (*self.root.glob(".*"), *(self.root / PICTURES).glob(".*")):
                if is_part(part.name):
                    part.unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def working_on(self, name: str) -> Iterator[Path]:
        """An empty folder for a subject's new files, while no new run may start in this folder.

        What the libraries write meanwhile is in this folder, too, where the next run finds it after
        a kill.
        """
        with (
            locked(self.root / HIDDEN / "workers", exclusive=False, patience_s=ORPHANS_S),
            # A cluster gives a subject to a second machine when it hears nothing from the first,
            # which may still be at it. The second has a limit of time that ends its patience.
            locked(self.working / f".lock-{name}", patience_s=math.inf),
        ):
            folder = self.working / name
            shutil.rmtree(folder, ignore_errors=True)
            with self._scratch():
                yield folder

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[None]:
        """Have temporary files of this process in `working`, if its path is one that ANTs takes."""
        folder, before = self.working.absolute() / f".scratch-{os.getpid()}", tempfile.tempdir
        if not _PLAIN_PATH.fullmatch(str(folder)):
            yield
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"cannot be made ({error.strerror or error})"
            raise InputError(folder, problem, "check the disk and run the command again") from error
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before
            shutil.rmtree(folder, ignore_errors=True)

    # States of a subject -------------------------------------------------------------------------

    def commit(self, name: str) -> None:
        """A subject's new files are complete: out of `working`, in one step."""
        move_into(self.working / name, self.unjudged / name, self.trash)

    def places(self, name: str, place: Place) -> tuple[Path, Path, Path]:
        """Where a subject can be: not judged yet, plausible, flagged."""
        return self.unjudged / name, self.root / place.folder, self.root / FLAGGED / place.folder

    def complete_record(self, name: str, place: Place, fingerprint: str) -> dict | None:
        """The record of a subject made before from the same and whole with its picture, or None."""
        if not self.picture(name).is_file():
            return None
        for folder in self.places(name, place):
            record = read_record(folder / place.record)
            if record and record["fingerprint"] == fingerprint and _is_whole(folder, record):
                return record
        return None

    def has_result(self, name: str, place: Place) -> bool:
        """Whether there is anything complete of a subject, whatever it was made of."""
        return any(read_record(folder / place.record) for folder in self.places(name, place))

    def is_foreign(self, place: Place) -> bool:
        """Whether something lies in the subject's place that this program has not made."""
        folders = self.root / place.folder, self.root / FLAGGED / place.folder
        return any(
            folder.exists() and read_record(folder / place.record) is None for folder in folders
        )

    def settle(self, name: str, place: Place, flagged: bool, fingerprint: str) -> Path:
        """Bring a complete subject to where its judgement puts it, and clear older results away.

        Returns:
            its folder.

        Raises:
            InputError: it cannot be moved, or is not whole there.
            OSError: what is in the way cannot be cleared away.
        """
        unjudged, plausible, implausible = self.places(name, place)
        target, other = (implausible, plausible) if flagged else (plausible, implausible)
        for folder in (unjudged, other):
            record = read_record(folder / place.record)
            if record and record["fingerprint"] == fingerprint and _is_whole(folder, record):
                move_into(folder, target, self.trash)
                break
        self._discard(unjudged, other)
        record = read_record(target / place.record)
        if not record or record["fingerprint"] != fingerprint or not _is_whole(target, record):
            raise InputError(
                target, "is not complete after all", "check the disk and run the command again"
            )
        return target

    def remove(self, name: str, place: Place) -> None:
        """Clear away a subject's older results: what it is to be made from now gives none."""
        self._discard(*self.places(name, place))
        self.picture(name).unlink(missing_ok=True)
        self.warp_picture(name).unlink(missing_ok=True)

    def _discard(self, *folders: Path) -> None:
        for folder in folders:
            discard(folder, self.trash)
            for parent in folder.parents:  # of BIDS sessions, and flagged/
                if parent == self.root or HIDDEN in parent.parts:
                    break
                if not parent.is_dir() or any(parent.iterdir()):
                    break
                parent.rmdir()

    def subjects(self) -> dict[Path, tuple[str, dict]]:
        """The plausible subjects of earlier runs: {folder in the data set: (layout, record)}."""
        files = [("pairs", file) for file in sorted(self.root.glob("*/*.json"))]
        files += [("bids", file) for file in sorted(self._bids_records())]
        found = {}
        for layout, file in files:
            folder, record = file.parent.relative_to(self.root), read_record(file)
            if record is not None and (layout == "bids" or file.stem == folder.name):
                found[folder] = layout, record
        return found

    def waiting(self) -> set[str]:
        """Names of the subjects that an interrupted run has left to be judged."""
        return {folder.name for folder in self.unjudged.glob("*") if folder.is_dir()}

    def _bids_records(self) -> list[Path]:
        """The records of the plausible subjects of a BIDS data set."""
        return [
            *self.root.glob("sub-*/*_prepare.json"),
            *self.root.glob("sub-*/ses-*/*_prepare.json"),
        ]

    def participants(self) -> dict[str, str]:
        """BIDS: every plausible subject's label, and its name in the source."""
        found = {}
        for file in self._bids_records():
            record = read_record(file)
            if record:
                label = file.name.split("_")[0].removeprefix("sub-")
                found[label] = record["inputs"]["mri"]["subject"]
        return found

    def tidy(self) -> None:
        """Remove the folders of unfinished work when nothing is in them."""
        shutil.rmtree(self.working, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.unjudged.rmdir()


def read_record(path: Path) -> dict | None:
    """A subject's record, None when there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_one = isinstance(record, dict) and {"fingerprint", "outputs"} <= record.keys()
    return record if is_one else None


def _is_whole(folder: Path, record: dict) -> bool:
    """Whether both images are there as recorded, of the same shape and number of bytes."""
    try:
        for output in record["outputs"].values():
            path = folder / output["file"]
            if path.stat().st_size != output["bytes"]:
                return False
            if list(nib.load(path).shape) != output["shape"]:
                return False
    except (OSError, KeyError, TypeError, AttributeError, nib.filebasedimages.ImageFileError):
        return False
    return True
