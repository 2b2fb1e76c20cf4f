"""From DICOM files to the planes of one image: find, read headers, group, choose.

A plane is one picture of one slice: a classic file, or one frame of an enhanced multi-frame file.
Nothing is concluded from names or from the order of files, except an ADNI image id
(`..._I123.dcm`).
"""

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.volume import KINDS
from preparation.formats import AVERAGED_SCAN, PAPERS, by_bytes, ending, refuse_foreign
from preparation.read.dicom_header import (
    DOWNLOAD_AGAIN,
    class_name,
    correction_problem,
    holds_image,
    read_header,
)
from utils.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

_MODALITIES = {"MRI": "MR", "PET": "PT"}
# Suffixes that promise an image: such a file is never passed over in silence.
_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
# Echo times that lie no further apart are one: headers round them, in single slices too.
_SAME_ECHO_MS, _SAME_ECHO = 0.01, 1e-3
# UIH: the pictures in a grid, and how many there are; Siemens: how many there are.
_GRID_FRAMES, _GRID_COUNTS = (0x0065, 0x1051), ((0x0065, 0x1050), (0x0019, 0x100A))
_SHOWN_COUNTS = 4
# Where an enhanced file keeps what a classic one has at the top (DICOM PS3.3, C.7.6.16 and C.8.13,
# C.8.22).
_GROUPS = {
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "EffectiveEchoTime": ("MREchoSequence",),
    "FrameType": ("MRImageFrameTypeSequence", "PETFrameTypeSequence"),
    "ComplexImageComponent": ("MRImageFrameTypeSequence",),
    "FrameReferenceDateTime": ("FrameContentSequence",),
    "FrameAcquisitionDateTime": ("FrameContentSequence",),
    "FrameAcquisitionDuration": ("FrameContentSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
}
_CONVERTED = {
    0: "UnassignedPerFrameConvertedAttributesSequence",
    1: "UnassignedSharedConvertedAttributesSequence",
}


@dataclass(frozen=True, eq=False)
class Plane:
    """One picture of one slice.

    Attributes:
        file: where it lies.
        header: the file's data set without pixel data.
        frame: its index in the file, 0 in a classic one.
        items: functional groups of an enhanced file, the frame's own and the shared ones; empty in
            a classic one.
    """

    file: Path
    header: "Dataset"
    frame: int = 0
    items: tuple["Dataset | None", ...] = ()

    def get(self, keyword: str) -> object | None:
        """The value of a DICOM keyword: the frame's own, else the shared, else the file's, or None.

        Raises:
            InputError: the value is malformed.
        """
        try:
            for place, item in enumerate(self.items):
                for sequence in (*_GROUPS.get(keyword, ()), _CONVERTED[place]):
                    inner = item.get(sequence) if item is not None else None
                    if inner and not _empty(inner[0].get(keyword)):
                        return inner[0].get(keyword)
            value = self.header.get(keyword)
            return None if _empty(value) else value
        # pydicom converts values late and raises whatever a damaged one provokes
        except Exception as error:
            raise InputError(self.file, f"{keyword} cannot be read", DOWNLOAD_AGAIN) from error

    def numbers(self, keyword: str, count: int) -> np.ndarray | None:
        """`count` finite numbers as float64, None when there are none.

        Raises:
            InputError: no numbers, not finite, or another count.
        """
        value = self.get(keyword)
        if value is None:
            return None
        try:
            numbers = np.array([float(entry) for entry in _entries(value)])
        except (TypeError, ValueError) as error:
            raise InputError(self.file, f"{keyword} is no number", DOWNLOAD_AGAIN) from error
        if len(numbers) != count or not np.isfinite(numbers).all():
            shown = ", ".join(f"{number:g}" for number in numbers[:6])
            if len(numbers) > 6:
                shown += ", ..."
            expected = "a finite number" if count == 1 else f"{count} finite numbers"
            raise InputError(self.file, f"{keyword} is {shown}, not {expected}", DOWNLOAD_AGAIN)
        return numbers

    def number(self, keyword: str) -> float | None:
        """One finite number, None when there is none. Raises InputError like `numbers`."""
        numbers = self.numbers(keyword, 1)
        return None if numbers is None else float(numbers[0])

    def text(self, keyword: str) -> str:
        """The value as text, "" when there is none; several values joined by a backslash."""
        value = self.get(keyword)
        if value is None:
            return ""
        return value.strip() if isinstance(value, str) else "\\".join(_texts(value))

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.number("Rows") or 0), int(self.number("Columns") or 0)

    @property
    def kind(self) -> tuple[str, ...]:
        """ImageType from the third value on (M or P, ND or DIS2D, ...)."""
        types = _texts(self.get("FrameType") or self.get("ImageType"))
        return (*types[2:], self.text("ComplexImageComponent"))

    @property
    def echo(self) -> float | None:
        """Echo time in ms."""
        return self.number("EffectiveEchoTime" if self.items else "EchoTime")

    @property
    def image_id(self) -> str | None:
        """ADNI's image id at the end of the file's name, such as I123."""
        # also of "..._I123 (1).dcm"
        found = re.search(r"_(I\d+)(?:[ (-][^_]*)?\.[^.]+$", self.file.name)
        return found and found[1]

    @property
    def orientation(self) -> tuple[float, ...] | None:
        """Direction of rows and columns, rounded; for telling images apart."""
        numbers = self.numbers("ImageOrientationPatient", 6)
        return None if numbers is None else tuple(np.round(numbers, 2) + 0.0)


