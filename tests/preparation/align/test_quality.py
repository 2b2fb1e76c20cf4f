"""Figures of an alignment and the flags that they raise, for one subject and for a cohort."""

import math

import numpy as np
import pytest
from scipy import ndimage

from data.grids import Image
from data.phantom.head import make_subject
from data.volume import read_volume
from preparation.align import quality
from preparation.align.pose import Pose, turn_about
from preparation.align.quality import judge, measure, nmi_limit, peak, rotation_deg
from preparation.align.registration import working_copy
from preparation.align.template import BrainFit
from tests.helpers.golden import SHARED

PAIRS = SHARED / "data" / "pairs"

GOOD = {
    "rotation_deg": 5.0,
    "shift_mm": 400.0,  # origins may lie anywhere
    "start": "com",
    "nmi_before": 1.05,
    "nmi_after": 1.19,
    "nmi_brain": 1.07,
    "nmi_mirrored": 1.06,
    "contrast": 3.7,
    "fov_cover": 1.0,
    "off_centre_mm": 6.0,
    "sharpness": 2.2,
    "template_fit": 0.7,
    "scale_x": 1.05,
    "scale_y": 0.95,
    "scale_z": 1.1,
    "mri_peak": 1.4,
    "pet_peak": 1.2,
}


def cohort(*values):
    return {f"s{number}": GOOD | {"nmi_brain": value} for number, value in enumerate(values)}


class TestOneSubject:
    def test_a_good_one(self):
        assert judge({"one": GOOD}) == {"one": []}

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"nmi_brain": 1.012, "nmi_mirrored": 1.01}, "NMI 1.012, expected at least"),
            ({"contrast": 1.2}, "turned the wrong way (1.2 times"),
            ({"rotation_deg": 178.0}, "turned by 178 degrees"),
            ({"nmi_mirrored": 1.071}, "check handedness"),
            ({"nmi_mirrored": 1.07}, "check handedness"),
            ({"fov_cover": 0.62}, "covers only 62% of the brain"),
            ({"off_centre_mm": 81.0}, "81 mm off the middle"),
            ({"sharpness": 0.4}, "the PET is sharper than the MRI (2.5 times): swapped?"),
            ({"nmi_brain": math.nan}, "NMI in the brain could not be measured"),
            ({"contrast": None}, "contrast could not be measured"),
            ({"template_fit": math.nan}, "fit to the template could not be measured"),
            ({"template_fit": 0.1}, "brain was not found"),
            ({"scale_y": 1.7}, "stretched along y by 1.70"),
            ({"scale_x": 0.6, "scale_z": 2.0}, "along x by 0.60, z by 2.00"),
            ({"pet_peak": 900.0}, "the PET's largest voxel is 900 times"),
            ({"mri_peak": 60.0}, "the MRI's largest voxel is 60 times"),
        ],
    )
    def test_one_flag_for_one_fault(self, change, words):
        flags = judge({"one": GOOD | change})["one"]
        assert len(flags) == 1 and words in flags[0]

    def test_missing_figures_are_not_judged(self):
        assert judge({"one": {}, "two": {"rotation_deg": 90.0}})["one"] == []
        assert judge({"one": GOOD | {"sharpness": None, "nmi_mirrored": math.nan}})["one"] == []


class TestCohort:
    def test_what_was_not_measured_takes_no_part(self):
        flags = judge(cohort(1.07, 1.07, 1.07, 1.07, 1.07, math.nan, 1.02))
        assert [len(lines) for lines in flags.values()] == [0, 0, 0, 0, 0, 1, 2]

    def test_an_outlier_among_many(self):
        flags = judge(cohort(1.070, 1.072, 1.071, 1.069, 1.073, 1.070, 1.045))
        doubted = [name for name, lines in flags.items() if "agree too little" in " ".join(lines)]
        assert doubted == ["s6"]

    def test_noisy_cohorts_have_their_own_limit(self):
        """Values that would be too low for a subject alone are what this scanner gives."""
        values = [1.020, 1.021, 1.019, 1.022, 1.020]
        assert not any(
            judge({n: f | {"nmi_mirrored": 1.01} for n, f in cohort(*values).items()}).values()
        )
        alone = judge({"one": GOOD | {"nmi_brain": values[0], "nmi_mirrored": 1.01}})["one"]
        assert bool(alone) == (values[0] < quality.LEAST_NMI)

    def test_equal_values_flag_nobody(self):
        """A median absolute deviation of 0 must not make every small difference an outlier."""
        flags = judge(cohort(1.07, 1.07, 1.07, 1.07, 1.07, 1.065))
        assert not any(flags.values())
        assert nmi_limit([1.07] * 6)[0] == pytest.approx(1.07 - 4 * 0.004)

    def test_half_a_cohort_of_failures_does_not_hide_them(self):
        """The deviation is then so large that 4 of them reach below 1; the share of the median
        holds.
        """
        limit, _ = nmi_limit([1.07] * 5 + [1.005] * 4 + [1.03])
        assert limit > 1.005

    def test_below_five_the_fixed_limit(self):
        assert nmi_limit([1.2, 1.2, 1.2, 1.2])[0] == quality.LEAST_NMI
        assert nmi_limit([])[0] == quality.LEAST_NMI


