"""Walk a download by names alone: a cohort of 600 subjects has 200,000 files."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from preparation.descriptions import FILE_NAME, SUBJECT, XML_NAME, read_place
from preparation.formats import NOT_READ, by_content, by_name, reason
from preparation.scans import LeftOutScan
from utils.errors import InputError
from utils.files import check_readable, reading_problem, visible
from utils.text import natural_key

_PAPERS = re.compile(
    r"\.(csv|tsv|txt|pdf|json|html?|log|md|jpe?g|png|gif|docx?|xlsx?)$", re.IGNORECASE
)
_IGNORED = ("thumbs.db", "desktop.ini", "license", "readme", "changes", "dicomdir")


@dataclass(frozen=True)
class Series:
    """Files of one folder that are one image by their names; None and "" for what these lack."""

    folder: Path
    files: tuple[str, ...]
    format: str
    subject: str = ""
    modality: str | None = None
    description: str = ""
    image_id: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / file for file in self.files)


class _AdniName(NamedTuple):
    """What ADNI's name says, the same for all files of one image.

    Attributes:
        series: the image id, else the series number; tells the images of a folder apart.
        format: as by `preparation.formats.by_name`.
    """

    subject: str
    modality: str
    description: str
    image_id: str | None
    series: str | None
    format: str


@dataclass
class Download:
    """What the walk found.

    Attributes:
        series: every image, in natural order of the folders.
        left_out: what cannot be an image that can be read.
        subjects: whose folders or files there are.
        xml: the images' XML files by image id.
        strangers: files that are neither images nor anything that a download has.
        remarks: lines for the user.
    """

    series: list[Series] = field(default_factory=list)
    left_out: list[LeftOutScan] = field(default_factory=list)
    subjects: set[str] = field(default_factory=set)
    xml: dict[str, Path] = field(default_factory=dict)
    strangers: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """The remarks, and one line for all strangers."""
        if not self.strangers:
            return self.remarks
        number, example = len(self.strangers), self.strangers[0]
        return [*self.remarks, f"{number} files are no images by their names, as {example}"]

    def leave_out(self, path: Path, reason: str, is_fault: bool = True) -> None:
        subject = read_place(path).subject or ""
        self.left_out.append(LeftOutScan(subject, path, reason, is_fault=is_fault))


def walk_download(root: Path) -> Download:
    """Every series below `root`, by names of folders and files; links to folders are not followed.

    Raises:
        InputError: no such folder.
    """
    if not root.is_dir():
        check_readable(root)
        problem = "is a file" if root.is_file() else "no such folder"
        raise InputError(root, problem, "give the folder of an ADNI download")
    found = Download()

    def refused(error: OSError) -> None:
        found.leave_out(Path(error.filename), (error.strerror or str(error)).lower())

    for folder, folders, files in os.walk(os.path.abspath(root), onerror=refused):
        at = Path(folder)
        shown = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        folders[:] = sorted(shown, key=natural_key)  # in place: these are walked next
        for name in folders:
            if SUBJECT.fullmatch(name):
                found.subjects.add(name.upper())
            if os.path.islink(at / name):
                why = "a link to a folder, which is not followed"
                found.leave_out(at / name, why, is_fault=False)
        if not folders and not files:
            problem = reading_problem(at)
            found.leave_out(at, ", ".join(problem) if problem else "the folder is empty")
        if files := visible(files, folders):
            _sort_files(found, at, files)
    return found


def _sort_files(found: Download, folder: Path, files: list[str]) -> None:
    """Sort one folder's files into series, by ADNI's names and, for the rest, by their endings.

    Where an ending promises no image, the content decides.
    """
    named: dict[_AdniName, list[str]] = defaultdict(list)
    loose: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if file.lower() in _IGNORED or _PAPERS.search(file):
            continue
        if match := FILE_NAME.fullmatch(file):
            named[_adni_name(match)].append(file)
        else:
            kind = by_name(file)
            if kind in ("", *NOT_READ):  # few, so that they can be looked into
                kind = by_content(folder / file)
            loose[kind].append(file)
    if not named and not loose and any(file.lower() == "dicomdir" for file in files):
        why = "an index without images: copy the folders that it lists too"
        found.leave_out(folder / "DICOMDIR", why)
    for image, members in named.items():
        _add_named(found, folder, image, members)
    for kind, members in loose.items():
        _add_loose(found, folder, kind, members, beside_named=bool(named))


def _adni_name(match: re.Match) -> _AdniName:
    image = f"I{match['image']}" if match["image"] else None
    return _AdniName(
        subject=match["subject"].upper(),
        modality="MRI" if match["modality"].upper() == "MR" else "PET",
        description=match["description"],
        image_id=image,
        series=image or match["series"],
        format=by_name(match.string),
    )


def _add_named(found: Download, folder: Path, image: _AdniName, files: list[str]) -> None:
    """The files of one image with ADNI's names."""
    found.subjects.add(image.subject)
    if image.format in NOT_READ:
        why = reason(image.format)
        found.left_out.append(LeftOutScan(image.subject, folder / files[0], why, is_fault=True))
        return
    series = Series(
        folder,
        files=tuple(sorted(files, key=natural_key)),
        format=image.format,
        subject=image.subject,
        modality=image.modality,
        description=image.description,
        image_id=image.image_id,
    )
    found.series.append(series)


def _add_loose(
    found: Download, folder: Path, kind: str, files: list[str], beside_named: bool
) -> None:
    """The files of one format in a folder that do not have ADNI's names."""
    files.sort(key=natural_key)
    # The frames of one PET share a folder; anything else has a folder for each image.
    if kind == "nifti" or (kind == "dicom" and not beside_named):
        found.series.append(Series(folder, tuple(files), kind))
    elif kind in NOT_READ:
        for file in files:
            found.leave_out(folder / file, reason(kind))
    elif kind == "xml":
        for file in files:
            if match := XML_NAME.fullmatch(file):
                found.xml[f"I{match['image']}"] = folder / file
    else:
        found.strangers += [folder / file for file in files]