def folder_of(files: Sequence[Path]) -> Path:
    """What to call a series in messages: its one file, else the folder that holds all."""
    if len(files) == 1:
        return Path(files[0])
    return Path(os.path.commonpath([Path(file).parent for file in files]))


def find_planes(files: Sequence[Path]) -> tuple[list[Plane], list[str]]:
    """All planes in these files, in the order of the files' names, with remarks.

    Folders are walked. A DICOM file is known by its content. DICOMDIR, XML and text are passed
    over; without a preamble a file counts when it has an SOP class and rows.

    Raises:
        InputError: nothing found, with what lies there instead; or a file that should be an image
            and is empty, unreadable or damaged.
    """
    planes, others = [], []
    for file in sorted(set(_walk(files))):
        header = read_header(file)
        if header is None or not holds_image(header):
            _refuse_broken(file, header)
            others.append((file, header))
        else:
            planes += _planes_in(file, header)
    if not planes:
        _refuse_nothing(folder_of(files), others)
    _refuse_odd_one(planes, others)
    passed = [entry for entry in others if entry[0].suffix.lower() not in PAPERS]
    if not passed:
        return planes, []
    kinds = sorted({class_name(header) for _, header in passed if header is not None} - {""})
    what = f" ({', '.join(kinds)})" if kinds else ""
    return planes, [f"files passed over that hold no DICOM image: {len(passed)}{what}"]


def choose_image(
    planes: list[Plane], modality: str | None, image_id: str | None, where: Path
) -> tuple[list[Plane], list[str]]:
    """The planes of the one image that is wanted, with remarks.

    An image is what agrees in series, image id of the name, rows and columns, image type, echo time
    (as far as headers keep it) and in whether a PET is corrected for attenuation. A corrected PET
    is taken before an uncorrected one.

    Args:
        modality: "MRI" or "PET", None for any.
        image_id: ADNI's, decides between several images in one folder.
        where: the series for messages.

    Raises:
        InputError: no or more than one such image, or one that is colour, a mosaic, multi-frame of
            the old kind or a PET without attenuation correction.
    """
    notes = []
    if image_id is not None:
        planes = _with_id(planes, image_id, where, notes)
    if modality is not None:
        planes = _with_modality(planes, modality, where, notes)
    images = _corrected(_images(planes, notes), where, notes)
    if len(images) > 1:
        _refuse_several(images, where)
    for plane in images[0]:
        _refuse_kind(plane)
    inverted = sum(plane.text("PhotometricInterpretation") == "MONOCHROME1" for plane in images[0])
    if inverted:
        # PS3.3, C.7.6.3.1.2: about display, behind the rescaling; it changes no value.
        display = "shown with black for the highest value (MONOCHROME1)"
        notes.append(f"planes to be {display}: {inverted}; their values are read as they are")
    return images[0], notes


