"""One subject: converted, aligned, written, pictured and committed, in a process of its own."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.displacement import displacement_bytes
from data.grids import sample, sides
from data.tracers import FDG_NAME
from preparation.align.pair import Aligned, AlignOptions, align_frames, align_pair
from preparation.align.template import load_template
from preparation.align.warp import Network, warp_flags
from preparation.output.folder import PreparedFolder
from preparation.output.layout import (
    XFORM_ALIGNED,
    XFORM_MNI,
    XFORM_SCANNER,
    Place,
    bids_sidecars,
    json_text,
    nifti_bytes,
    write_durably,
)
from preparation.output.qc import save_qc_picture, save_warp_picture
from preparation.read.scan import Allowed, Loaded, load_scan
from preparation.scans import Scan, ScanPair
from utils.errors import InputError, hearing

# Of the way from scans to files: raise it when the same inputs and options give other files.
VERSION = 3


@dataclass(frozen=True)
class PrepareOptions:
    """What decides how the files of a subject come out.

    Attributes:
        space, template, mask: as in `preparation.align.pair.AlignOptions`.
        layout: "pairs" or "bids".
        allowed: what is not to be an error in a scan.
        tracer: of the PETs, which BIDS has in names and sidecars.
        warp: the network of a learned step, None for none.
    """

    space: str = "mri"
    template: Path | None = None
    mask: str = "none"
    layout: str = "pairs"
    allowed: Allowed = Allowed()
    tracer: str = FDG_NAME
    warp: Network | None = None


@dataclass(frozen=True)
class Job:
    """What the process of a subject is given.

    Attributes:
        pair, place: what it is made of and where it goes.
        options: how.
        root: the data set.
        fingerprint, versions: for the record.
    """

    pair: ScanPair
    place: Place
    options: PrepareOptions
    root: Path
    fingerprint: str
    versions: dict[str, str]


def prepare_subject(job: Job) -> dict:
    """Convert, align, write, picture, and commit one subject; returns its record.

    Raises:
        InputError: of kind "final" when a scan cannot be used; of other kinds for everything else
            that can go wrong: the disk, the registration, a package.
    """
    name = job.pair.name
    folder = PreparedFolder(job.root)
    started = time.monotonic()
    with folder.working_on(name) as working:
        with hearing() as heard:
            mri, pet, aligned = _aligned(job.pair, job.options)
        images = _encoded(aligned, job.options)
        write_durably(working, _files(job, images))
        record = _record(job, mri, pet, aligned, images)
        record["warnings"] = list(
            dict.fromkeys([*mri.notes, *pet.notes, *aligned.warnings, *heard])
        )
        record["seconds"] = round(time.monotonic() - started, 1)
        voxel_mm = sides(aligned.affine)
        lines = picture_title(record), picture_caption(record)
        save_qc_picture(folder.picture(name), aligned.mri, aligned.pet, voxel_mm, *lines)
        if aligned.field is not None:
            _save_warp_picture(folder.warp_picture(name), record, aligned, job.options.template)
        # Last, because it is the mark of a complete subject.
        write_durably(working, {job.place.record: json_text(record).encode()})
        folder.commit(name)
    return record


def _save_warp_picture(path: Path, record: dict, aligned: Aligned, template: Path | None) -> None:
    """The MRI over the template before and after the field that was used."""
    head = load_template(template).head
    there = sample(head, aligned.mri.shape, aligned.affine)
    caption = warp_caption(record)
    volumes = aligned.affine_mri, aligned.mri, there
    save_warp_picture(path, *volumes, sides(aligned.affine), picture_title(record), caption)


def _aligned(pair: ScanPair, options: PrepareOptions) -> tuple[Loaded, Loaded, Aligned]:
    """MRI and PET as they were read, and both on one grid."""
    with _refusing():
        mri = load_scan(pair.mri, allowed=options.allowed)
        pet = load_scan(pair.pet, align_frames, options.allowed)
    how = AlignOptions(options.space, options.template, options.mask, options.warp)
    with _refusing(mri.volume.path, pet.volume.path):
        return mri, pet, align_pair(mri.volume, pet.volume, how)


@contextlib.contextmanager
def _refusing(*sources: os.PathLike) -> Iterator[None]:
    """Tell errors of the scans from those of the machine, which may be gone the next time.

    Args:
        sources: only errors about these are the scans'; none: all are.

    Raises:
        InputError: of kind "final" when it is about a scan.
    """
    try:
        yield
    except InputError as error:
        if sources and error.source not in map(str, sources) or _is_of_the_machine(error):
            raise
        raise InputError(error.source, error.problem, error.remedy, kind="final") from error


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Whether an error comes from the system, or from a package that cannot be imported."""
    while error is not None:
        # What nibabel and gzip say about damaged files are OSErrors, too, but without a number.
        if isinstance(error, ImportError | MemoryError) or (
            isinstance(error, OSError) and error.errno is not None
        ):
            return True
        if isinstance(error, InputError) and error.kind == "package":
            return True
        error = error.__cause__ or error.__context__
    return False


