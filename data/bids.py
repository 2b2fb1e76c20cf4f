"""What a BIDS data set says about its images: by names, folders and sidecars.

Every program that reads BIDS goes through here, so that all have one rule for tracer, run and
session. Which of several images is taken is theirs to decide.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.tracers import (
    FDG_NAME,
    is_fdg,
    is_tracer,
    names_nothing,
    other_tracer,
    radionuclide_problem,
)
from utils.errors import InputError
from utils.files import reading_problem, visible
from utils.text import natural_key, read_text

BIDS_VERSION = "1.11.1"  # that the data sets made here follow
T1W, PET = "T1w", "pet"
UNNAMED = "the PET's tracer is not named, taken for FDG"
_FOLDERS = {T1W: "anat", PET: "pet"}
_NIFTI_ENDINGS = ".nii.gz", ".nii"
# PETs without attenuation correction: of a label (`nac`, `nacstat`), of a field in free words.
_NAC_LABEL = re.compile("n(o|on)?ac", re.IGNORECASE)
_NAC_WORDS = re.compile(
    r"(0|none|no|not|off|false|without|nac|noac|non-?ac|non-?corrected|un-?corrected)\b",
    re.IGNORECASE,
)
# Of BIDS and of dcm2niix, which keeps DICOM's names.
_TRACER_FIELDS = "TracerName", "Radiopharmaceutical"
_DESCRIPTIONS = "SeriesDescription", "ProtocolName"
_RADIONUCLIDE_FIELDS = "TracerRadionuclide", "RadionuclideHalfLife"
_CORRECTION_FIELDS = "AttenuationCorrection", "AttenuationCorrectionMethod"


@dataclass(frozen=True)
class Visit:
    """Where the images of one session lie.

    Attributes:
        folder: the session's folder, or the participant's own.
        participant: with its `sub-`.
        session: the label without `ses-`, None in the participant's own folder.
    """

    folder: Path
    participant: str
    session: str | None


@dataclass(frozen=True)
class BidsImage:
    """An image and what its name says.

    Attributes:
        path: the file.
        labels: its entities, {"sub": "01", "trc": "FDG"}.
        visit: whose folder it lies in.
    """

    path: Path
    labels: Mapping[str, str]
    visit: Visit

    @property
    def fits_folder(self) -> bool:
        """Whether participant and session are those of the folder."""
        session = self.visit.session
        same_session = self.labels.get("ses", session) == session
        return f"sub-{self.labels.get('sub')}" == self.visit.participant and same_session

    @property
    def run(self) -> int | str | None:
        return run_number(self.labels.get("run"))


def stem(file: Path) -> str:
    """The name without .nii or .nii.gz in any case; '' for a file that is no NIfTI by its name."""
    for ending in _NIFTI_ENDINGS:
        if file.name.lower().endswith(ending):
            return file.name[: -len(ending)]
    return ""


def sidecar_of(image: Path) -> Path:
    """The JSON beside an image, whatever case its ending has; need not be there."""
    wanted = image.with_name(stem(image) + ".json")
    if not os.path.lexists(wanted):
        for file in image.parent.glob("*.[jJ][sS][oO][nN]"):
            if file.stem == wanted.stem:
                return file
    return wanted


def entities(file: Path) -> dict[str, str]:
    """`sub-01_trc-FDG_pet.nii.gz` -> {"sub": "01", "trc": "FDG"}."""
    parts = file.name.split(".")[0].split("_")[:-1]
    return dict(part.split("-", 1) for part in parts if "-" in part)


def run_number(label: str | int | None) -> int | str | None:
    """02 and 2 are one run; None for no label."""
    text = str(label)
    if text.isdecimal():
        return int(text)
    return label


# Folders -----------------------------------------------------------------------------------------


def listed(folder: Path) -> list[Path]:
    """The visible entries of a folder in natural order, as `utils.files.visible`.

    None of a folder that is not downloaded.

    Raises:
        InputError: it cannot be read.
    """
    if not os.path.lexists(folder) and reading_problem(folder):
        return []
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(folder, f"cannot be read ({reason})", "make it readable") from error
    return [folder / name for name in sorted(visible(names), key=natural_key)]


def visits(folder: Path) -> list[Visit]:
    """Where a participant's images can lie: in each session, or in the participant's folder.

    Raises:
        InputError: the folder cannot be read.
    """
    found = []
    for entry in listed(folder):
        if entry.name.startswith("ses-") and (os.path.isdir(entry) or reading_problem(entry)):
            found.append(Visit(entry, folder.name, entry.name.removeprefix("ses-")))
    own = Visit(folder, folder.name, None)
    return [own, *found] if has_images(own) or not found else found


def has_images(visit: Visit) -> bool:
    """Whether it has one of the folders that images are in."""
    return any(os.path.isdir(visit.folder / name) for name in _FOLDERS.values())


def parts_not_downloaded(visit: Visit) -> list[tuple[Path, str]]:
    """Folders of a visit that are parts of their own and not downloaded, each with what to do."""
    found = []
    for folder in (visit.folder, *(visit.folder / name for name in _FOLDERS.values())):
        problem = reading_problem(folder)
        if problem:
            found.append((folder, ", ".join(problem)))
    return found


def images(visit: Visit, suffix: str) -> list[BidsImage]:
    """The T1w or pet images of a visit, in natural order; none where their folder is not there.

    Raises:
        InputError: the folder cannot be read.
    """
    folder = visit.folder / _FOLDERS[suffix]
    if not os.path.isdir(folder):
        return []
    found = []
    for file in listed(folder):
        if stem(file).endswith(f"_{suffix}") and not os.path.isdir(file):
            found.append(BidsImage(file, entities(file), visit))
    return found


# Sidecars ----------------------------------------------------------------------------------------


class Sidecars:
    """The JSON files of one data set; each folder is listed once, each file read once.

    Args:
        root: the folder with the `sub-*` folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._in_folder: dict[Path, list[Path]] = {}
        self._content: dict[Path, dict] = {}

    def fields(self, image: Path) -> dict:
        """What holds for an image below the root by the inheritance principle.

        A file holds for the images in its folder and below that have its suffix and all of its
        entities. Nearer files win, in one folder those with more entities.

        Raises:
            InputError: a file that holds cannot be read or is no JSON object.
        """
        suffix = stem(image).rsplit("_", 1)[-1]
        labels = entities(image).items()
        below = image.parent.relative_to(self._root).parts
        fields: dict = {}
        for depth in range(len(below) + 1):
            for file in self._json_files(self._root.joinpath(*below[:depth])):
                if _suffix_alone(file) == suffix and entities(file).items() <= labels:
                    fields |= self._read(file)
        return fields

    def _json_files(self, folder: Path) -> list[Path]:
        if folder not in self._in_folder:
            found = [file for file in listed(folder) if file.suffix.lower() == ".json"]
            found.sort(key=lambda file: (len(entities(file)), file.name))
            self._in_folder[folder] = found
        return self._in_folder[folder]

    def _read(self, file: Path) -> dict:
        if file not in self._content:
            self._content[file] = read_json(file)
        return self._content[file]