def drop_copies(planes: list[Plane]) -> tuple[list[Plane], list[str]]:
    """Leave out copies: the same SOPInstanceUID, position and bytes.

    Planes to which a careless anonymizer gave one UID are kept.
    """
    kept, seen = [], defaultdict(list)
    for plane in planes:
        same = seen[plane.text("SOPInstanceUID"), plane.frame, plane.text("ImagePositionPatient")]
        if not any(_same_bytes(plane.file, other.file) for other in same):
            same.append(plane)
            kept.append(plane)
    copies = len(planes) - len(kept)
    return kept, [f"copies of planes passed over: {copies}"] if copies else []


def _same_bytes(file: Path, other: Path) -> bool:
    """Whether two files hold the same; one file is no copy of itself."""
    return file != other and filecmp.cmp(file, other, shallow=False)


# Finding -----------------------------------------------------------------------------------------


def _walk(files: Sequence[Path]) -> Iterator[Path]:
    """The files, and those in the folders among them."""
    for file in map(Path, files):
        if file.is_dir():
            for folder, _, names in os.walk(file, onerror=_refuse_folder):
                yield from (Path(folder, name) for name in names)
        else:
            yield file


def _refuse_folder(error: OSError) -> None:
    problem = f"cannot be read ({error.strerror})"
    raise InputError(error.filename, problem, "make it readable") from error


def _refuse_broken(file: Path, header: "Dataset | None") -> None:
    """Refuse a file that holds no image and should.

    Passing it over could cost the last slice without leaving a gap.
    """
    image = ending(file) in _DICOM_SUFFIXES
    if file.stat().st_size == 0 and (image or not file.suffix):
        raise InputError(file, "the file is empty", DOWNLOAD_AGAIN)
    if header is None and image:
        kind = by_bytes(file)
        instead = f" but {KINDS[kind]}" if kind in KINDS else ""
        raise InputError(file, f"it is no DICOM file{instead}", DOWNLOAD_AGAIN)
    if header is None or _is_directory(file, header):
        return
    name = class_name(header)
    if not name or "Image Storage" in name:
        raise InputError(file, "the DICOM header is cut short, it has no Rows", DOWNLOAD_AGAIN)


def _refuse_odd_one(planes: list[Plane], others: list[tuple[Path, "Dataset | None"]]) -> None:
    """Refuse a file that is named like the images beside it and is no DICOM."""
    endings = {ending(plane.file) for plane in planes} - {""}
    for file, header in others:
        if header is None and ending(file) in endings:
            problem = "it is no DICOM file, as the others that end so"
            raise InputError(file, problem, DOWNLOAD_AGAIN)


def _refuse_nothing(where: Path, others: list[tuple[Path, "Dataset | None"]]) -> None:
    """Say what lies there instead of images."""
    for file, header in others:
        if header is None:
            refuse_foreign(file)
    indices, reports = [], set()
    for file, header in others:
        if _is_directory(file, header):
            indices.append(file)
        elif header is not None:
            reports.add(class_name(header))
    if reports:
        problem = f"no slice position: not an image series ({', '.join(sorted(reports))})"
        raise InputError(where, problem, "choose another series")
    if indices:
        remedy = "copy the folders that it names as well"
        raise InputError(where, "there is a DICOMDIR and no image", remedy)
    raise InputError(where, "no DICOM file", "check the download")


