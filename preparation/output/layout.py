"""Where a prepared data set has its files: the published layout, or a BIDS derivative.

    pairs   <subject>/<subject>_mri_MNI152.nii.gz, <subject>_FDG_MNI152.nii.gz, <subject>.json
    bids    sub-<label>/[ses-<label>/]anat/..._T1w.nii.gz, pet/..._pet.nii.gz, each with its sidecar

Everything of a subject is in one folder, which is made elsewhere and renamed into its place.
Subjects whose alignment is implausible have theirs below `flagged/`, where nothing takes them for
subjects.
"""

import gzip
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from data.bids import BIDS_VERSION
from data.subjects import NOT_SUBJECTS, PUBLISHED_MRI, PUBLISHED_PET
from data.tracers import FDG_NAME, is_fdg
from preparation.align.template import PACKAGED
from preparation.scans import PLAIN_NAME, ScanPair
from utils.errors import InputError
from utils.files import replacing

FLAGGED, PICTURES, HIDDEN = "flagged", "qc", ".prepare"
XFORM_SCANNER, XFORM_ALIGNED, XFORM_MNI = 1, 2, 4  # NIfTI codes

_BIDS_NAME = re.compile(r"sub-([A-Za-z0-9]+)(?:_ses-([A-Za-z0-9]+))?")
_IGNORED_BY_BIDS = (
    HIDDEN, PICTURES, f"{PICTURES}/**", FLAGGED, f"{FLAGGED}/**",
    "pairs.tsv", "report.tsv", "report.html", "*_prepare.json", "*_xfm.nii.gz",
)  # fmt: skip
_README = """# Aligned MRI and FDG-PET

Made by prepare.py of DC2Fusion: for every subject a T1-weighted MRI and an FDG-PET on one grid, \
the PET aligned
rigidly to the MRI. `report.html` shows all of them; `flagged/` holds those whose alignment is \
implausible.
"""


@dataclass(frozen=True)
class Place:
    """One subject's files.

    Attributes:
        folder: relative to the data set, or to its `flagged/`; moved as one.
        mri, pet, record: relative to `folder`.
        field: where a learned field is kept, relative to `folder`.
        participant, session: BIDS labels, session "" without one; both "" in the published layout.
    """

    folder: Path
    mri: Path
    pet: Path
    record: Path
    field: Path
    participant: str = ""
    session: str = ""


def place_of(
    name: str, layout: str, space: str, template: Path | None, tracer: str = FDG_NAME
) -> Place:
    """Where the subject `name` lies in a data set.

    Args:
        layout: "pairs" or "bids".
        space, template: as in `preparation.align.pair.AlignOptions`; BIDS has them in the files'
            names.
        tracer: of the PET; BIDS has it in the file's name.
    """
    if layout == "pairs":
        mri, pet = Path(f"{name}{PUBLISHED_MRI}.nii.gz"), Path(f"{name}{PUBLISHED_PET}.nii.gz")
        field = Path(f"{name}_warp_MNI152.nii.gz")
        return Place(Path(name), mri, pet, Path(f"{name}.json"), field)
    participant, session = re.sub("[^A-Za-z0-9]", "", name), ""
    if known := _BIDS_NAME.fullmatch(name):
        participant, session = known.groups(default="")
    folder, stem = Path(f"sub-{participant}"), f"sub-{participant}"
    if session:
        folder, stem = folder / f"ses-{session}", f"{stem}_ses-{session}"
    in_template = f"space-{space_label(template)}_res-1_" if space == "mni" else ""
    mri = Path("anat") / f"{stem}_{in_template}desc-preproc_T1w.nii.gz"
    pet = (
        Path("pet")
        / f"{stem}_trc-{tracer_label(tracer)}_{in_template or 'space-T1w_'}desc-preproc_pet.nii.gz"
    )
    field = Path("anat") / f"{stem}_from-T1w_to-{space_label(template)}_mode-image_xfm.nii.gz"
    record = Path(f"{stem}_prepare.json")
    return Place(folder, mri, pet, record, field, participant, session)


def tracer_label(tracer: str) -> str:
    """The BIDS label of a tracer."""
    return "18FFDG" if is_fdg(tracer) else re.sub("[^A-Za-z0-9]", "", tracer)


def space_label(template: Path | None) -> str:
    """The BIDS name of a template's space: TemplateFlow's, else from the file's name."""
    if template is None:
        return PACKAGED
    if flow := re.match("tpl-([A-Za-z0-9]+)", template.name):
        return flow[1]
    return re.sub("[^A-Za-z0-9]", "", template.name.split(".")[0]) or "template"


def name_problems(
    pairs: Sequence[ScanPair], layout: str, there: Iterable[Path] = ()
) -> dict[str, str]:
    """The subjects that cannot have a place of their own: {name: one line}.

    Args:
        there: folders of subjects that the data set has already, relative to it.
    """
    problems: dict[str, str] = {}
    taken: dict[Path, str] = {}
    for pair in pairs:
        # `ScanPair.name` is unique, but BIDS labels have letters and digits only, and some disks
        # ignore case.
        key = Path(str(place_of(pair.name, layout, "mri", None).folder).lower())
        other = taken.setdefault(key, pair.name)
        if not PLAIN_NAME.fullmatch(pair.name) or pair.name.lower() in NOT_SUBJECTS:
            problem = f"not a subject name: {pair.name!r}"
            problems[pair.name] = f"{problem}; use letters, digits and . _ -"
        elif other != pair.name:
            problem = f"its results would lie where those of {other} do ({key})"
            problems[pair.name] = f"{problem}; rename one of them"
    # A folder is moved as one, with all that is in it.
    taken = {Path(str(folder).lower()): folder.as_posix() for folder in there} | taken
    names = {pair.name for pair in pairs}
    for key, inner in taken.items():
        for outer in [taken[parent] for parent in key.parents if parent in taken]:
            problem = f"the results of {inner} would lie inside those of {outer} ({key})"
            at_fault = inner if inner in names else outer
            problems.setdefault(at_fault, f"{problem}; rename one of them")
    return problems


