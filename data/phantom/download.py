"""A synthetic ADNI download: DICOM series of synthetic heads, with ADNI's folders, names and
headers.

    python -m data.phantom.download --out data/adni-demo --subjects 3 --seed 3407 --voxel-mm 2

Each subject has an MRI (sagittal planes, slightly oblique), one FDG-PET (every third subject a
dynamic one of three frames, the others ADNI's average) and series that have to be left out: a
localizer, a mask, an AV45-PET and an MRI of two years before. The head lies in the PET scanner
otherwise than in the MRI scanner, by a rigid transform that is written, with everything else that
is true about the download, to `<download>_truth.json` beside it.

The download is made under another name and renamed when it is complete. The same arguments give the
same bytes.
"""

import csv
import datetime
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from data.phantom.cohort import subject_seed
from data.phantom.dicom_writer import About, Planes, write_series
from data.phantom.head import Phantom, make_subject
from utils.cli import Parser, non_negative_int, positive_float, positive_int, run
from utils.errors import InputError
from utils.files import replacing

VERSION = 1  # of the generator: raise it when the same arguments give other files
MRI_DEGREES, MRI_MM = 6.0, 8.0  # largest turn and shift of a head in the MRI scanner
PET_DEGREES, PET_MM = 12.0, 12.0  # and in the PET scanner
BRAIN_CENTRE_MM = (0.0, -17.0, 8.0)  # about which heads turn
PET_FIELD_MM = (256.0, 256.0, 170.0)
FRAME_SECONDS = (300.0, 300.0, 600.0)
FRAME_UPTAKE = (0.95, 1.0, 1.04)
BQML_PER_UNIT = 2.5  # of the phantom's PET
MOST_GAP_DAYS = 60