def _is_directory(file: Path, header: "Dataset | None") -> bool:
    """Whether a file is an index of others."""
    if file.name.upper() == "DICOMDIR":
        return True
    return header is not None and class_name(header) == "Media Storage Directory Storage"


def _planes_in(file: Path, header: "Dataset") -> list[Plane]:
    """The planes of one file."""
    whole = Plane(file, header)
    own = whole.get("PerFrameFunctionalGroupsSequence")
    shared = whole.get("SharedFunctionalGroupsSequence")
    if own is None:
        return [whole]
    promised = whole.number("NumberOfFrames")
    if promised != len(own):
        problem = f"it promises {promised or 0:g} frames and describes {len(own)}"
        raise InputError(file, problem, DOWNLOAD_AGAIN)
    common = shared and shared[0]
    return [Plane(file, header, index, (item, common)) for index, item in enumerate(own)]


def _empty(value: object) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _entries(value: object) -> Sequence:
    """One or several values as a sequence."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return value if several else [value]


def _texts(value: object) -> tuple[str, ...]:
    """One or several values as texts."""
    if _empty(value):
        return ()
    return tuple(str(entry) for entry in _entries(value))


# Choosing ----------------------------------------------------------------------------------------


def _with_id(planes: list[Plane], image_id: str, where: Path, notes: list[str]) -> list[Plane]:
    """The planes whose file names carry this id; all of them where names carry none."""
    ids = _image_ids(planes)
    wanted = [plane for plane, its_id in zip(planes, ids, strict=True) if its_id == image_id]
    named = sorted(set(ids) - {None})
    if not wanted and named:
        problem = f"no file of image {image_id} (there is {', '.join(named)})"
        raise InputError(where, problem, "check the image id")
    if not wanted:
        return planes
    if others := len(planes) - len(wanted):
        notes.append(f"planes of other images than {image_id} passed over: {others}")
    return wanted


def _image_ids(planes: list[Plane]) -> list[str | None]:
    """The id of each plane's image; a file whose name has lost it belongs to its series."""
    of_series = defaultdict(set)
    for plane in planes:
        of_series[plane.text("SeriesInstanceUID")].add(plane.image_id)
    ids = []
    for plane in planes:
        known = of_series[plane.text("SeriesInstanceUID")] - {None}
        ids.append(next(iter(known)) if len(known) == 1 else plane.image_id)
    return ids


def _with_modality(
    planes: list[Plane], modality: str, where: Path, notes: list[str]
) -> list[Plane]:
    """The planes of this modality; headers that name none count."""
    expected = _MODALITIES[modality]
    wanted = [plane for plane in planes if plane.text("Modality") in (expected, "")]
    if not wanted:
        found = ", ".join(sorted({plane.text("Modality") for plane in planes}))
        problem = f"its modality is {found}, not {expected}"
        raise InputError(where, problem, f"choose the {modality} series")
    others = {plane.text("Modality") for plane in planes} - {expected, ""}
    if others:
        count = len(planes) - len(wanted)
        notes.append(
            f"planes of another modality passed over: {count} ({', '.join(sorted(others))})"
        )
    return wanted


def _images(planes: list[Plane], notes: list[str]) -> list[list[Plane]]:
    """The planes grouped into images."""
    series = [plane.text("SeriesInstanceUID") for plane in planes]
    if _tell_nothing(series):
        series = [""] * len(planes)
        notes.append("every plane has a SeriesInstanceUID of its own: taken as one series")
    ids = _image_ids(planes)
    if _tell_nothing(ids):
        ids = [None] * len(planes)
    echoes = _levels([plane.echo for plane in planes])
    images = defaultdict(list)
    for plane, uid, image_id, echo in zip(planes, series, ids, echoes, strict=True):
        uncorrected = correction_problem(plane) is not None
        images[uid, image_id, plane.size, plane.kind, echo, uncorrected].append(plane)
    return list(images.values())


