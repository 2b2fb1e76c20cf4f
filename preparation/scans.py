"""What was found in a download: scans, the pairs made of them, and everything that was left out.

The finders (`preparation.find`) make these, preparation works through the pairs.
"""

import datetime
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.errors import InputError

# Of tables about scans, behind `mri_` or `pet_`.
SCAN_COLUMNS = ("path", "id", "description", "date")
# What can be a prepared subject's name: it becomes a folder and a part of file names.
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Scan:
    """One image as it was downloaded.

    Attributes:
        subject: whose image it is, as the source names the person (`033_S_5198`).
        modality: "MRI" or "PET".
        files: a DICOM series' files, or the NIfTI files (several: one for each frame), in natural
            order.
        format: "dicom" or "nifti".
        description: the series' description; blanks and punctuation may have become `_`.
        date: when it was acquired, None when nothing says so.
        image_id: ADNI's id of the image, `I` and digits.
        session: BIDS session label without `ses-`.
        frame_durations: seconds for each frame of a dynamic PET, from a BIDS sidecar.
        matrix_z: number of planes that the ADNI XML promises.
        listed: the folder that the user named for this scan, None where a search found the files.
        remarks: what the user should know about how it was found.
    """

    subject: str
    modality: str
    files: tuple[Path, ...]
    format: str
    description: str = ""
    date: datetime.date | None = None
    image_id: str | None = None
    session: str | None = None
    frame_durations: tuple[float, ...] | None = None
    matrix_z: int | None = None
    listed: Path | None = None
    remarks: tuple[str, ...] = ()

    @property
    def where(self) -> Path:
        """The file, or the folder that holds the files; for messages."""
        if len(self.files) == 1 and self.format == "nifti":
            return self.files[0]
        folders = {os.path.dirname(file) for file in self.files}
        return Path(os.path.commonpath(folders))


def scan_cells(scan: Scan) -> dict[str, object]:
    """Where a scan comes from, by the column of a table."""
    values = scan.where, scan.image_id, scan.description, scan.date
    columns = [f"{scan.modality.lower()}_{column}" for column in SCAN_COLUMNS]
    return dict(zip(columns, values, strict=True))


@dataclass(frozen=True)
class ScanPair:
    """One subject's MRI and PET.

    Attributes:
        name: what the prepared subject is called, unique among the pairs also where case is
            ignored.
        mri, pet: the two scans.
        days: between the two acquisitions, at least 0; None when a date is missing.
        warnings: what the user should know about this pair.
    """

    name: str
    mri: Scan
    pet: Scan
    days: int | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOutScan:
    """Something found and not used.

    Attributes:
        subject: whose it is, "" where that is not known.
        path: the file or folder, None where the reason is about the subject.
        reason: one line.
        scan: what is known about it, where it is a scan.
        is_fault: something is wrong with it (unreadable, damaged, not found, two claims on it);
            False where it was only not chosen.
    """

    subject: str
    path: Path | None
    reason: str
    scan: Scan | None = None
    is_fault: bool = False


@dataclass(frozen=True)
class Findings:
    """What a finder brings back.

    Attributes:
        pairs: in natural order of the names.
        left_out: everything else, with the reason.
        missing_ids: image ids that were asked for and not found.
        notes: remarks on the data set as a whole.
    """

    pairs: tuple[ScanPair, ...]
    left_out: tuple[LeftOutScan, ...]
    missing_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, labels: Sequence[str]) -> "Findings":
        """What was found of some participants; what was chosen for all of them stays chosen.

        Args:
            labels: of subjects as the source names them, with or without `sub-`.

        Raises:
            InputError: nothing was found of one of them.
        """
        wanted = {_label(label): label for label in labels}
        pairs = tuple(pair for pair in self.pairs if _label(pair.mri.subject) in wanted)
        left_out = tuple(item for item in self.left_out if _label(item.subject) in wanted)
        found = {_label(pair.mri.subject) for pair in pairs}
        found |= {_label(item.subject) for item in left_out}
        unknown = [label for key, label in wanted.items() if key not in found]
        if unknown:
            problem = f"nothing was found of {', '.join(unknown)}"
            remedy = "give labels as a run with --dry-run lists them"
            raise InputError("--participant-label", problem, remedy)
        return replace(self, pairs=pairs, left_out=left_out)


def _label(subject: str) -> str:
    return subject.removeprefix("sub-")