MISSING_MRI_SLICE = "middle MRI slice missing"
MISSING_MRI_END = "last MRI slices missing"
MISSING_PET_SLICE = "last PET slice missing"
NO_PET = "no FDG-PET"
OTHER_TRACER = "another tracer in the header"
CUT_SHORT = "PET file cut short"
NO_SLOPE = "RescaleSlope missing in one slice"
FAR_APART = "scans 800 days apart"
EMPTY_FOLDER = "MRI folder empty"
CONSTANT = "PET constant"
DEFECTS = (
    MISSING_MRI_SLICE,
    NO_PET,
    CUT_SHORT,
    OTHER_TRACER,
    MISSING_PET_SLICE,
    FAR_APART,
    NO_SLOPE,
    EMPTY_FOLDER,
    MISSING_MRI_END,
    CONSTANT,
)
_REMEDY = "delete it or give another folder"
_TABLE_HEADER = (
    "Image Data ID", "Subject", "Group", "Sex", "Age", "Visit", "Modality", "Description", "Type", "Acq Date",
    "Format", "Downloaded",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """One subject's two images as the scanners see them; arrays are (X, Y, Z) near RAS+ order.

    Attributes:
        mri: float32, whole numbers.
        mri_affine: (4, 4) voxel -> mm of the MRI scanner.
        frames: (X, Y, Z, T) float32, Bq/ml before they are rounded to 16 bits plane by plane.
        pet_affine: (4, 4) voxel -> mm of the PET scanner; the planes are not tilted.
        durations: seconds for each frame.
        pet_to_mri: (4, 4) rigid, mm of the PET scanner -> mm of the MRI scanner.
    """

    mri: np.ndarray
    mri_affine: np.ndarray
    frames: np.ndarray
    pet_affine: np.ndarray
    durations: tuple[float, ...]
    pet_to_mri: np.ndarray


def make_visit(
    seed: int, index: int, voxel_mm: float = 2.0, heads: int | None = None, dynamic: bool = False
) -> Visit:
    """Lay a synthetic head into both scanners.

    Args:
        seed, index: of the cohort and the subject in it, from 0.
        voxel_mm: edge of the MRI's voxels. The PET's are at least 2 mm and 1.25 times as thick as
            wide.
        heads: number of different heads that the subjects share; None: one each.
        dynamic: three frames instead of one.
    """
    phantom = _head(subject_seed(seed, index % heads if heads else index), voxel_mm)
    rng = np.random.default_rng([seed, index, 1])
    in_mri, in_pet = _pose(rng, MRI_DEGREES, MRI_MM), _pose(rng, PET_DEGREES, PET_MM)
    pet_affine, shape = _pet_grid(rng, in_pet, voxel_mm)
    to_head = np.linalg.inv(in_pet @ phantom.affine) @ pet_affine
    pet = ndimage.affine_transform(
        phantom.pet, to_head[:3, :3], to_head[:3, 3], shape, order=1, output=np.float32
    )
    pet *= BQML_PER_UNIT
    durations = FRAME_SECONDS if dynamic else (1800.0,)
    frames = [pet * uptake for uptake in FRAME_UPTAKE] if dynamic else [pet]
    noisy = [
        np.maximum(f + 0.02 * np.sqrt(f * f.max()) * rng.standard_normal(shape, np.float32), 0)
        for f in frames
    ]
    pet_to_mri = in_mri @ np.linalg.inv(in_pet)
    return Visit(
        phantom.mri, in_mri @ phantom.affine, np.stack(noisy, -1), pet_affine, durations, pet_to_mri
    )


@lru_cache(maxsize=16)
def _head(seed: int, voxel_mm: float) -> Phantom:
    return make_subject(seed, voxel_mm)


def _pose(rng: np.random.Generator, degrees: float, mm: float) -> np.ndarray:
    """A random turn about the middle of the brain and a shift, as a (4, 4) map from the head to the
    scanner.
    """
    axis, direction = rng.standard_normal((2, 3))
    turn = Rotation.from_rotvec(
        np.deg2rad(rng.uniform(0.3, 1) * degrees) * axis / np.linalg.norm(axis)
    ).as_matrix()
    shift = rng.uniform(0.3, 1) * mm * direction / np.linalg.norm(direction)
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = BRAIN_CENTRE_MM + shift - turn @ BRAIN_CENTRE_MM
    return pose


def _pet_grid(
    rng: np.random.Generator, in_pet: np.ndarray, voxel_mm: float
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and shape of the PET, its field of view about where the brain lies in the scanner."""
    side = max(voxel_mm, 2.0)
    sides = np.array([side, side, min(1.25 * side, 7.5)])
    shape = np.rint(np.array(PET_FIELD_MM) / sides).astype(int)
    centre = in_pet[:3, :3] @ BRAIN_CENTRE_MM + in_pet[:3, 3] + rng.uniform(-3, 3, 3)
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = centre - sides * (shape - 1) / 2
    return affine, tuple(int(n) for n in shape)


# The download ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """One image of the download, as its folder and file names call it."""

    subject: str
    modality: str
    description: str
    when: datetime.datetime
    number: int
    raw: bool

    @property
    def image_id(self) -> str:
        return f"I{self.number}"

    @property
    def written(self) -> str:
        """The description as folders have it."""
        return self.description.replace(" ", "_").replace(";", "_").replace(":", "_")

    def folder(self, root: Path) -> Path:
        day = self.when.strftime("%Y-%m-%d_%H_%M_%S.0")
        return root / "ADNI" / self.subject / self.written / day / self.image_id

    def files(self, root: Path, count: int) -> list[Path]:
        kind, upload = ("br_raw" if self.raw else "Br"), self.when.strftime("%Y%m%d%H%M%S") + "715"
        start = f"ADNI_{self.subject}_{self.modality}_{self.written}_{kind}_{upload}"
        # ADNI 4 (subjects of five digits) leaves series and image id out of the names.
        end = (
            ""
            if len(self.subject) > len("033_S_5198")
            else f"_S{self.number // 10}_{self.image_id}"
        )
        return [self.folder(root) / f"{start}_{number + 1}{end}.dcm" for number in range(count)]


def write_download(
    root: str | os.PathLike,
    subjects: int = 3,
    seed: int = 3407,
    voxel_mm: float = 2.0,
    heads: int | None = None,
    bad_share: float = 0.0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict:
    """Write the download and the truth about it; return the truth.

    The truth has `subjects`: by name the `defect` (None for a good one), whether the PET is
        `dynamic`, ids, dates and
    descriptions of the two images, their shapes and affines (`mri_affine`, `pet_affine`: RAS+
    order, voxel -> mm) and `pet_to_mri`. A download made with the same arguments is taken as it is.

    Args:
        root: folder of the download; `<root>_truth.json` is written beside it.
        subjects, seed: a larger cohort begins with the subjects of a smaller one.
        voxel_mm, heads: as in `make_visit`.
        bad_share: part of the subjects, in [0, 1], with one of `DEFECTS`, taken in turn.
        progress: wraps the iteration over the subjects' numbers, for instance `tqdm`.

    Raises:
        InputError: a value out of range, the folder holds something else or cannot be written,
            pydicom is missing.
    """
    root = Path(os.path.abspath(root))
    if not 0.5 <= voxel_mm <= 7:
        raise InputError(
            "voxel size", f"{voxel_mm:g} mm is not within 0.5 to 7 mm", "choose 1 or 2"
        )
    if not 0 <= bad_share <= 1:
        raise InputError(
            "share of bad subjects", f"{bad_share:g} is not within 0 to 1", "choose 0.05"
        )
    asked = {
        "generator_version": VERSION,
        "seed": seed,
        "voxel_mm": float(voxel_mm),
        "number": subjects,
    }
    asked |= {"heads": heads, "bad_share": float(bad_share)}
    mark = root.with_name(root.name + "_truth.json")
    if os.path.lexists(root):
        return _known(root, mark, asked)
    part = root.with_name(f".{os.getpid()}.{root.name}")
    found, table = {}, []
    try:
        for index in progress(range(subjects)):
            defect = _defect(index, bad_share)
            found |= _write_subject(
                part, index, make_visit(seed, index, voxel_mm, heads, index % 3 == 1), defect, table
            )
        _write_table(part / "collection.csv", table)
        text = json.dumps(asked | {"subjects": found}, indent=2) + "\n"
        with replacing(mark, _REMEDY) as file:
            file.write_text(text, "utf-8")
        os.rename(part, root)
    except OSError as error:
        raise InputError(
            root, f"cannot be written ({error.strerror or error})", "give another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return json.loads(text)


def _known(root: Path, mark: Path, asked: dict) -> dict:
    """The truth about a download that is there and made with the same arguments."""
    try:
        truth = json.loads(mark.read_text("utf-8"))
        same = all(truth[key] == value for key, value in asked.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(root, "is there and no synthetic download", _REMEDY) from error
    if not same:
        raise InputError(root, "holds a download made with other settings", _REMEDY)
    return truth


def subject_name(index: int) -> str:
    """ADNI's way of naming; every seventh subject has a number of five digits. There is no site
    999.
    """
    return f"999_S_{10001 + index}" if index % 7 == 4 else f"999_S_{index + 1:04d}"


def _defect(index: int, share: float) -> str | None:
    """The defect of a subject, so that every beginning of the cohort has the same share of them."""
    number = int((index + 1) * share + 1e-9)
    return DEFECTS[(number - 1) % len(DEFECTS)] if number > int(index * share + 1e-9) else None


def _write_subject(root: Path, index: int, visit: Visit, defect: str | None, table: list) -> dict:
    """All series of one subject, its rows of the table, and the truth about it by name."""
    subject, number = subject_name(index), 9_000_000 + 100 * index
    day = datetime.datetime(2012, 3, 1, 10, 20, 30) + datetime.timedelta(days=index % 700)
    gap = 800 if defect == FAR_APART else index * 7 % (MOST_GAP_DAYS + 1)
    dynamic = len(visit.durations) > 1
    processed = index % 2 == 0
    mri = _Image(subject, "MR", "MT1; GradWarp; N3m" if processed else "Accelerated Sagittal MPRAGE",
                 day, number + 10, not processed)  # fmt: skip
    pet = _Image(subject, "PT", "Co-registered Dynamic" if dynamic else "Co-registered, Averaged",
                 day + datetime.timedelta(days=gap), number + 20, False)  # fmt: skip
    _write_mri(root, mri, visit, defect)
    if defect != NO_PET:
        _write_pet(root, pet, visit, defect)
    others = _write_others(root, subject, day, number, visit)
    table += [_table_row(image) for image in (mri, *([pet] if defect != NO_PET else []), *others)]
    truth = {"defect": defect, "dynamic": dynamic, "days": gap}
    for kind, image in (("mri", mri), ("pet", pet)):
        truth |= {f"{kind}_id": image.image_id, f"{kind}_description": image.description}
        truth |= {f"{kind}_date": image.when.date().isoformat()}
    truth |= {"mri_shape": visit.mri.shape, "mri_affine": visit.mri_affine.tolist()}
    truth |= {"pet_shape": visit.frames.shape[:3], "pet_affine": visit.pet_affine.tolist()}
    return {
        subject: truth | {"durations_s": visit.durations, "pet_to_mri": visit.pet_to_mri.tolist()}
    }


def sagittal(array: np.ndarray, affine: np.ndarray) -> Planes:
    """An (X, Y, Z) volume as sagittal planes: columns run backwards, rows downwards, planes to the
    right.
    """
    stored = array.transpose(1, 2, 0)[::-1, ::-1]
    turned = np.eye(4)
    turned[:3] = np.stack(
        [-affine[:3, 1], -affine[:3, 2], affine[:3, 0], (affine @ [0, *_last(array, 1, 2), 1])[:3]],
        1,
    )
    return Planes(stored, turned)


def transverse(array: np.ndarray, affine: np.ndarray, durations: tuple[float, ...] = ()) -> Planes:
    """An (X, Y, Z[, T]) volume as transverse planes from the top down: columns run to the left,
    rows backwards.
    """
    turned = np.eye(4)
    turned[:3] = np.stack([*-affine[:3, :3].T, (affine @ [*_last(array, 0, 1, 2), 1])[:3]], 1)
    return Planes(array[::-1, ::-1, ::-1], turned, durations)


def _last(array: np.ndarray, *axes: int) -> list[int]:
    return [array.shape[axis] - 1 for axis in axes]


def _about(image: _Image, tracer: str = "FDG -- fluorodeoxyglucose", **more) -> About:
    key = f"DC2Fusion {image.subject} {image.image_id}"
    return About(
        image.modality, image.subject, image.description, key, image.when, tracer=tracer, **more
    )


def _write_mri(root: Path, image: _Image, visit: Visit, defect: str | None) -> None:
    planes = sagittal(visit.mri, visit.mri_affine)
    count = planes.array.shape[2]
    files = _written(root, image, planes, _about(image, extra=_MR_TIMES))
    _write_xml(root, image, count)
    gone = {
        MISSING_MRI_SLICE: files[count // 2 : count // 2 + 1],
        MISSING_MRI_END: files[-3:],
        EMPTY_FOLDER: files,
    }
    for file in gone.get(defect, ()):
        file.unlink()


_MR_TIMES = {
    "ScanningSequence": ["GR", "IR"],
    "SequenceVariant": ["SP", "MP"],
    "MRAcquisitionType": "3D",
    "RepetitionTime": "2300",
    "EchoTime": "2.98",
    "InversionTime": "900",
    "FlipAngle": "9",
    "MagneticFieldStrength": "3",
}


def _write_pet(root: Path, image: _Image, visit: Visit, defect: str | None) -> None:
    frames = np.full_like(visit.frames, 1000) if defect == CONSTANT else visit.frames
    planes = transverse(frames, visit.pet_affine, visit.durations)
    middle = planes.array.shape[2] // 2
    about = _about(
        image,
        tracer="Florbetapir" if defect == OTHER_TRACER else "FDG -- fluorodeoxyglucose",
        without_slope=frozenset([middle] if defect == NO_SLOPE else []),
    )
    files = _written(root, image, planes, about)
    if defect == MISSING_PET_SLICE:
        for frame in range(len(visit.durations)):
            files[(frame + 1) * planes.array.shape[2] - 1].unlink()
    if defect == CUT_SHORT:
        os.truncate(files[middle], files[middle].stat().st_size // 2)


def _write_others(
    root: Path, subject: str, day: datetime.datetime, number: int, visit: Visit
) -> list[_Image]:
    """Series that have to be left out, of two or three planes each."""
    earlier = day - datetime.timedelta(days=730)
    localizer = _Image(subject, "MR", "3 Plane Localizer", day, number + 30, True)
    mask = _Image(subject, "MR", "MPR; GradWarp; B1 Correction; Mask", day, number + 40, False)
    other_pet = _Image(subject, "PT", "AV45 Co-registered, Averaged", day, number + 50, False)
    first = _Image(subject, "MR", "Accelerated Sagittal MPRAGE", earlier, number + 60, True)
    x = visit.mri.shape[0] // 2
    for image in (localizer, mask, first):
        array = visit.mri[x : x + 2] > 0 if image is mask else visit.mri[x : x + 2]
        _written(
            root,
            image,
            sagittal(array.astype(np.float32), visit.mri_affine),
            _about(image, extra=_MR_TIMES),
        )
    pet = transverse(visit.frames[:, :, :2, :1], visit.pet_affine)
    _written(root, other_pet, pet, _about(other_pet, tracer="Florbetapir"))
    return [localizer, mask, other_pet, first]


def _written(root: Path, image: _Image, planes: Planes, about: About) -> list[Path]:
    """Write one series to its place; its files."""
    image.folder(root).mkdir(parents=True, exist_ok=True)
    files = image.files(root, int(np.prod(planes.array.shape[2:])))
    write_series(files, planes, about)
    return files


def _write_xml(root: Path, image: _Image, planes: int) -> None:
    """The XML that comes with an image, as far as preparation reads it."""
    name = f"ADNI_{image.subject}_{image.written}_S{image.number // 10}_{image.image_id}.xml"
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<idaxs><project><projectIdentifier>ADNI</projectIdentifier><subject>
<subjectIdentifier>{image.subject}</subjectIdentifier>
<visit><visitIdentifier>ADNI Screening</visitIdentifier></visit>
<study><series><modality>MRI</modality><dateAcquired>{image.when:%Y-%m-%d %H:%M:%S}.0</dateAcquired>
<imagingProtocol><imageUID>{image.number}</imageUID><description>{image.description}</description>
<protocolTerm><protocol term="Matrix Z">{planes}.0</protocol></protocolTerm>
</imagingProtocol></series></study></subject></project></idaxs>
"""
    (root / "ADNI" / name).write_text(text, "utf-8")


def _table_row(image: _Image) -> list[str]:
    when = image.when
    return [
        image.image_id, image.subject, "CN", "F", "75", "sc", "MRI" if image.modality == "MR" else "PET",
        image.description, "Original" if image.raw else "Processed", f"{when.month}/{when.day}/{when.year}", "DCM",
        "11/01/2021",
    ]  # fmt: skip


def _write_table(path: Path, rows: list[list[str]]) -> None:
    """The collection CSV, every cell in quotes."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([_TABLE_HEADER, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), "utf-8")


def main() -> None:
    """Write a download from the command line."""
    parser = Parser(
        prog="python -m data.phantom.download",
        description="Write a synthetic ADNI download (DICOM).",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the download")
    parser.add_argument("--subjects", type=positive_int, default=3, help="how many [3]")
    parser.add_argument("--seed", type=non_negative_int, default=3407, help="seed [3407]")
    parser.add_argument(
        "--voxel-mm", type=positive_float, default=2.0, help="voxel edge of the MRIs in mm [2]"
    )
    parser.add_argument(
        "--heads", type=positive_int, help="let the subjects share so many heads [one each]"
    )
    parser.add_argument(
        "--bad-share", type=float, default=0.0, help="part of the subjects with a defect [0]"
    )
    args = parser.parse_args()
    truth = write_download(
        args.out,
        args.subjects,
        args.seed,
        args.voxel_mm,
        args.heads,
        args.bad_share,
        lambda items: tqdm(items),
    )
    bad = sum(subject["defect"] is not None for subject in truth["subjects"].values())
    print(f"{len(truth['subjects'])} subjects in {args.out}, {bad} of them with a defect")


if __name__ == "__main__":
    run(main)