def _encoded(aligned: Aligned, options: PrepareOptions) -> dict[str, bytes]:
    """Both images, and the learned field where there is one, as the bytes of their files."""
    native = options.space == "mri"
    return {
        "mri": nifti_bytes(aligned.mri, aligned.affine, XFORM_SCANNER if native else XFORM_MNI),
        "pet": nifti_bytes(aligned.pet, aligned.affine, XFORM_ALIGNED if native else XFORM_MNI),
    } | ({} if aligned.field is None else {"field": displacement_bytes(aligned.field)})


def _files(job: Job, images: dict[str, bytes]) -> dict[Path, bytes]:
    """What is written for a subject, without its record."""
    place, options = job.place, job.options
    files = {getattr(place, name): content for name, content in images.items()}
    if options.layout == "bids":
        sources = {"mri": job.pair.mri.where, "pet": job.pair.pet.where}
        sidecars = bids_sidecars(
            place, options.space, options.template, options.mask, sources, options.tracer
        )
        for name, content in sidecars.items():
            files[name] = json_text(content).encode()
    return files


def _record(job: Job, mri: Loaded, pet: Loaded, aligned: Aligned, images: dict[str, bytes]) -> dict:
    """What was made of what, and how."""
    outputs = {}
    shapes = {"mri": aligned.mri.shape, "pet": aligned.mri.shape}
    if aligned.field is not None:
        shapes["field"] = (*aligned.field.vectors.shape[:3], 1, 3)
    for key, shape in shapes.items():
        file = getattr(job.place, key)
        outputs[key] = {"file": file.as_posix(), "bytes": len(images[key]), "shape": list(shape)}
    return _plain(
        {
            "subject": job.pair.name,
            "fingerprint": job.fingerprint,
            "versions": {"preparation": VERSION} | job.versions,
            "options": asdict(job.options),
            "inputs": {"mri": _input(job.pair.mri, mri), "pet": _input(job.pair.pet, pet)},
            "days_between": job.pair.days,
            "pair_warnings": job.pair.warnings,
            "outputs": outputs,
            "space": aligned.space,
            "template": aligned.template,
            "affine": aligned.affine,
            "transforms": aligned.transforms,
            "warp": job.options.warp and job.options.warp.digest,
            "figures": aligned.figures,
        }
    )


def _input(scan: Scan, loaded: Loaded) -> dict:
    """A scan as it was read."""
    files = []
    for file in scan.files:
        files.append(os.path.relpath(file, scan.where) if file != scan.where else file.name)
    return {
        "path": scan.where,
        "subject": scan.subject,
        "image_id": scan.image_id,
        "description": scan.description,
        "date": scan.date and scan.date.isoformat(),
        "files": files,
        "shape": loaded.volume.array.shape,
        "voxel_mm": [round(side, 4) for side in loaded.volume.voxel_mm],
        "frames": loaded.frames,
        "units": loaded.units,
    }


def _plain(value: Any) -> Any:
    """As JSON knows it: lists, numbers, None for what is not finite, text."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, int | str | None) else os.fspath(value)


def picture_title(record: dict) -> str:
    """The line above a subject's picture."""
    inputs = record["inputs"]
    ids = " and ".join(filter(None, (inputs["mri"]["image_id"], inputs["pet"]["image_id"])))
    return "   ".join(filter(None, (record["subject"], ids, f"space: {record['space']}")))


def warp_caption(record: dict) -> str:
    """The line below the picture of a learned field: what it is judged by."""
    figures = record["figures"]
    used = "not used" if warp_flags(figures) else "used"
    return (
        f"field {used} · correlation in the brain {figures['warp_before']:.3f} -> "
        f"{figures['warp_after']:.3f} · mean {figures['warp_mean_mm']:.1f} mm, at most "
        f"{figures['warp_max_mm']:.1f} mm · folded {figures['warp_folded']:.2%}"
    )


def picture_caption(record: dict) -> str:
    """The line below a subject's picture: the figures it is judged by."""
    figures = record["figures"]
    parts = (
        ("NMI in the brain", "nmi_brain", ".4f", ""),
        ("mirrored", "nmi_mirrored", ".4f", ""),
        ("rotation", "rotation_deg", ".1f", " degrees"),
        ("shift", "shift_mm", ".1f", " mm"),
        ("start", "start", "", ""),
        ("brain within the PET", "fov_cover", ".1%", ""),
    )
    said = []
    for label, key, style, unit in parts:
        if figures.get(key) is not None:
            said.append(f"{label} {figures[key]:{style}}{unit}")
    return " · ".join(said)
