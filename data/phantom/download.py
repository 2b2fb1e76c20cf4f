"""A synthetic ADNI download: DICOM series of synthetic heads with ADNI's folders and headers.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.phantom.dicom_writer import About, Planes, sagittal, transverse, write_series
from data.phantom.visit import Visit, make_visit
from utils.cli import Parser, non_negative_int, positive_float, positive_int, run
from utils.errors import InputError
from utils.files import replacing, replacing_folder

VERSION = 1  # of the generator: raise it when the same arguments give other files
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
_FDG = "FDG -- fluorodeoxyglucose"
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
    def series_id(self) -> str:
        return f"S{self.number // 10}"

    @property
    def written(self) -> str:
        """The description as folders have it."""
        return self.description.translate(str.maketrans(" ;:", "___"))

    def folder(self, root: Path) -> Path:
        day = self.when.strftime("%Y-%m-%d_%H_%M_%S.0")
        return root / "ADNI" / self.subject / self.written / day / self.image_id

    def files(self, root: Path, count: int) -> list[Path]:
        kind = "br_raw" if self.raw else "Br"
        upload = self.when.strftime("%Y%m%d%H%M%S") + "715"
        start = f"ADNI_{self.subject}_{self.modality}_{self.written}_{kind}_{upload}"
        # ADNI 4 (subjects of five digits) leaves series and image id out of the names.
        is_adni4 = len(self.subject) > len("033_S_5198")
        end = "" if is_adni4 else f"_{self.series_id}_{self.image_id}"
        folder = self.folder(root)
        return [folder / f"{start}_{number + 1}{end}.dcm" for number in range(count)]


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
    `dynamic`, ids, dates and descriptions of the two images, their shapes and affines
    (`mri_affine`, `pet_affine`: RAS+ order, voxel -> mm) and `pet_to_mri`. A download made with
    the same arguments is taken as it is.

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
    _check_range("voxel size", voxel_mm, 0.5, 7, " mm", "choose 1 or 2")
    _check_range("share of bad subjects", bad_share, 0, 1, "", "choose 0.05")
    asked = {
        "generator_version": VERSION,
        "seed": seed,
        "voxel_mm": float(voxel_mm),
        "number": subjects,
        "heads": heads,
        "bad_share": float(bad_share),
    }
    mark = root.with_name(root.name + "_truth.json")
    if os.path.lexists(root):
        return _known(root, mark, asked)
    found, table = {}, []
    with replacing_folder(root, "give another folder") as part:
        for index in progress(range(subjects)):
            visit = make_visit(seed, index, voxel_mm, heads, dynamic=index % 3 == 1)
            found |= _write_subject(part, index, visit, _defect(index, bad_share), table)
        _write_table(part / "collection.csv", table)
        text = json.dumps(asked | {"subjects": found}, indent=2) + "\n"
        # Before the folder gets its name, which is the mark of a complete download.
        with replacing(mark, _REMEDY) as file:
            file.write_text(text, "utf-8")
    return json.loads(text)


def _check_range(name: str, value: float, low: float, high: float, unit: str, remedy: str) -> None:
    if not low <= value <= high:
        raise InputError(name, f"{value:g}{unit} is not within {low:g} to {high:g}{unit}", remedy)


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
    """A name as ADNI's, every seventh one with five digits. There is no site 999."""
    return f"999_S_{10001 + index}" if index % 7 == 4 else f"999_S_{index + 1:04d}"


def _defect(index: int, share: float) -> str | None:
    """The defect of a subject, so that every beginning of the cohort has the same share of them."""
    before = int(index * share + 1e-9)
    number = int((index + 1) * share + 1e-9)
    return DEFECTS[(number - 1) % len(DEFECTS)] if number > before else None


def _write_subject(root: Path, index: int, visit: Visit, defect: str | None, table: list) -> dict:
    """All series of one subject, its rows of the table, and the truth about it by name."""
    subject = subject_name(index)
    number = 9_000_000 + 100 * index
    day = datetime.datetime(2012, 3, 1, 10, 20, 30) + datetime.timedelta(days=index % 700)
    gap = 800 if defect == FAR_APART else index * 7 % (MOST_GAP_DAYS + 1)
    dynamic = len(visit.durations) > 1
    raw = index % 2 == 1
    mri_name = "Accelerated Sagittal MPRAGE" if raw else "MT1; GradWarp; N3m"
    pet_name = "Co-registered Dynamic" if dynamic else "Co-registered, Averaged"
    mri = _Image(subject, "MR", mri_name, day, number + 10, raw)
    later = day + datetime.timedelta(days=gap)
    pet = _Image(subject, "PT", pet_name, later, number + 20, raw=False)

    images = [mri]
    _write_mri(root, mri, visit, defect)
    if defect != NO_PET:
        images.append(pet)
        _write_pet(root, pet, visit, defect)
    images += _write_others(root, subject, day, number, visit)
    table += [_table_row(image) for image in images]
    truth = {"defect": defect, "dynamic": dynamic, "days": gap}
    return {subject: truth | _truth_of_image("mri", mri) | _truth_of_image("pet", pet)
            | _truth_of_visit(visit)}  # fmt: skip