def _suffix_alone(file: Path) -> str | None:
    """What a sidecar's name has beside entities: `pet`; None when there is more to it."""
    *parts, suffix = file.stem.split("_")
    return suffix if all("-" in part for part in parts) else None


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read or is no JSON object.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # numbers and nestings can be too long for it
        raise InputError(path, f"not JSON ({error})", "correct it") from error
    if not isinstance(content, dict):
        raise InputError(path, "not a JSON object", "correct it")
    return content


def field_of(fields: Mapping, name: str) -> object | None:
    """A field of a sidecar, whatever case its name has; None where there is none."""
    if name in fields:
        return fields[name]
    same = [value for key, value in fields.items() if key.lower() == name.lower()]
    return same[0] if same else None


def tracer(labels: Mapping[str, str], fields: Mapping) -> str:
    """The tracer that a PET's entities or sidecar fields name; "" where nothing does.

    `trc-` before `TracerName` before `Radiopharmaceutical`, dcm2niix's copy of the DICOM header,
    before `acq-`, which data sets older than `trc-` used for it. What names nothing, such as
    "unknown", leaves it to the next one.
    """
    in_sidecar = [str(field_of(fields, name) or "").strip() for name in _TRACER_FIELDS]
    for name in (labels.get("trc", ""), *in_sidecar, labels.get("acq", "")):
        if not names_nothing(name):
            return name
    return ""


def tracer_problem(
    labels: Mapping[str, str], fields: Mapping, wanted: str = FDG_NAME
) -> str | None:
    """Why a PET is not of the wanted tracer.

    None when it is, and for FDG also when nothing speaks against it: another tracer in a label or a
    description, another radionuclide.
    """
    name = tracer(labels, fields)
    if name:
        return None if is_tracer(name, wanted) else f"tracer is {name}, not {wanted}"
    if not is_fdg(wanted):
        return f"tracer is not named, not known to be {wanted}"
    texts = [label for key, label in labels.items() if key not in ("sub", "ses")]
    texts += [str(field_of(fields, field) or "") for field in _DESCRIPTIONS]
    for text in texts:
        if other := other_tracer(text):
            return f"tracer is {other}, not {wanted}"
    radionuclide, half_life = (field_of(fields, field) for field in _RADIONUCLIDE_FIELDS)
    return radionuclide_problem(radionuclide, half_life)


def tracer_remark(labels: Mapping[str, str], fields: Mapping) -> str | None:
    """What to tell about a PET that was taken though nothing names its tracer; None for others."""
    return None if tracer(labels, fields) else UNNAMED


def says_uncorrected(text: str) -> bool:
    """Whether a text about attenuation correction, of a sidecar or a header, says that none is."""
    return _NAC_WORDS.match(text.strip()) is not None


def correction_problem(labels: Mapping[str, str], fields: Mapping) -> str | None:
    """Why a PET is not corrected for attenuation; None when nothing says that it is not.

    `rec-nacstat` and the like are PET-BIDS' own labels.
    """
    for key in ("rec", "acq", "desc"):
        label = labels.get(key, "")
        if _NAC_LABEL.match(label):
            return f"PET is not corrected for attenuation ({key}-{label})"
    for field in _CORRECTION_FIELDS:
        value = field_of(fields, field)
        if value is not None and says_uncorrected(str(value)):
            return f"PET is not corrected for attenuation ({field}: {value})"
    return None


def pet_problem(labels: Mapping[str, str], fields: Mapping, wanted: str = FDG_NAME) -> str | None:
    """Why a PET is none to take, by its name and its sidecars; None when it is one."""
    return tracer_problem(labels, fields, wanted) or correction_problem(labels, fields)


def frame_durations(fields: Mapping) -> tuple[float, ...] | None:
    """Seconds for each frame, None when the sidecar does not say.

    Raises:
        ValueError, TypeError: no durations.
    """
    value = field_of(fields, "FrameDuration")
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    try:
        seconds = tuple(float(item) for item in items)
    except OverflowError as error:  # a whole number of hundreds of digits
        raise ValueError("FrameDuration is too large") from error
    if not all(0 < item < float("inf") for item in seconds):
        raise ValueError(f"FrameDuration {value}")
    return seconds
