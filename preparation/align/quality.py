"""Whether an alignment can be believed: figures of one pair, flags for a cohort.

The NMI inside the brain tells right from wrong in a cohort of like images, but its level depends on
scanner and noise. So an answer must also explain clearly more than the same PET turned the wrong
way, which can be said of one pair alone. What no intensity can tell, rotation, mirrored copy, cover
and scale have to.
"""

import math
from collections.abc import Mapping

import numpy as np

from data.grids import Image, carry, centre_of_mass, coarser, sample, sides
from data.quality import nmi
from preparation.align.pose import CLEAR, SEARCH_MM, Pose, turn_about
from preparation.align.registration import register
from preparation.align.template import BRAIN_FOUND, BrainFit
from preparation.align.warp import warp_flags

# For a cohort: so many median absolute deviations, of at least so much, below the median.
LEAST_COHORT = 5
_DEVIATIONS, _LEAST_DEVIATION = 4, 0.004
_LEAST_SHARE = 1 / 3  # of the median's excess over 1, however wide the cohort scatters
# Without a cohort. Measured when right: 1.071 (SPM templates), 1.047 (synthetic heads), 1.027 (a
# real head, 8 bit); when wrong 1.00 to 1.02, up to 1.033 with half of the brain missing, which
# contrast and cover tell.
LEAST_NMI = 1.02
# Between two scans of one person; more than this is a header that is wrong.
MOST_ROTATION_DEG = 45.0
# Of the PET's centre of mass from the middle of the brain, after alignment.
MOST_OFF_CENTRE_MM = 50.0
LEAST_COVER = 0.9
SCALES = 0.75, 1.35  # of MRI to template along an axis
MOST_PEAK = 50.0  # largest voxel over the 99.9 percentile
# Measured when right: 2.4 to 2.9 (heads), 1.3 (group averages), 1.1 with the skull away or with
# noise of a fifth of the brain everywhere, 0.88 for a simulated pair; when swapped 0.36 to 0.41
# (heads), 0.77 (group averages), 0.84 with the skull away.
LEAST_SHARPNESS = 0.8
_DARK = 0.2  # of the 99 percentile: noise of the air, which sharpness is not about
_MUST_BE_KNOWN = {
    "nmi_brain": "NMI in the brain",
    "contrast": "contrast",
    "template_fit": "fit to the template",
}
_SIGNAL_ABOVE = 0.02  # of the 95 percentile inside the brain: inside the PET's field of view
# That far a voxel's neighbours count, so that ventricles do not look like the outside.
_SIGNAL_MM = 4.0


def measure(
    mri: Image, pet: Image, fit: BrainFit, region: np.ndarray, pose: Pose
) -> dict[str, float | str]:
    """Figures of one alignment, by the names of the report's columns.

    Args:
        mri, pet: working copies.
        fit: the MRI's place on the template.
        region: where the brain is, bool on the MRI's grid; the head where the brain was not found.
        pose: the PET's place on the MRI.

    Returns:
        rotation_deg, shift_mm: how far the PET was turned, and moved at the middle of the brain,
            against the headers;
        start: where the registration started, see `Pose`;
        nmi_before, nmi_after: over the MRI's whole grid, by the headers and aligned;
        nmi_brain: inside the region, aligned; nmi_mirrored: the same with the PET mirrored left to
            right;
        contrast: see `Pose`;
        fov_cover: share of the region that the PET has values for;
        off_centre_mm: from the aligned PET's centre of mass to the middle of the region;
        sharpness: mean gradient over standard deviation of the MRI, over that of the aligned PET,
            which is the smoother of the two; NaN where the PET does not reach the MRI;
        scale_x, scale_y, scale_z, template_fit: see `BrainFit`.
    """
    shape, affine = mri.array.shape, mri.affine
    before = sample(pet, shape, affine)
    after = sample(pet, shape, affine, pose.matrix)
    middle = centre_of_mass(Image(region, affine))
    source = carry(np.linalg.inv(pose.matrix), middle[None])[0]
    pet_centre = carry(pose.matrix, centre_of_mass(pet)[None])[0]
    scale_x, scale_y, scale_z = fit.scale
    return {
        "rotation_deg": rotation_deg(pose.matrix),
        "shift_mm": float(np.linalg.norm(middle - source)),
        "start": pose.start,
        "nmi_before": nmi(mri.array, before),
        "nmi_after": nmi(mri.array, after),
        "nmi_brain": nmi(mri.array, after, region),
        "nmi_mirrored": _mirrored(mri, pet, fit, region, pose),
        "contrast": pose.contrast,
        "fov_cover": _cover(after, affine, region),
        "sharpness": _sharpness(mri.array, affine) / _sharpness(after, affine),
        "off_centre_mm": float(np.linalg.norm(pet_centre - middle)),
        "template_fit": fit.correlation,
        "scale_x": scale_x,
        "scale_y": scale_y,
        "scale_z": scale_z,
    }


