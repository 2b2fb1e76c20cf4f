"""Lesion transfer of methods: measured, kept, tabled, drawn; pairs for other programs.

What transfer is: `metrics.transfer`. Methods that can be run are measured on the network's grid. A
program that cannot be called from here gets the lesioned pairs as a data set (`export_lesions`),
and what it makes of them is scored on the MRI's own grid.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from data.subjects import PUBLISHED_MRI, PUBLISHED_PET, Subject, published_file
from evaluation.methods import LESIONED, Method
from evaluation.results import Row
from evaluation.scorebook import csv_text, write_text
from evaluation.tables import markdown_table
from metrics.transfer import (
    FULL,
    STANDARD,
    Case,
    Lesion,
    Transfer,
    lesion_transfer,
    lesioned_pairs,
    transfer,
)
from utils.errors import InputError, in_one_line, report
from utils.files import replacing
from utils.pictures import AS_WRITTEN, save_figure
from utils.planes import plane_of

if TYPE_CHECKING:
    from evaluation import scoring

KINDS = {"standard": STANDARD, "full": FULL}
DRAWS, SEED = 3, 0
TABLE, PICTURE = "lesions.csv", "lesions.png"
FOLDER = "lesions"  # of the planes for the picture
COLUMNS = ("method", "subject", "source", "radius_mm", "amplitude", "draw", "transfer")
SUFFIXES = {"mri": PUBLISHED_MRI, "pet": PUBLISHED_PET}
UNKNOWN = dict.fromkeys(("transfer", "transfer_mri", "transfer_pet", "transfer_min"), float("nan"))


def measure(
    case: scoring.Case,
    method: Method,
    kinds: Sequence[Lesion],
    device: torch.device,
    record: LesionRecord,
) -> dict[str, float]:
    """A method's transfer on one subject, into the record; the columns of the score book.

    They are those of the standard lesions; NaN for volumes that another program fused without the
    lesions.

    Raises:
        InputError: too little tissue for lesions, or a lesioned volume that is missing.
    """
    try:
        if method.folder is None:
            found = _run(case, method, kinds, device, record)
        elif (method.folder / LESIONED).is_dir():
            found = score_exported(case, method)
        else:
            return UNKNOWN
    except ValueError as error:  # what `lesioned_pairs` says of a pair
        raise InputError("--lesions", str(error), "leave the flag out for this pair") from error
    record.add(method.label, case.name, found)
    columns = Transfer({lesion: found.values[lesion] for lesion in STANDARD}).columns()
    mri, pet = columns["t_mri"], columns["t_pet"]
    mean = (mri + pet) / 2
    return dict(zip(UNKNOWN, (mean, mri, pet, columns["t_min"]), strict=True))


def _run(
    case: scoring.Case,
    method: Method,
    kinds: Sequence[Lesion],
    device: torch.device,
    record: LesionRecord,
) -> Transfer:
    """Run the method on the lesioned pairs; the first of each source are kept for the picture."""
    place = torch.device("cpu") if method.is_trivial else device
    volumes = []

    def fuse(mri: Tensor, pet: Tensor) -> Tensor:
        fused = method.model(mri.to(place), pet.to(place)).float().cpu()
        if len(volumes) <= len(STANDARD):  # without, then one with each
            volumes.append(fused[0, 0])
        return fused

    voxel_mm = case.voxel_mm("network")
    found = lesion_transfer(fuse, *case.inputs, voxel_mm, kinds, draws=DRAWS, seed=SEED)
    first = lesioned_pairs(*case.inputs, voxel_mm, STANDARD, draws=1, seed=SEED)
    record.keep_planes(case.name, method.label, list(first), volumes)
    return found


# What was measured -------------------------------------------------------------------------------


class LesionRecord:
    """`lesions.csv`, every single transfer, and the planes for the picture, of one output folder.

    Args:
        folder: of the evaluation; what is there is read.
        rank: of the process; each further one has a table of its own, until `join`.

    Raises:
        InputError: the table that is there is none of this program.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.path = self.folder / (f"lesions-{rank}.csv" if rank else TABLE)
        self.found: dict[tuple[str, str], list[tuple[Lesion, int, float]]] = {}
        self._read(self.path)

    def join(self, subjects: Sequence[str]) -> None:
        """Take in the other processes' tables, as one process would have.

        Args:
            subjects: in the order of the table.
        """
        others = sorted(self.folder.glob("lesions-[0-9]*.csv"))
        if not others:
            return
        for path in others:
            self._read(path)
        order = {name: place for place, name in enumerate(subjects)}
        keys = sorted(self.found, key=lambda key: order.get(key[1], -1))
        self.found = {key: self.found[key] for key in keys}
        self._write()
        for path in others:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        """Take in a table's rows, in the place of what there was of the same volumes."""
        if not path.exists():
            return
        seen = set()
        try:
            with open(path, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    lesion = Lesion(row["source"], float(row["radius_mm"]), float(row["amplitude"]))
                    where = row["method"], row["subject"]
                    if where not in seen:
                        self.found.pop(where, None)
                    seen.add(where)
                    values = self.found.setdefault(where, [])
                    values.append((lesion, int(row["draw"]), float(row["transfer"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"not a table of transfers ({type(error).__name__}: {error})"
            raise InputError(path, problem, "remove it, or choose another --out") from error

    def add(self, method: str, subject: str, transfers: Transfer) -> None:
        """Take in what was measured on one subject, in the place of what there was; write."""
        values = []
        for lesion, by_draw in transfers.values.items():
            values += [(lesion, draw, float(value)) for draw, value in enumerate(by_draw)]
        self.found[method, subject] = values
        self._write()

    def _write(self) -> None:
        rows = []
        for where, mine in self.found.items():
            for lesion, draw, value in mine:
                numbers = (f"{lesion.radius_mm:g}", f"{lesion.amplitude:g}", draw, f"{value:.6g}")
                rows.append((*where, lesion.source, *numbers))
        write_text(self.path, csv_text(COLUMNS, rows))

    def keep_planes(
        self, subject: str, method: str, cases: Sequence[Case], fused: Sequence[Tensor]
    ) -> None:
        """Keep the axial plane of each lesion of the picture.

        Args:
            cases: a lesion of each source.
            fused: (X, Y, Z) without a lesion, then with that of each case.
        """
        path = self._planes(subject)
        arrays = {}
        if path.exists():
            with np.load(path) as there:
                arrays = dict(there)
        without, *with_lesion = fused
        for case, volume in zip(cases, with_lesion, strict=True):
            source = case.lesion.source
            changed = getattr(case, source)
            level = int(case.delta[0, 0].square().sum((0, 1)).argmax())
            panels = {
                "source without": changed - case.delta,
                "source with": changed,
                f"{method} without": without,
                f"{method} with": volume,
            }
            for name, panel in panels.items():
                array = panel.reshape(without.shape).numpy()
                arrays[f"{source} {name}"] = plane_of(array, 2, (0, 0, level))
        with replacing(path, "give another --out") as part, open(part, "wb") as file:
            np.savez_compressed(file, **arrays)

    def planes(self, subject: str) -> dict[str, np.ndarray]:
        """{"<source> <method or `source`> with" or "... without": (rows, columns)}."""
        path = self._planes(subject)
        if not path.exists():
            return {}
        with np.load(path) as arrays:
            return dict(arrays)

    def _planes(self, subject: str) -> Path:
        return self.folder / FOLDER / f"{subject}.npz"


# Table and picture -------------------------------------------------------------------------------


def write_lesions(record: LesionRecord, subjects: Sequence[str], rows: Sequence[Row]) -> None:
    """Write `lesions.md`, a column for each kind, and `lesions.png` of the first subject.

    Args:
        subjects: that every row was scored on.
    """
    kinds = _kinds_in(record, subjects, rows)
    header = ["Method", *(lesion.name for lesion in kinds)]
    body = []
    for row in rows:
        cells = [_cell(record, subjects, row.label, lesion) for lesion in kinds]
        body.append([row.title, *cells])
    about = (
        f"T of lesions by source, radius in mm and relative change at the centre: mean ± "
        f"population standard deviation over {len(subjects)} subjects and {DRAWS} draws. 1: the "
        "lesion arrives in full, 0: not at all."
    )
    lines = ["# Lesion transfer", "", about, "", *markdown_table(header, body), ""]
    write_text(record.folder / "lesions.md", "\n".join(lines))
    planes = record.planes(subjects[0])
    shown = [row for row in rows if f"mri {row.label} with" in planes]
    if shown:
        save_figure(record.folder / PICTURE, lesion_figure(planes, shown, subjects[0]), dpi=130)


def _kinds_in(record: LesionRecord, subjects: Sequence[str], rows: Sequence[Row]) -> list[Lesion]:
    """The kinds of lesions that any row was measured with, in the order of FULL."""
    there = set()
    for row in rows:
        for subject in subjects:
            there |= {lesion for lesion, _, _ in record.found.get((row.label, subject), [])}
    return [lesion for lesion in FULL if lesion in there]


def _cell(record: LesionRecord, subjects: Sequence[str], label: str, lesion: Lesion) -> str:
    values = []
    for subject in subjects:
        found = record.found.get((label, subject), [])
        values += [value for kind, _, value in found if kind == lesion]
    return f"{np.mean(values):.2f}±{np.std(values):.2f}" if values else "–"


PANEL_INCHES, LEFT_INCHES, TOP_INCHES = 1.35, 1.5, 0.5
DIFFERENCE = 0.2  # end of the scale of differences
DARKER_BRIGHTER = LinearSegmentedColormap.from_list("difference", ("#4cc3ff", "black", "#ffa040"))
HEAD = 0.05  # panels are cut to where any volume is above it
PANELS = ("without", "with", "difference")


def lesion_figure(planes: dict[str, np.ndarray], rows: Sequence[Row], subject: str) -> Figure:
    """Sources and methods (rows): without a lesion, with it, and the difference, for each source.

    Args:
        planes: see `LesionRecord.planes`.
        rows: methods that are in them.
    """
    titles = {"source": "the source"} | {row.label: row.title for row in rows}
    width = LEFT_INCHES + 6 * PANEL_INCHES
    height = TOP_INCHES + len(titles) * PANEL_INCHES + 0.3
    figure = Figure(figsize=(width, height), facecolor="black")
    FigureCanvasAgg(figure)
    text = {"color": "white", "fontsize": 9, "va": "center"}
    for half, source in enumerate(("mri", "pet")):
        box = _head_box([planes[f"{source} {label} without"] for label in titles])
        for column, panel in enumerate(PANELS):
            centre = (LEFT_INCHES + (3 * half + column + 0.5) * PANEL_INCHES) / width
            heading = f"{panel}\n{source.upper()} lesion" if panel == "with" else panel
            figure.text(centre, 1 - 0.25 / height, heading, ha="center", **text)
        for line, (label, title) in enumerate(titles.items()):
            bottom = height - TOP_INCHES - (line + 1) * PANEL_INCHES
            left = LEFT_INCHES + 3 * half * PANEL_INCHES
            _draw_row(figure, planes, f"{source} {label}", box, left, bottom)
            middle = (bottom + PANEL_INCHES / 2) / height
            figure.text(0.1 / width, middle, title, **text, **AS_WRITTEN)
    note = (
        f"{subject}, axial · grey window [0, 1], differences from -{DIFFERENCE:g} (blue) to "
        f"{DIFFERENCE:g} (orange) · radiological convention"
    )
    look = {"color": "0.8", "fontsize": 7, "va": "center"} | AS_WRITTEN
    figure.text(0.1 / width, 0.15 / height, note, **look)
    return figure


def _head_box(images: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Rows and columns with anything to see in any of the images."""
    head = np.max(images, axis=0) > HEAD
    if not head.any():
        return slice(None), slice(None)
    rows, columns = np.flatnonzero(head.any(1)), np.flatnonzero(head.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _draw_row(
    figure: Figure,
    planes: dict[str, np.ndarray],
    name: str,
    box: tuple[slice, slice],
    left: float,
    bottom: float,
) -> None:
    """Three panels from `left` on, cut to `box`; places in inches."""
    page = figure.get_size_inches()
    without, with_lesion = planes[f"{name} without"][box], planes[f"{name} with"][box]
    size = (PANEL_INCHES - 0.04) / page[0], (PANEL_INCHES - 0.04) / page[1]
    for column, image in enumerate((without, with_lesion, with_lesion - without)):
        place = (left + column * PANEL_INCHES) / page[0], bottom / page[1]
        axes = figure.add_axes((*place, *size), label=f"{name} {column}")
        axes.set_axis_off()
        look = {"cmap": "gray", "vmin": 0, "vmax": 1}
        if column == 2:
            look = {"cmap": DARKER_BRIGHTER, "vmin": -DIFFERENCE, "vmax": DIFFERENCE}
        axes.imshow(image, aspect="equal", interpolation="bilinear", **look)


# Other programs ----------------------------------------------------------------------------------


def export_lesions(
    subjects: Sequence[Subject], read: Callable[[Subject], scoring.Case], folder: Path
) -> tuple[int, list[str]]:
    """Write the lesioned pairs of subjects as a data set in the published layout.

    One subject of the data set for each lesion and draw, named as in `lesions.json`; the volumes
    lie on the MRI's own grid in the units of the files, PET included, RAS+ order.

    Args:
        read: a subject -> its pair.

    Returns:
        the number of pairs; the subjects that have none, because of an error that was reported.

    Raises:
        InputError: a place that cannot be written to.
    """
    listed, failed = [], []
    for subject in subjects:
        try:
            listed += _export_pairs(read(subject), folder)
        except Exception as error:
            error = in_one_line(error, subject.name)
            if error.kind == "output":
                raise error from error.__cause__
            report(error)
            failed.append(subject.name)
    write_text(folder / "lesions.json", json.dumps({"seed": SEED, "pairs": listed}, indent=1))
    return len(listed), failed


def _export_pairs(case: scoring.Case, folder: Path) -> list[dict]:
    """Write the lesioned pairs of one subject; returns what `lesions.json` says of them."""
    listed = []
    for lesioned in _native_pairs(case):
        name = exported_name(case.name, lesioned)
        for source, volume in zip(SUFFIXES, case.files, strict=True):
            array = volume.array
            if source == lesioned.lesion.source:
                array = array + lesioned.delta[0, 0].numpy() * case.scale(source)
            image = nib.Nifti1Image(array.astype(np.float32), volume.affine)
            with replacing(published_file(folder, name, SUFFIXES[source])) as part:
                nib.save(image, part)
        about = {"name": name, "subject": case.name, "draw": lesioned.draw}
        listed.append(about | asdict(lesioned.lesion))
    return listed


def exported_name(subject: str, case: Case) -> str:
    """The name of a lesioned pair in the exported data set."""
    return f"{subject}-lesion-{case.lesion.source}-{case.draw + 1}"


def _native_pairs(case: scoring.Case) -> list[Case]:
    try:
        mri, pet = case.native
        voxel_mm = case.voxel_mm("native")
        return list(lesioned_pairs(mri, pet, voxel_mm, STANDARD, draws=DRAWS, seed=SEED))
    except ValueError as error:
        raise InputError(case.files[0].path, str(error), "leave this subject out") from error


def score_exported(case: scoring.Case, method: Method) -> Transfer:
    """The transfer of a program that fused the exported pairs into `<folder>/lesions/`.

    Raises:
        InputError: a volume that is missing or on another grid.
    """
    without = torch.from_numpy(case.read_fused(method.fused_file(case.name), method.scale).array)
    values: dict[Lesion, list[float]] = {}
    for lesioned in _native_pairs(case):
        path = method.lesioned_file(exported_name(case.name, lesioned))
        fused = torch.from_numpy(case.read_fused(path, method.scale).array)
        found = transfer(fused, without, lesioned.delta[0, 0])
        values.setdefault(lesioned.lesion, []).append(found)
    return Transfer({lesion: np.array(each) for lesion, each in values.items()})
