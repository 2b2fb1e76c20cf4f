"""What is written of a fused pair: the volume, its picture, and what the flags ask for besides."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.bids import stem
from data.volume import Volume, read_volume, write_colour_like, write_like
from inference.fuse import Fusion, Job
from inference.page.build import Page, write_page
from inference.secondary_capture import read_series, write_series
from inference.sidecar import Derivative, write_json
from utils.colour import ColourMap, colour_map
from utils.errors import InputError
from utils.files import replacing_together
from utils.optional import need
from utils.pictures import fusion_figure, save_figure

_SAME = 1e-3  # of [0, 1]: two fusions of one pair on different machines


@dataclass(frozen=True)
class Outputs:
    """What to write beside volume and picture.

    Attributes:
        colours: of the picture and of all that is coloured.
        with_colour: a NIfTI of the colours.
        with_dicom: the colours as a series of secondary captures.
        series: folder of the MRI's own DICOM series, whose frame of reference they lie in.
        keep_patient: take patient and study over from it.
        with_page: an HTML page to look at the volumes.
        derivative: the BIDS derivative that the files are of, if any.
    """

    colours: ColourMap
    with_colour: bool = False
    with_dicom: bool = False
    series: Path | None = None
    keep_patient: bool = False
    with_page: bool = False
    derivative: Derivative | None = None

    def files(self, job: Job) -> dict[str, Path]:
        """{kind: file or folder} of a job, in the order of writing."""
        name = stem(job.output)
        record = job.output.with_name(f"{name}.json")
        found = {"volume": job.output, "picture": job.picture, "record": record}
        if self.with_colour:
            found["colour"] = job.output.with_name(f"{name}_colour.nii.gz")
        if self.with_dicom:
            found["dicom"] = job.output.with_name(f"{name}_dicom")
        if self.with_page:
            found["page"] = job.output.with_name(f"{name}.html")
        return found

    def are_there(self, job: Job) -> bool:
        """Whether a job's result is complete; those of earlier versions have no record."""
        files = self.files(job)
        return all(path.exists() for kind, path in files.items() if kind != "record")

    def are_begun(self, job: Job) -> bool:
        """Whether something of a job's result is there."""
        return any(path.exists() for path in self.files(job).values())

    def check(self, job: Job, overwrite: bool) -> None:
        """Refuse, before any work is done, what cannot or should not be written.

        Raises:
            InputError: naming the file.
        """
        job.check(overwrite)
        for kind, path in self.files(job).items():
            wrong_kind = path.exists() and path.is_dir() != (kind == "dicom")
            if wrong_kind or (path.exists() and not overwrite):
                remedy = "choose another output or pass --overwrite"
                raise InputError(path, "is already there", remedy)

    def check_same(self, job: Job, fusion: Fusion) -> None:
        """Refuse to complete a result whose volume, if it is there, is another than the new one.

        Raises:
            InputError: it is, or cannot be read.
        """
        if not job.output.exists():
            return
        there = read_volume(job.output).array
        if there.shape != fusion.fused.shape or abs(there - fusion.fused).max() > _SAME:
            problem = "files beside it are missing, and it was made in another way"
            raise InputError(job.output, problem, "choose another output or pass --overwrite")

    def write(
        self, job: Job, fusion: Fusion, mri: Volume, record: Mapping, page: Page | None = None
    ) -> list[Path]:
        """Write all of it or none; returns the files, the volume first.

        Args:
            record: what the volume was made from, see `inference.sidecar.record_of`.
            page: what to show on the page, where one is wanted.
        """
        files = self.files(job)
        record = self.derivative.record(job, record) if self.derivative else record
        with replacing_together(list(files.values())) as part:
            parts = {kind: part / path.name for kind, path in files.items()}
            write_like(parts["volume"], fusion.fused, mri)
            shown = fusion.mri, fusion.pet, fusion.fused, mri.voxel_mm
            figure = fusion_figure(*shown, title=job.subject, colours=self.colours)
            save_figure(parts["picture"], figure)
            write_json(parts["record"], record)
            if self.with_colour or self.with_dicom:
                rgb = self.colours.paint(fusion.fused, fusion.pet)
            if self.with_colour:
                write_colour_like(parts["colour"], rgb, mri)
            if self.with_dicom:
                title = f"fused MRI and PET, {self.colours.name}"
                write_series(parts["dicom"], rgb, mri, title, self.series, self.keep_patient)
            if page:
                write_page(parts["page"], page, self.colours)
        return list(files.values())


def choose_outputs(args: argparse.Namespace) -> Outputs:
    """What the flags ask for.

    Raises:
        InputError: flags that do not go together, a bad map, a package or series that is missing.
    """
    series = Path(args.dicom) if args.dicom else None
    if series and not args.mri:
        problem = "one DICOM series for many pairs"
        raise InputError("--dicom", problem, "give the flag alone, or fuse one pair by --mri")
    if args.keep_patient and not series:
        problem = "there is no DICOM series to take a patient from"
        raise InputError("--keep-patient", problem, "name the MRI's own by --dicom SERIES")
    with_dicom = args.dicom is not None
    if with_dicom:
        need("pydicom")
    if series:
        read_series(series)
    colours = colour_map(args.colour or "hot")
    derivative = None
    if args.layout == "bids":
        if not (args.data and args.output):
            problem = "bids is for a data set and a folder of its own"
            raise InputError("--layout", problem, "give --data and --output")
        derivative = Derivative(args.data, args.output)
    return Outputs(
        colours,
        args.colour is not None,
        with_dicom,
        series,
        args.keep_patient,
        args.page,
        derivative,
    )