def _truth_of_image(kind: str, image: _Image) -> dict:
    return {
        f"{kind}_id": image.image_id,
        f"{kind}_description": image.description,
        f"{kind}_date": image.when.date().isoformat(),
    }


def _truth_of_visit(visit: Visit) -> dict:
    return {
        "mri_shape": visit.mri.shape,
        "mri_affine": visit.mri_affine.tolist(),
        "pet_shape": visit.frames.shape[:3],
        "pet_affine": visit.pet_affine.tolist(),
        "durations_s": visit.durations,
        "pet_to_mri": visit.pet_to_mri.tolist(),
    }


def _about(image: _Image, tracer: str = _FDG, **more) -> About:
    """The headers of an image; `more` as in `About`."""
    key = f"DC2Fusion {image.subject} {image.image_id}"
    return About(
        image.modality, image.subject, image.description, key, image.when, tracer=tracer, **more
    )


def _write_mri(root: Path, image: _Image, visit: Visit, defect: str | None) -> None:
    planes = sagittal(visit.mri, visit.mri_affine)
    count = planes.array.shape[2]
    files = _written(root, image, planes, _about(image, extra=_MR_TIMES))
    _write_xml(root, image, count)
    middle = count // 2
    gone = {
        MISSING_MRI_SLICE: [files[middle]],
        MISSING_MRI_END: files[-3:],
        EMPTY_FOLDER: files,
    }
    for file in gone.get(defect, ()):
        file.unlink()


def _write_pet(root: Path, image: _Image, visit: Visit, defect: str | None) -> None:
    frames = np.full_like(visit.frames, 1000) if defect == CONSTANT else visit.frames
    planes = transverse(frames, visit.pet_affine, visit.durations)
    per_frame = planes.array.shape[2]
    middle = per_frame // 2
    about = _about(
        image,
        tracer="Florbetapir" if defect == OTHER_TRACER else _FDG,
        without_slope=frozenset([middle] if defect == NO_SLOPE else []),
    )
    files = _written(root, image, planes, about)
    if defect == MISSING_PET_SLICE:
        for last in range(per_frame - 1, len(files), per_frame):
            files[last].unlink()
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
    middle = visit.mri[x : x + 2]
    for image in (localizer, mask, first):
        array = (middle > 0).astype(np.float32) if image is mask else middle
        planes = sagittal(array, visit.mri_affine)
        _written(root, image, planes, _about(image, extra=_MR_TIMES))
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
    name = f"ADNI_{image.subject}_{image.written}_{image.series_id}_{image.image_id}.xml"
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


def _table_row(image: _Image) -> dict[str, str]:
    """The image's line of the collection CSV, by column."""
    when = image.when
    return {
        "Image Data ID": image.image_id,
        "Subject": image.subject,
        "Group": "CN",
        "Sex": "F",
        "Age": "75",
        "Visit": "sc",
        "Modality": "MRI" if image.modality == "MR" else "PET",
        "Description": image.description,
        "Type": "Original" if image.raw else "Processed",
        "Acq Date": f"{when.month}/{when.day}/{when.year}",
        "Format": "DCM",
        "Downloaded": "11/01/2021",
    }


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """The collection CSV, every cell in quotes."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), "utf-8")


def _parse_args():
    parser = Parser(
        prog="python -m data.phantom.download",
        description="Write a synthetic ADNI download (DICOM).",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the download")
    add("--subjects", type=positive_int, default=3, help="how many [3]")
    add("--seed", type=non_negative_int, default=3407, help="seed [3407]")
    add("--voxel-mm", type=positive_float, default=2.0, help="voxel edge of the MRIs in mm [2]")
    add("--heads", type=positive_int, help="let the subjects share so many heads [one each]")
    add("--bad-share", type=float, default=0.0, help="part of the subjects with a defect [0]")
    return parser.parse_args()


def main() -> None:
    """Write a download from the command line."""
    args = _parse_args()
    truth = write_download(
        root=args.out,
        subjects=args.subjects,
        seed=args.seed,
        voxel_mm=args.voxel_mm,
        heads=args.heads,
        bad_share=args.bad_share,
        progress=tqdm,
    )
    subjects = truth["subjects"].values()
    bad = [subject for subject in subjects if subject["defect"] is not None]
    print(f"{len(subjects)} subjects in {args.out}, {len(bad)} of them with a defect")


if __name__ == "__main__":
    run(main)