def _tell_nothing(values: Sequence) -> bool:
    """Whether every plane has another value, so that it cannot stand for an image."""
    return len(values) > 2 and len(set(values)) == len(values)


def _levels(values: Sequence[float | None]) -> list[float | None]:
    """For each value the least one of those that count as the same."""
    level = {None: None}
    last = None
    for value in sorted(set(values) - {None}):
        same = last is not None and value - last <= _SAME_ECHO_MS + _SAME_ECHO * abs(last)
        level[value] = level[last] if same else value
        last = value
    return [level[value] for value in values]


def _corrected(images: list[list[Plane]], where: Path, notes: list[str]) -> list[list[Plane]]:
    """The images without those PETs that are not corrected for attenuation, if others are left."""
    problems = [correction_problem(image[0]) for image in images]
    kept = [image for image, problem in zip(images, problems, strict=True) if problem is None]
    if not kept:
        raise InputError(where, problems[0], "choose the corrected series of this scan")
    if len(kept) < len(images):
        count = sum(map(len, images)) - sum(map(len, kept))
        notes.append(f"planes that are not corrected for attenuation passed over: {count}")
    return kept


def _refuse_several(images: list[list[Plane]], where: Path) -> None:
    """Several images in one folder: say how they differ and where the smallest one is."""
    images = sorted(images, key=len, reverse=True)
    first = [image[0] for image in images]
    known = {
        "series": {plane.text("SeriesInstanceUID") for plane in first},
        "image id": set(_image_ids(first)),
        "size": {plane.size for plane in first},
        "image type": {plane.kind for plane in first},
        "echo time": set(_levels([plane.echo for plane in first])),
        "orientation (not parallel)": {plane.orientation for plane in first},
    }
    differ = ", ".join(name for name, values in known.items() if len(values) > 1)
    counts = " + ".join(str(len(image)) for image in images[:_SHOWN_COUNTS])
    if len(images) > _SHOWN_COUNTS:
        counts += " + ..."
    smallest = images[-1][0].file.name
    counted = f"{len(images)} images ({counts} planes)"
    problem = f"{counted} that differ in {differ}, one from {smallest} on"
    raise InputError(where, problem, "move the files of all but one to other folders")


def _refuse_kind(plane: Plane) -> None:
    """Pictures that are no scalar slices."""
    original = "choose the original series"
    photometric = plane.text("PhotometricInterpretation")
    samples = plane.number("SamplesPerPixel")
    if samples not in (None, 1) or (photometric and not photometric.startswith("MONOCHROME")):
        raise InputError(plane.file, f"its pixels are colour ({photometric})", original)
    if _is_mosaic(plane):
        problem = "fMRI or diffusion mosaic, not a T1 volume"
        raise InputError(plane.file, problem, "choose the T1 series")
    frames = plane.number("NumberOfFrames") or 1
    if frames > 1 and not plane.items:
        problem = f"{frames:g} frames without a description of each (old nuclear medicine style)"
        raise InputError(plane.file, problem, AVERAGED_SCAN)


def _is_mosaic(plane: Plane) -> bool:
    """Whether many slices lie side by side in one picture; UIH calls that a grid of frames."""
    types = (*plane.kind, *_texts(plane.get("ImageType")))
    if "MOSAIC" in types or "VFRAME" in types or _GRID_FRAMES in plane.header:
        return True
    return any(_private_number(plane, tag) > 1 for tag in _GRID_COUNTS)


def _private_number(plane: Plane, tag: tuple[int, int]) -> float:
    """A number that may be stored as text, or as bytes where nothing says what they are."""
    element = plane.header.get(tag)
    value = getattr(element, "value", None)
    try:
        if isinstance(value, bytes) and len(value) == 2:
            return int.from_bytes(value, "little")
        return float(value.decode() if isinstance(value, bytes) else value)
    except (TypeError, ValueError):
        return 0.0
