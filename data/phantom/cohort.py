"""A cohort of synthetic heads on disk, in the published layout."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from data.phantom.head import VERSION
from data.phantom.many import make_subjects
from data.subjects import PUBLISHED_MRI, PUBLISHED_PET, published_file
from utils.errors import InputError
from utils.files import replacing

_REMEDY = "give a folder that can be written to"


def subject_seed(seed: int, index: int) -> int:
    """Seed of subject `index` (from 0) of a cohort; it does not depend on the cohort's size."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def write_cohort(
    root: str | Path,
    subjects: int = 8,
    seed: int = 3407,
    voxel_mm: float = 2.0,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> list[str]:
    """Write a cohort of synthetic heads in the published layout; return the subjects' names.

    The files are `<root>/<subject>/<subject>_mri_MNI152.nii.gz` and `.._FDG_MNI152.nii.gz`:
    NIfTI-1, int16, RAS+, mm, sform and qform code 4 (MNI152). The same arguments give the same
    bytes. `cohort.json` is written last and marks a complete cohort, which is taken as it is next
    time.

    Args:
        root: folder of the cohort, made when missing.
        subjects: how many; a larger cohort begins with the subjects of a smaller one.
        seed: whole number of at least 0.
        voxel_mm: edge of the cubic voxels, 0.5 to 8 mm.
        progress: wraps the iteration over names, for instance `tqdm`.

    Raises:
        InputError: the voxel size is out of range, or the folder holds another cohort or cannot be
            written.
    """
    root = Path(root)
    if not 0.5 <= voxel_mm <= 8:
        problem = f"{voxel_mm:g} mm is not within 0.5 to 8 mm"
        raise InputError("voxel size", problem, "choose 1 or 2")
    names = [f"synthetic-{number:03d}" for number in range(1, subjects + 1)]
    about = {"generator_version": VERSION, "seed": seed, "voxel_mm": float(voxel_mm)}
    if _is_complete(root, names, about):
        return names
    found = {}
    made = make_subjects((subject_seed(seed, index) for index in range(subjects)), voxel_mm)
    for name, subject in zip(progress(names), made, strict=True):
        for ending, volume in ((PUBLISHED_MRI, subject.mri), (PUBLISHED_PET, subject.pet)):
            write_image(published_file(root, name, ending), volume, subject.affine)
        found[name] = {"hypometabolic": subject.hypometabolic}
    with replacing(root / "cohort.json", _REMEDY) as part:
        part.write_text(json.dumps(about | {"subjects": found}, indent=2) + "\n")
    return names


def _is_complete(root: Path, names: list[str], about: dict) -> bool:
    """Whether the cohort is there. Other synthetic subjects in its place are an error."""
    remedy = "delete the folder or give another one"
    there = {path.name for path in root.glob("synthetic-*")}
    if strangers := sorted(there - set(names)):
        problem = f"holds {strangers[0]}, which is not of the cohort asked for"
        raise InputError(root, problem, remedy)
    mark = root / "cohort.json"
    if not mark.exists():
        return False
    try:
        known = json.loads(mark.read_text())
        same = all(known[key] == value for key, value in about.items())
        written = list(known["subjects"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(mark, "is not the record of a synthetic cohort", remedy) from error
    if not same:
        asked = ", ".join(f"{key} {value}" for key, value in about.items())
        raise InputError(root, f"holds a cohort made with other settings than {asked}", remedy)
    if written != names:
        return False
    endings = PUBLISHED_MRI, PUBLISHED_PET
    return all(published_file(root, n, e).is_file() for n in names for e in endings)


def write_image(path: Path, array: np.ndarray, affine: np.ndarray, code: str = "mni") -> None:
    """Write gzipped NIfTI-1; equal arrays give equal bytes.

    Args:
        array: (X, Y, Z), written as int16.
        affine: (4, 4) voxel -> RAS+ mm, as sform and qform.
        code: of both forms, by nibabel's name.

    Raises:
        InputError: the file cannot be written.
    """
    image = nib.Nifti1Image(array.astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    # Without the time stamp and the file name that gzip puts into its header.
    packed = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    with replacing(path, _REMEDY) as part:
        part.write_bytes(packed)