class TestFigures:
    def test_rotation(self):
        angle = np.deg2rad(30)
        turn = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        assert rotation_deg(turn_about(turn, np.ones(3), np.zeros(3))) == pytest.approx(30)
        assert rotation_deg(np.eye(4)) == 0
        assert rotation_deg(np.diag([-1.0, -1, 1, 1])) == pytest.approx(180)

    def test_peak(self):
        values = np.zeros((20, 20, 20), np.float32)
        values[5:15, 5:15, 5:15] = np.linspace(1, 2, 1000).reshape(10, 10, 10)
        assert peak(values) == pytest.approx(1, abs=0.01)
        values[7, 7, 7] = 1e6
        assert peak(values) > 500  # the percentile itself is drawn up a little

    def test_measure(self, monkeypatch):
        """On a head that lies right, and on one with half of its PET gone."""
        monkeypatch.setattr(quality, "register", lambda fixed, moving, start: start)
        made = make_subject(3, 4.0)
        mri = working_copy(Image(made.mri, made.affine), 4)
        pet = working_copy(Image(made.pet, made.affine), 4)
        brain = made.labels >= 11
        fit, still = BrainFit(np.eye(4), brain, 0.8, (1.0, 1.1, 0.9)), Pose(np.eye(4), "com", 3.0)
        figures = measure(mri, pet, fit, brain, still)
        assert figures["shift_mm"] == pytest.approx(0, abs=1e-9) and figures["rotation_deg"] == 0
        assert figures["nmi_before"] == figures["nmi_after"]
        assert figures["nmi_brain"] > figures["nmi_mirrored"] > 1
        assert figures["fov_cover"] == pytest.approx(1, abs=0.01)
        assert [figures[f"scale_{axis}"] for axis in "xyz"] == [1.0, 1.1, 0.9]
        assert not judge({"one": figures})["one"]

        levels = np.arange(made.pet.shape[2])
        middle = round(float(np.argwhere(brain)[:, 2].mean()))
        half = Image(np.where(levels > middle, pet.array, 0), made.affine)
        assert measure(mri, half, fit, brain, still)["fov_cover"] == pytest.approx(0.5, abs=0.12)


@pytest.fixture(scope="module")
def made():
    return make_subject(3, 2.0)


class TestSharpness:
    """Row 33: MRI and PET swapped."""

    @pytest.fixture
    def sharpness(self, monkeypatch):
        """Function (MRI, PET) that measures a pair which lies right, by working copies of 2 mm."""
        monkeypatch.setattr(quality, "register", lambda fixed, moving, start: start)

        def of(mri, pet):
            mri, pet = working_copy(mri, 2.0), working_copy(pet, 2.0)
            middle = mri.array > np.percentile(mri.array, 80)
            fit = BrainFit(np.eye(4), middle, 0.8, (1.0, 1.0, 1.0))
            return measure(mri, pet, fit, middle, Pose(np.eye(4), "com", 3.0))["sharpness"]

        return of

    def check(self, sharpness, mri, pet):
        right, swapped = sharpness(mri, pet), sharpness(pet, mri)
        assert right > 1.1 * quality.LEAST_SHARPNESS and swapped < quality.LEAST_SHARPNESS
        flags = judge(
            {"right": GOOD | {"sharpness": right}, "swapped": GOOD | {"sharpness": swapped}}
        )
        assert not flags["right"] and "swapped?" in flags["swapped"][0]

    def test_synthetic_heads(self, sharpness, made):
        for head in (made, make_subject(12, 2.0)):
            self.check(sharpness, Image(head.mri, head.affine), Image(head.pet, head.affine))

    def test_a_pet_as_sharp_as_can_be(self, sharpness, made):
        """One value for each tissue and no point spread: far from the limit all the same."""
        uptake = ndimage.median(made.pet, made.labels, np.arange(made.labels.max() + 1))
        uptake = np.where(np.isfinite(uptake), uptake, 0).astype(np.float32)
        pet = Image(uptake[made.labels], made.affine)
        assert sharpness(Image(made.mri, made.affine), pet) > 2 * quality.LEAST_SHARPNESS

    def test_an_mri_blurred_beyond_its_pet(self, sharpness, made):
        """By 14 mm at half maximum, where the PET has 5 to 7."""
        blurred = Image(ndimage.gaussian_filter(made.mri, 14 / 2.355 / 2), made.affine)
        figure = sharpness(blurred, Image(made.pet, made.affine))
        assert "swapped?" in judge({"one": GOOD | {"sharpness": figure}})["one"][0]

    @pytest.mark.parametrize("name", ["template", "coronal", "sagittal"])
    def test_real_pairs(self, sharpness, name):
        if not PAIRS.is_dir():
            pytest.skip("no ../shared/data/pairs beside the checkout")
        volumes = (
            read_volume(PAIRS / name / f"{name}_{kind}_MNI152.nii.gz") for kind in ("mri", "FDG")
        )
        self.check(sharpness, *(Image(volume.array, volume.affine) for volume in volumes))

    def test_a_noisy_pet_is_not_taken_for_an_mri(self, sharpness, made):
        """Noise of a tenth of the brain, as smooth as a scanner's, in the air too."""
        noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=made.pet.shape), 1.0)
        noisy = (
            made.pet + noise * 0.1 * np.percentile(made.pet[made.labels >= 11], 50) / noise.std()
        )
        pet = Image(np.maximum(noisy, 0).astype(np.float32), made.affine)
        assert sharpness(Image(made.mri, made.affine), pet) > 1.1 * quality.LEAST_SHARPNESS

    def test_without_skull_nothing_is_claimed(self, sharpness, made):
        """The edge of the brain is then the sharpest thing in both."""
        brain = made.labels >= 11
        mri, pet = (Image(np.where(brain, array, 0), made.affine) for array in (made.mri, made.pet))
        assert sharpness(mri, pet) > quality.LEAST_SHARPNESS

    def test_a_pet_that_is_elsewhere(self):
        for blank in (np.zeros((20, 20, 20)), np.ones((20, 20, 20))):
            assert math.isnan(quality._sharpness(blank, np.eye(4)))