# Writing -----------------------------------------------------------------------------------------


def nifti_bytes(array: np.ndarray, affine: np.ndarray, code: int) -> bytes:
    """A gzipped NIfTI-1 without time stamp or file name, so that equal voxels give equal bytes.

    Args:
        array: (X, Y, Z), written as float32.
        affine: (4, 4) voxel -> RAS+ mm, as sform and qform.
        code: of both forms.
    """
    image = nib.Nifti1Image(np.asarray(array, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def write_durably(folder: Path, contents: Mapping[Path, bytes]) -> None:
    """Write files into a folder in the order given, each on the disk before the next is begun.

    Raises:
        InputError: less space than the files need, or the system refuses.
    """
    needed = sum(map(len, contents.values()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed:
            problem = f"no space left, {free / 1e6:.0f} of {needed / 1e6:.0f} MB"
            raise InputError(folder, problem, "free some and run the command again", kind="output")
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(
            folder, problem, "check the disk and run the command again", kind="output"
        ) from error


def bids_sidecars(
    place: Place,
    space: str,
    template: Path | None,
    mask: str,
    sources: Mapping[str, Path],
    tracer: str = FDG_NAME,
) -> dict[Path, dict]:
    """The JSON beside each image: {file relative to the subject's folder: content}.

    Args:
        space, template, mask: as in `preparation.align.pair.AlignOptions`.
        sources: {"mri": file or folder, "pet": file or folder}.
        tracer: of the PET.
    """
    masked = {"none": "", "head": ", cut to the head", "brain": ", cut to the brain"}[mask]
    where = "in its own space" if space == "mri" else "in the space of a template (affine)"
    common: dict = {"SkullStripped": mask == "brain"}
    if space == "mni":
        common["Resolution"] = {"1": "1 mm isotropic"}
        if template is not None:
            common["SpatialReference"] = template.absolute().as_uri()
    mri = common | {
        "Description": f"T1-weighted MRI {where}, RAS+, 0 outside its field of view{masked}",
        "Sources": [sources["mri"].absolute().as_uri()],
    }
    pet = common | {
        "Description": f"{tracer}-PET on the grid of the MRI, aligned rigidly to it{masked}",
        "Sources": [sources["pet"].absolute().as_uri()],
        "TracerName": tracer,
    }
    if space == "mri":
        pet["SpatialReference"] = f"bids::{place.folder / place.mri}"
    return {_sidecar(place.mri): mri, _sidecar(place.pet): pet}


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def write_bids_dataset(
    root: Path,
    version: str,
    participants: Mapping[str, str],
    source: Path,
    tracer: str = FDG_NAME,
) -> None:
    """The files that make a folder of subjects a BIDS derivative data set.

    Args:
        version: of the project.
        participants: {BIDS label: the subject's name in the source}.
        source: folder or file that the data were made from.

    Raises:
        InputError: a file cannot be written.
    """
    description = {
        "Name": f"Aligned MRI and {tracer}-PET",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "DC2Fusion prepare.py", "Version": version}],
        "SourceDatasets": [{"URL": source.absolute().as_uri()}],
    }
    columns = {"source_id": {"Description": "Name of the subject in the source data set"}}
    rows = [f"sub-{label}\t{source}" for label, source in sorted(participants.items())]
    texts = {
        "dataset_description.json": json_text(description),
        "participants.json": json_text(columns),
        "participants.tsv": "\n".join(["participant_id\tsource_id", *rows]) + "\n",
        "README.md": _README.replace("FDG", tracer),
        ".bidsignore": "\n".join(_IGNORED_BY_BIDS) + "\n",
    }
    for name, text in texts.items():
        with replacing(root / name, "choose another --out") as part:
            part.write_text(text, encoding="utf-8")


def json_text(content: Mapping) -> str:
    """JSON to be read by people; names of files that are not valid text are made so."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8") + "\n"


# Moving ------------------------------------------------------------------------------------------


def move_into(made: Path, target: Path, trash: Path) -> None:
    """Rename the folder `made` to `target`; what lies there now goes to `trash` and is deleted.

    Each step is one renaming, so that a kill at any moment leaves whole folders.

    Raises:
        InputError: the system refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        discard(target, trash)
        os.rename(made, target)
    except OSError as error:
        problem = f"cannot be moved to {target} ({error.strerror or error})"
        raise InputError(made, problem, "check the disk and run the command again") from error


def discard(folder: Path, trash: Path) -> None:
    """Delete a folder so that nobody ever sees a part of it: first out of sight, then away."""
    if not folder.exists():
        return
    trash.mkdir(parents=True, exist_ok=True)
    aside = trash / folder.name
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)
