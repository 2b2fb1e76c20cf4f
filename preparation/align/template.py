"""The template: which one, its brain, and the affine transform that brings an MRI onto it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.grids import Image, centre_of_mass, coarser, sample, sides
from data.volume import read_volume
from preparation.align.pose import grown, turn_about
from preparation.align.registration import register, working_copy
from utils.errors import InputError
from utils.optional import need

PACKAGED = "MNI152NLin2009aSym"  # nilearn's, a brain without skull
# Output grid of `--space mni`: the published loader pads to 224 voxels and never crops.
MNI_SHAPE = (182, 218, 182)
MNI_AFFINE = np.array([[1.0, 0, 0, -91], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
# A head has bright tissue where a brain without skull has nothing: only the brain and this rim
# count, or the brain is stretched to fill the head.
_RIM_MM = 6.0
_HEAD_MM = 150.0  # from the crown to below the brain
_HEAD_ABOVE = 0.15  # of the maximum after clipping: head, not air
_BRAIN_ABOVE = 0.2  # of the packaged template's maximum, as nilearn's own mask
_IS_MNI = 0.5  # least correlation of a given template with the packaged one inside the brain
# Correlation of an MRI with the template inside the brain. Measured: 0.39 and more when right, 0.26
# and less when the brain was missed; above `_GOOD_FIT` no second attempt is needed.
BRAIN_FOUND, _GOOD_FIT = 0.3, 0.6


@dataclass(frozen=True)
class Template:
    """A T1 image in MNI152 space, and its brain.

    Attributes:
        name: BIDS name of the packaged one, else the file's name.
        head: the T1 image.
        brain: bool image, its brain.
    """

    name: str
    head: Image
    brain: Image


@dataclass(frozen=True)
class BrainFit:
    """An MRI's place on the template.

    Attributes:
        matrix: (4, 4) MRI world -> template world, affine, mm.
        brain: bool array on the MRI's (working) grid.
        correlation: of MRI and template inside the brain.
        scale: (3,) lengths of the matrix's columns: template mm for a mm along the MRI's x, y and
            z.
    """

    matrix: np.ndarray
    brain: np.ndarray
    correlation: float
    scale: tuple[float, float, float]


def load_template(path: Path | None = None) -> Template:
    """The template of a file, or nilearn's packaged one.

    The brain is the packaged one's in both cases.

    Args:
        path: a T1 template in MNI152 space, with or without skull.

    Raises:
        InputError: nilearn is missing, the file cannot be read or is not in MNI152 space.
    """
    packaged = need("nilearn.datasets").load_mni152_template(resolution=1)
    values = np.asarray(packaged.dataobj, dtype=np.float32)
    head = Image(values, packaged.affine)
    brain = Image(values > _BRAIN_ABOVE * values.max(), packaged.affine)
    if path is None:
        return Template(PACKAGED, head, brain)
    volume = read_volume(path)
    given = Image(volume.array, volume.affine)
    there = sample(given, values.shape, packaged.affine)[brain.array]
    if there.std() == 0 or np.corrcoef(there, values[brain.array])[0, 1] < _IS_MNI:
        problem = "is no T1 template in MNI152 space (another brain where the MNI152 brain is)"
        raise InputError(path, problem, "give one in MNI152 space or leave --template out")
    return Template(Path(path).name.split(".nii")[0], given, brain)


def find_brain(mri: Image, template: Template, voxel_mm: float) -> BrainFit:
    """Bring an MRI onto the template by an affine transform, and the template's brain back to it.

    Where the first registration is not convincing another kind is tried, and for a head with much
    neck, whose centre of mass is far below the brain, also from the centre of its upper part. The
    best one is kept.

    Args:
        mri: a working copy (`preparation.align.registration.working_copy`).
        voxel_mm: of the template's working copy.

    Raises:
        InputError: ANTs gives up or is not installed.
    """
    fixed = working_copy(template.head, voxel_mm)
    brain = sample(template.brain, fixed.array.shape, fixed.affine) > 0.5
    mask = grown(brain, fixed.affine, _RIM_MM)
    attempts = [("antsRegistrationSyNQuick[a]", None), ("Affine", None)]
    upper = _without_neck(mri)
    if upper is not None:
        middle = centre_of_mass(Image(brain, fixed.affine))
        start = turn_about(np.eye(3), centre_of_mass(upper), middle)
        attempts.append(("antsRegistrationSyNQuick[a]", start))
    best, best_fit = None, -1.0
    for kind, start in attempts:
        matrix = register(fixed, mri, kind, start, mask)
        fit = _correlation(fixed, brain, mri, matrix)
        if best is None or fit > best_fit:
            best, best_fit = matrix, fit
        if best_fit > _GOOD_FIT:
            break
    onto_mri = sample(template.brain, mri.array.shape, mri.affine, np.linalg.inv(best)) > 0.5
    return BrainFit(best, onto_mri, best_fit, tuple(sides(best).tolist()))


def _without_neck(mri: Image) -> Image | None:
    """The upper part of the head, 0 below; None where the image does not reach further down."""
    filled = (mri.array > _HEAD_ABOVE * mri.array.max()).mean(axis=(0, 1)) > 0.01
    steps = int(_HEAD_MM / sides(mri.affine)[2])
    bottom = int(np.flatnonzero(filled)[-1]) - steps if filled.any() else 0
    if bottom <= 0:
        return None
    upper = mri.array.copy()
    upper[:, :, :bottom] = 0
    return Image(upper, mri.affine)


def _correlation(fixed: Image, brain: np.ndarray, mri: Image, matrix: np.ndarray) -> float:
    """Pearson's r of the template and the MRI moved by the matrix, inside the template's brain."""
    smooth = coarser(mri, sides(fixed.affine).min())
    moved = sample(smooth, fixed.array.shape, fixed.affine, matrix)[brain]
    if moved.std() == 0:
        return 0.0
    return float(np.corrcoef(fixed.array[brain], moved)[0, 1])