def rotation_deg(matrix: np.ndarray) -> float:
    """Angle of the rotation in a rigid (4, 4) matrix."""
    cosine = (np.trace(matrix[:3, :3]) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


def peak(array: np.ndarray) -> float:
    """The largest voxel over the 99.9 percentile of the voxels above 0."""
    return float(array.max() / np.percentile(array[array > 0], 99.9))


def _sharpness(array: np.ndarray, affine: np.ndarray) -> float:
    """Mean length of the gradient in 1/mm, over the standard deviation; the dark counts as 0.

    NaN for a blank image.
    """
    if array.max() <= 0:
        return math.nan
    bright = np.where(array > _DARK * np.percentile(array[array > 0], 99), array, 0)
    spread = bright.std()
    if spread == 0:
        return math.nan
    x, y, z = np.gradient(bright, *sides(affine))
    return float(np.sqrt(x**2 + y**2 + z**2).mean() / spread)


def _mirrored(mri: Image, pet: Image, fit: BrainFit, region: np.ndarray, pose: Pose) -> float:
    """NMI inside the region with the PET mirrored at the template's middle and aligned again.

    The second alignment is at 4 mm.
    """
    mirror = _mirror(fit, centre_of_mass(Image(region, mri.affine)))
    # ANTs takes no mirrored axes, so the PET's voxels are flipped and the matrix makes up for where
    # that puts them.
    flipped = Image(np.flip(pet.array, 0), pet.affine)
    back = np.diag([-1.0, 1.0, 1.0, 1.0])
    back[0, 3] = pet.array.shape[0] - 1
    start = mirror @ pose.matrix @ pet.affine @ back @ np.linalg.inv(pet.affine)
    again = register(coarser(mri, SEARCH_MM), coarser(flipped, SEARCH_MM), start=start)
    return nmi(mri.array, sample(flipped, mri.array.shape, mri.affine, again), region)


def _mirror(fit: BrainFit, middle: np.ndarray) -> np.ndarray:
    """(4, 4) that mirrors left to right in the MRI's world, by the template where that is known."""
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    if fit.correlation < BRAIN_FOUND:
        mirror[0, 3] = 2 * middle[0]
        return mirror
    mirror = np.linalg.inv(fit.matrix) @ mirror @ fit.matrix
    # Scales that differ between axes would shear the PET: the nearest mirror without that.
    left, _, right = np.linalg.svd(mirror[:3, :3])
    return turn_about(left @ right, middle, carry(mirror, middle[None])[0])


def _cover(pet: np.ndarray, affine: np.ndarray, region: np.ndarray) -> float:
    """Share of the region where the aligned PET has values: above 2 % of what the brain has."""
    around = coarser(Image(pet, affine), 2 * _SIGNAL_MM)
    smooth = sample(around, pet.shape, affine)[region]
    if smooth.max() <= 0:
        return 0.0
    return float((smooth > _SIGNAL_ABOVE * np.percentile(smooth, 95)).mean())


def judge(figures_of_all: Mapping[str, Mapping[str, float | str | None]]) -> dict[str, list[str]]:
    """What speaks against each alignment, in words for the person who looks at it.

    From 5 subjects on nmi_brain is held against the cohort: flagged below the median less 4 median
    absolute deviations (of at least 0.004), and below a third of the median's excess over 1; with
    fewer subjects below 1.02. All else holds for one subject alone.

    Args:
        figures_of_all: subject -> figures of `measure` (with `mri_peak` and `pet_peak` where
            known). Figures that are missing are not judged. None and NaN: could not be measured,
            which is flagged for `nmi_brain`, `contrast` and `template_fit`.

    Returns:
        subject -> flags; an empty list: nothing speaks against it.
    """
    known = {subject: _known(figures) for subject, figures in figures_of_all.items()}
    in_brain = [figures["nmi_brain"] for figures in known.values() if "nmi_brain" in figures]
    limit, why = nmi_limit(in_brain)
    flags = {}
    for subject, figures in known.items():
        flags[subject] = []
        if figures.get("nmi_brain", math.inf) < limit:
            agreement = f"NMI {figures['nmi_brain']:.3f}, {why}"
            flags[subject].append(f"MRI and PET agree too little in the brain ({agreement})")
        for key, words in _MUST_BE_KNOWN.items():
            if key in figures_of_all[subject] and key not in figures:
                flags[subject].append(f"{words} could not be measured")
        flags[subject] += _flags(figures)
    return flags


def _known(figures: Mapping[str, float | str | None]) -> dict[str, float | str]:
    """The figures that could be measured."""
    known = {}
    for name, value in figures.items():
        if isinstance(value, str) or (value is not None and not math.isnan(value)):
            known[name] = value
    return known


def nmi_limit(values: list[float]) -> tuple[float, str]:
    """The least nmi_brain that is believed among these, and what it was taken from."""
    if len(values) < LEAST_COHORT:
        return LEAST_NMI, f"expected at least {LEAST_NMI:.3f}"
    median = float(np.median(values))
    deviation = max(float(np.median(np.abs(np.array(values) - median))), _LEAST_DEVIATION)
    limit = max(median - _DEVIATIONS * deviation, 1 + _LEAST_SHARE * (median - 1))
    return limit, f"this cohort's median is {median:.3f}, its limit {limit:.3f}"


def _flags(figures: Mapping[str, float | str]) -> list[str]:
    """The flags that need no cohort."""

    def above(name: str, limit: float) -> bool:
        return float(figures.get(name, -math.inf)) > limit

    def below(name: str, limit: float) -> bool:
        return float(figures.get(name, math.inf)) < limit

    flags = warp_flags(figures)
    if below("contrast", CLEAR):
        times = f"{figures['contrast']:.1f} times, expected {CLEAR:g}"
        flags.append(f"the PET fits hardly better than turned the wrong way ({times})")
    if above("rotation_deg", MOST_ROTATION_DEG):
        turned = f"the PET was turned by {figures['rotation_deg']:.0f} degrees"
        flags.append(f"{turned}: its header is wrong or it is mirrored; check left and right")
    if figures.get("nmi_mirrored", -math.inf) >= figures.get("nmi_brain", math.inf):
        as_well = f"NMI {figures['nmi_mirrored']:.3f}"
        flags.append(f"the PET fits as well mirrored left to right ({as_well}): check handedness")
    if below("sharpness", LEAST_SHARPNESS):
        times = f"{1 / float(figures['sharpness']):.1f} times"
        flags.append(f"the PET is sharper than the MRI ({times}): swapped?")
    if below("fov_cover", LEAST_COVER):
        flags.append(f"the PET covers only {figures['fov_cover']:.0%} of the brain")
    if above("off_centre_mm", MOST_OFF_CENTRE_MM):
        distance = f"{figures['off_centre_mm']:.0f} mm"
        flags.append(f"the PET's centre lies {distance} off the middle of the brain")
    if below("template_fit", BRAIN_FOUND):
        fit = f"correlation {figures['template_fit']:.2f} with the template"
        consequence = "NMI and cover are of the whole head"
        flags.append(f"the brain was not found in the MRI ({fit}); {consequence}")
    stretched = []
    for axis in "xyz":
        if above(f"scale_{axis}", SCALES[1]) or below(f"scale_{axis}", SCALES[0]):
            stretched.append(f"{axis} by {figures[f'scale_{axis}']:.2f}")
    if stretched:
        sizes = ", ".join(stretched)
        doubt = "is its voxel size right?"
        flags.append(f"the MRI was stretched along {sizes} to fit the template: {doubt}")
    for kind in ("mri", "pet"):
        if above(f"{kind}_peak", MOST_PEAK):
            times = f"{figures[f'{kind}_peak']:.0f} times its 99.9 percentile"
            consequence = "scaled to [0, 1] everything else is dark"
            flags.append(f"the {kind.upper()}'s largest voxel is {times}: {consequence}")
    return flags
