"""Aligning PET to MRI: known misalignments undone, transforms that say what was done, refusals."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.metrics import normalized_mutual_information

from data.grids import Image, carry, centre_of_mass, coarser, sample
from data.phantom.head import make_subject
from data.quality import nmi
from data.volume import Volume, read_volume, resample_to
from preparation.align import pair, pose, registration, template
from preparation.align.pair import AlignOptions, align_frames, align_pair
from preparation.align.pose import cube_rotations, spread_rotations, turn_about
from preparation.align.quality import judge
from preparation.align.registration import register, to_ants, working_copy
from preparation.align.template import MNI_AFFINE, MNI_SHAPE, load_template
from tests.helpers.golden import ROOT
from utils.errors import InputError

SPM = ROOT.parent / "shared" / "data" / "pairs" / "template" / "template_mri_MNI152.nii.gz"
MISSING = [name for name in ("ants", "nilearn") if importlib.util.find_spec(name) is None]
needs_ants = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed (requirements-prep.txt)"
)

COARSE = AlignOptions(
    working_mm=4.0
)  # as the heads here, so that a registration takes less than a second


def as_volume(array, affine, name="scan.nii") -> Volume:
    ras = np.array([[0.0, 1], [1, 1], [2, 1]])
    return Volume(array, affine, nib.Nifti1Header(), affine, array.shape, ras, Path(name))


def rigid(degrees, shift, axis=(1, 2, 3), about=(0, -20, 10)):
    """Turned about a point in the brain, then shifted."""
    axis = np.array(axis) / np.linalg.norm(axis)
    rotation = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()
    return turn_about(rotation, np.array(about, float), np.add(about, shift))


MOTION = rigid(11, (6, -5, 4))


@pytest.fixture(scope="session")
def made():
    return make_subject(3, 4.0)


@pytest.fixture
def mri(made):
    return as_volume(made.mri, made.affine, "mri.nii")


@pytest.fixture
def pet(made):
    return as_volume(made.pet, MOTION @ made.affine, "pet.nii")


@pytest.fixture(scope="session")
def brain_points(made):
    return carry(made.affine, np.argwhere(made.labels >= 11))


@pytest.fixture(scope="session")
def aligned(made):
    """In MNI space, from a PET that was moved; read only."""
    mri, pet = as_volume(made.mri, made.affine), as_volume(made.pet, MOTION @ made.affine)
    return align_pair(mri, pet, AlignOptions(space="mni", working_mm=4.0))


class TestGrids:
    @pytest.mark.parametrize("order", [0, 1])
    def test_sampling_is_resampling_by_the_affines(self, made, order):
        moving = as_volume(made.pet, MOTION @ made.affine)
        grid = np.diag([3.0, 5, 4, 1])
        grid[:3, 3] = -80, -100, -60
        reference = as_volume(np.zeros((50, 40, 45), np.float32), grid)
        expected = resample_to(moving, reference, order).array
        values = sample(Image(moving.array, made.affine), (50, 40, 45), grid, MOTION, order)
        np.testing.assert_allclose(values, expected, atol=1e-3)
        assert values.dtype == np.float32 and expected.any()

    def test_coarser_keeps_place_and_amount(self, made):
        image = Image(made.pet, MOTION @ made.affine)
        less = coarser(image, 9.0)
        np.testing.assert_allclose(np.linalg.norm(less.affine[:3, :3], axis=0), 9)
        np.testing.assert_allclose(centre_of_mass(less), centre_of_mass(image), atol=0.5)
        assert less.array.sum() * 9**3 == pytest.approx(image.array.sum() * 4**3, rel=0.02)
        assert coarser(image, 3.0) is image

    def test_sheared_axes_become_orthogonal(self, made):
        affine = made.affine.copy()
        affine[1, 2] = 0.4  # a gantry tilt of 5.7 degrees
        straight = coarser(Image(made.mri, affine), 4.0)
        directions = straight.affine[:3, :3] / np.linalg.norm(straight.affine[:3, :3], axis=0)
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
        place = centre_of_mass(Image(made.mri, affine))
        np.testing.assert_allclose(centre_of_mass(straight), place, atol=0.5)


class TestSimilarity:
    def test_like_scikit_image(self, made):
        both = made.mri.clip(0, 900), made.pet
        assert nmi(*both) == pytest.approx(normalized_mutual_information(*both, bins=32), abs=2e-3)
        brain = made.labels >= 11
        inside = both[0][brain], both[1][brain]
        assert nmi(*both, brain) == pytest.approx(
            normalized_mutual_information(*inside, bins=32), abs=2e-3
        )

    def test_ends_of_the_scale(self, made):
        assert nmi(made.mri, made.mri) == pytest.approx(2)
        noise = np.random.default_rng(0).uniform(size=made.mri.shape)
        assert nmi(made.mri, noise) < 1.01
        assert nmi(made.mri, np.ones_like(made.mri)) == 1

    def test_cube_rotations(self):
        found = cube_rotations()
        assert len({tuple(matrix.ravel()) for matrix in found}) == 24
        np.testing.assert_array_equal(found[0], np.eye(3))
        for matrix in found:
            np.testing.assert_array_equal(matrix @ matrix.T, np.eye(3))
            assert np.linalg.det(matrix) == pytest.approx(1)

    def test_spread_rotations_leave_no_gap(self):
        spread = Rotation.from_matrix(spread_rotations(500))
        for asked in Rotation.random(300, random_state=0):
            assert np.rad2deg((asked.inv() * spread).magnitude().min()) < 30


@needs_ants
class TestRegistration:
    def test_a_known_motion_comes_back(self, made, brain_points):
        fixed = working_copy(Image(made.mri, made.affine), 4)
        moving = working_copy(Image(made.pet, MOTION @ made.affine), 4)
        found = register(fixed, moving)
        errors = np.linalg.norm(carry(found @ MOTION, brain_points) - brain_points, axis=1)
        assert errors.mean() < 1 and errors.max() < 2

    def test_start_is_taken(self, made):
        image = working_copy(Image(made.mri, made.affine), 4)
        upside_down = turn_about(cube_rotations()[17], np.zeros(3), np.zeros(3))
        found = register(
            image, Image(image.array, np.linalg.inv(upside_down) @ image.affine), start=upside_down
        )
        np.testing.assert_allclose(found, upside_down, atol=0.05)

    def test_matrix_is_what_ants_applies(self, made):
        import ants

        fixed, moving = Image(made.mri, made.affine), Image(made.pet, MOTION @ made.affine)
        matrix = rigid(7, (3, 2, -4))
        there = ants.apply_ants_transform_to_image(
            _ants_transform(matrix), to_ants(moving), to_ants(fixed), interpolation="linear"
        ).numpy()
        here = sample(moving, made.mri.shape, made.affine, matrix)
        inside = ndimage.binary_erosion(
            sample(Image(made.pet * 0 + 1, moving.affine), here.shape, made.affine, matrix)
            > 1 - 1e-6
        )
        assert inside.mean() > 0.5
        np.testing.assert_allclose(here[inside], there[inside], atol=1e-3 * made.pet.max())

    def test_same_answer_every_time_and_nothing_left_behind(self, made, tmp_path, monkeypatch):
        monkeypatch.setattr(registration.tempfile, "tempdir", str(tmp_path))
        fixed = working_copy(Image(made.mri, made.affine), 6)
        moving = working_copy(Image(made.pet, MOTION @ made.affine), 6)
        np.testing.assert_array_equal(register(fixed, moving), register(fixed, moving))
        assert not list(tmp_path.iterdir())

    def test_an_image_made_before_does_not_bring_more_threads(self):
        """ITK counts its threads at its first image, which need not be one of ours."""
        program = (
            "import preparation.align.registration\n"
            "import ants, numpy as np\n"
            "from data.grids import Image\n"
            "image = ants.from_numpy(np.ones((4, 4, 4), np.float32))\n"
            "head = np.random.default_rng(0).random((24, 26, 22), np.float32)\n"
            "register = preparation.align.registration.register\n"
            "fixed, moving = (Image(head[i:, :-i], np.eye(4)) for i in (1, 2))\n"
            "answers = [register(fixed, moving).tolist() for _ in range(4)]\n"
            "assert all(answer == answers[0] for answer in answers), answers\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)

    @pytest.mark.parametrize("value", [np.inf, np.nan])
    def test_nothing_that_ants_hangs_on(self, made, value):
        broken = made.mri.copy()
        broken[20, 20, 20] = value
        with pytest.raises(ValueError, match="finite"):
            register(Image(broken, made.affine), Image(made.mri, made.affine))

    def test_clipping(self, made):
        spiked = made.pet.copy()
        spiked[20, 25, 20] = 1e9
        plain, copy = (
            working_copy(Image(array, made.affine), 4).array for array in (made.pet, spiked)
        )
        assert copy.min() == 0 and copy.max() < np.percentile(made.pet[made.pet > 0], 99.6)
        assert np.abs(plain - copy).mean() < 1e-3 * plain.max()


def _ants_transform(matrix):
    """Moving -> fixed in RAS as ANTs wants it: fixed -> moving in LPS."""
    import ants

    lps = np.diag([-1.0, -1, 1, 1])
    backwards = lps @ np.linalg.inv(matrix) @ lps
    return ants.create_ants_transform(
        transform_type="AffineTransform",
        dimension=3,
        matrix=backwards[:3, :3],
        translation=backwards[:3, 3],
    )


@pytest.fixture
def brain_known(monkeypatch, made):
    """Spares the registration to the template: the synthetic head's brain is known."""
    fit = template.BrainFit(np.eye(4), made.labels >= 11, 0.9, (1.0, 1.0, 1.0))
    monkeypatch.setattr(pair, "find_brain", lambda *args: fit)


@needs_ants
class TestPair:
    def test_on_the_mri_grid(self, mri, pet, brain_points, brain_known):
        result = align_pair(mri, pet, COARSE)
        np.testing.assert_array_equal(result.mri, mri.array)
        np.testing.assert_array_equal(result.affine, mri.affine)
        assert result.pet.shape == mri.array.shape and result.space == "mri"
        matrix = np.array(result.transforms["pet_to_mri"])
        errors = np.linalg.norm(carry(matrix @ MOTION, brain_points) - brain_points, axis=1)
        assert errors.mean() < 1 and errors.max() < 2
        assert judge({"one": result.figures}) == {"one": []}
        assert result.figures["rotation_deg"] == pytest.approx(11, abs=1)
        assert result.figures["nmi_after"] > result.figures["nmi_before"]
        assert result.figures["start"] == "com" and result.figures["fov_cover"] > 0.99

    def test_mni_is_one_interpolation_in_the_right_order(self, aligned, made):
        import ants

        assert aligned.mri.shape == aligned.pet.shape == MNI_SHAPE
        np.testing.assert_array_equal(aligned.affine, MNI_AFFINE)
        to_mri, to_mni = (
            np.array(aligned.transforms[name]) for name in ("pet_to_mri", "mri_to_template")
        )
        np.testing.assert_allclose(aligned.transforms["pet_to_output"], to_mni @ to_mri)
        grid = ants.from_numpy(
            np.zeros(MNI_SHAPE, np.float32),
            origin=(91.0, 126.0, -72.0),
            direction=np.diag([-1.0, -1, 1]),
        )
        moving = to_ants(Image(made.pet, MOTION @ made.affine))
        clear = ndimage.binary_erosion(aligned.pet > 0, iterations=5)
        assert clear.sum() > 1e6
        apart = []
        for order in ((to_mni, to_mri), (to_mri, to_mni)):  # ANTs applies the last one first
            composed = ants.compose_ants_transforms([_ants_transform(matrix) for matrix in order])
            there = ants.apply_ants_transform_to_image(
                composed, moving, grid, interpolation="linear"
            ).numpy()
            apart.append(np.abs(aligned.pet - there)[clear].max() / made.pet.max())
        assert apart[0] < 2e-3 < 0.1 < apart[1]

    def test_mni_output_is_clean_and_in_place(self, aligned):
        for array in (aligned.mri, aligned.pet):
            assert array.dtype == np.float32 and np.isfinite(array).all() and array.min() == 0
        brain = load_template().brain
        there = sample(brain, MNI_SHAPE, MNI_AFFINE) > 0.5
        middle = centre_of_mass(Image(there, MNI_AFFINE))
        activity = Image(aligned.pet * (aligned.pet > np.percentile(aligned.pet, 95)), MNI_AFFINE)
        assert np.linalg.norm(centre_of_mass(activity) - middle) < 15
        assert (
            aligned.figures["template_fit"] > template.BRAIN_FOUND
            and aligned.template == template.PACKAGED
        )

    def test_zero_outside_the_field_of_view(self, mri, made, brain_known):
        cut = as_volume(made.pet[:, :, 15:], made.affine @ _step(z=15))
        result = align_pair(mri, cut, COARSE)
        first = carry(
            np.linalg.inv(made.affine),
            carry(np.array(result.transforms["pet_to_mri"]), cut.affine[None, :3, 3]),
        )
        assert not result.pet[:, :, : int(first[0, 2]) - 3].any() and result.pet[:, :, 25:].any()
        assert any("covers only" in flag for flag in judge({"one": result.figures})["one"])

    def test_a_wrong_header_is_undone_and_flagged(self, mri, made, brain_points, brain_known):
        turned = rigid(90, (0, 0, 0), axis=(1, 0, 0))
        result = align_pair(mri, as_volume(made.pet, turned @ made.affine), COARSE)
        matrix = np.array(result.transforms["pet_to_mri"])
        errors = np.linalg.norm(carry(matrix @ turned, brain_points) - brain_points, axis=1)
        assert errors.mean() < 1
        assert result.figures["start"].startswith("rotation ")
        assert any("turned by 90 degrees" in flag for flag in judge({"one": result.figures})["one"])

    def test_noise_is_flagged(self, mri, made, brain_known):
        noise = np.random.default_rng(0).uniform(0, 100, made.pet.shape).astype(np.float32)
        flags = judge({"one": align_pair(mri, as_volume(noise, made.affine), COARSE).figures})[
            "one"
        ]
        assert any("turned the wrong way" in flag for flag in flags)

    @pytest.mark.parametrize("mask", ["head", "brain"])
    def test_masks(self, made, mri, monkeypatch, mask):
        still = pose.Pose(np.eye(4), "com", 4.0)
        fit = template.BrainFit(
            np.eye(4), ndimage.binary_erosion(made.labels >= 11), 0.9, (1, 1, 1)
        )
        monkeypatch.setattr(pair, "find_pose", lambda *args, **kwargs: still)
        monkeypatch.setattr(pair, "find_brain", lambda *args: fit)
        monkeypatch.setattr(pair, "measure", lambda *args: {})
        noisy = as_volume(made.mri + np.float32(3), made.affine)
        result = align_pair(
            noisy, as_volume(made.pet, made.affine), AlignOptions(mask=mask, working_mm=4.0)
        )
        assert (align_pair(noisy, mri, COARSE).mri > 0).all()
        wanted = made.labels >= (11 if mask == "brain" else 1)
        assert (result.mri > 0)[ndimage.binary_erosion(wanted, iterations=2)].mean() > 0.99
        assert not result.mri[~ndimage.binary_dilation(wanted, iterations=5)].any()
        assert not result.pet[result.mri == 0].any()

    def test_a_template_of_ones_own(self, made, tmp_path):
        nib.save(nib.Nifti1Image(made.mri[::-1, ::-1], made.affine), tmp_path / "turned.nii")
        with pytest.raises(InputError, match="no T1 template in MNI152 space"):
            load_template(tmp_path / "turned.nii")
        if not SPM.exists():
            pytest.skip("the SPM template is not beside the checkout")
        given = load_template(SPM)
        assert given.name == "template_mri_MNI152"
        np.testing.assert_array_equal(given.head.array, read_volume(SPM).array)


@pytest.mark.parametrize("unmasked_is_right", [True, False])
def test_a_last_registration_that_walks_away_is_not_taken(
    monkeypatch, made, mri, unmasked_is_right
):
    """As ANTs does now and then with a mask: what it was given before was right."""
    right, lost = np.eye(4), rigid(25, (20, 10, 0))
    asked = []

    def stub(fixed, moving, kind="Rigid", start=None, mask=None, is_near=False):
        asked.append(mask is not None)
        return right if len(asked) == 1 or (mask is None and unmasked_is_right) else lost

    monkeypatch.setattr(pose, "register", stub)
    fixed = working_copy(Image(mri.array, mri.affine), 4.0)
    moving = working_copy(Image(made.pet, made.affine), 4.0)
    answer = pose.find_pose(fixed, moving, made.labels >= 11)
    assert np.array_equal(answer.matrix, right)
    assert True in asked, "nothing was registered with a mask"


@needs_ants
def test_coarse_voxels_do_not_let_the_last_registration_walk_away():
    """On 4 mm ANTs' first levels have voxels of 24 mm; of those a mask leaves too few to go by."""
    head = make_subject(1, 4.0)
    fixed = working_copy(Image(head.mri, head.affine), 4.0)
    places = carry(head.affine, np.argwhere(head.labels >= 11))
    motions = (
        rigid(14, (8, 3, -6)),
        rigid(9, (-4, 9, 2), axis=(3, -1, 1)),
        rigid(12, (2, -10, 5), axis=(0, 1, 2)),
    )
    answers = []
    for motion in motions:
        moving = working_copy(Image(head.pet, motion @ head.affine), 4.0)
        found = pose.find_pose(fixed, moving, head.labels >= 11)
        answers.append(carry(found.matrix @ motion, places))
    for answer in answers:
        assert np.linalg.norm(answer - places, axis=1).max() < 1.5
        assert np.linalg.norm(answer - np.mean(answers, axis=0), axis=1).mean() < 0.1


def _step(x=0, y=0, z=0):
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def _spoilt(array, value):
    array = array.copy()
    array[20, 20, 20] = value
    return array


class TestRefusals:
    @pytest.mark.parametrize("role", ["mri", "pet"])
    @pytest.mark.parametrize(
        "spoil, problem",
        [
            (lambda a: _spoilt(a, np.inf), "1 of 114264 voxels .* NaN or infinite"),
            (lambda a: _spoilt(a, np.nan), "1 of 114264 voxels .* NaN or infinite"),
            (lambda a: a * 0, "is constant, all voxels are 0"),
            (lambda a: a * 0 + 5, "is constant, all voxels are 5"),
            (lambda a: (a > 0).astype(np.float32), "nearly all voxels .* above 0 are 1"),
            (lambda a: -a, "no voxel of the .* is above 0"),
        ],
    )
    def test_values(self, mri, made, role, spoil, problem):
        scans = {"mri": made.mri, "pet": made.pet}
        scans[role] = spoil(scans[role])
        volumes = [as_volume(array, made.affine, f"{name}.nii") for name, array in scans.items()]
        with pytest.raises(InputError, match=problem) as raised:
            align_pair(*volumes, COARSE)
        assert raised.value.source == f"{role}.nii"

    def test_size_and_background(self, mri, made):
        large = as_volume(made.pet, np.diag([40.0, 40, 40, 1]))
        with pytest.raises(InputError, match="field of view is 1840 x 2160 x 1840 mm"):
            align_pair(mri, large, COARSE)
        standardised = as_volume(made.mri - np.float32(300), made.affine)
        with pytest.raises(InputError, match="0 is not its background"):
            align_pair(standardised, mri, COARSE)

    def test_options(self):
        with pytest.raises(ValueError, match="talairach"):
            AlignOptions(space="talairach")

    @pytest.mark.parametrize("package", ["ants", "nilearn.datasets"])
    def test_missing_packages(self, mri, pet, monkeypatch, package):
        monkeypatch.setitem(sys.modules, package, None)
        call = load_template if "nilearn" in package else lambda: register(mri, pet)
        with pytest.raises(InputError, match="pip install -r requirements-prep.txt"):
            call()

    def test_nothing_heavy_before_it_is_needed(self):
        heavy = "('ants', 'nilearn', 'torch', 'monai')"
        check = (
            f"import sys, preparation.align.pair; print([m for m in {heavy} if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"


@needs_ants
class TestFrames:
    def test_moved_frames_are_brought_back(self, made):
        motion = rigid(4, (3, -2, 2))
        second = sample(Image(made.pet, made.affine), made.pet.shape, made.affine, motion)
        first, mended = align_frames([made.pet, second], made.affine)
        np.testing.assert_array_equal(first, made.pet)
        inside = made.labels >= 11
        before, after = (np.abs(frame - made.pet)[inside].mean() for frame in (second, mended))
        assert after < 0.5 * before

    def test_an_unbelievable_motion_is_not_applied(self, made, monkeypatch, capsys):
        monkeypatch.setattr(pair, "register", lambda *args, **kwargs: rigid(60, (0, 0, 0)))
        frames = align_frames([made.pet, made.pet], made.affine)
        np.testing.assert_array_equal(frames[1], made.pet)
        assert "PET frame 2" in capsys.readouterr().err

    def test_a_frame_of_noise_is_neither_reference_nor_aligned(self, made, monkeypatch, capsys):
        """As from the injection on: noise, a blank frame, and then the head."""
        asked = []
        motion = rigid(4, (3, -2, 2))

        def registered(fixed, moving, **_):
            asked.append((fixed.array.mean(), moving.array.mean()))
            return motion

        monkeypatch.setattr(pair, "register", registered)
        monkeypatch.setattr(pair, "_fits_better", lambda *_: True)
        noise = np.abs(np.random.default_rng(0).normal(0, 0.3, made.pet.shape)) * made.pet.max()
        noise = noise.astype(np.float32) * (made.labels > 0)
        frames = [noise, made.pet * 0, made.pet, made.pet, noise]
        first, blank, reference, moved, last = align_frames(frames, made.affine)
        assert len(asked) == 1
        np.testing.assert_array_equal(reference, made.pet)
        np.testing.assert_array_equal(first, noise)  # with frame 3
        np.testing.assert_array_equal(blank, 0)
        shape = made.pet.shape
        for values, frame in ((moved, made.pet), (last, noise)):  # frame 5 with frame 4
            expected = sample(Image(frame, made.affine), shape, made.affine, motion)
            np.testing.assert_array_equal(values, expected)
        said = capsys.readouterr().err
        assert "PET frame 1: its signal is too weak to be aligned by; moved with frame 3" in said
        assert "PET frame 5: its signal is too weak to be aligned by; moved with frame 4" in said
        assert "frame 3 is the first with a clear signal" in said

    def test_noise_first_changes_nothing_for_the_others(self, made):
        motion = rigid(4, (3, -2, 2))
        second = sample(Image(made.pet, made.affine), made.pet.shape, made.affine, motion)
        noise = np.abs(np.random.default_rng(0).normal(0, made.pet.mean(), made.pet.shape))
        alone = align_frames([made.pet, second], made.affine)
        _, *others = align_frames([noise.astype(np.float32), made.pet, second], made.affine)
        for one, other in zip(alone, others, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_ants_gives_up_on_a_frame(self, made, monkeypatch, capsys):
        def registered(*_, **__):
            raise InputError("registration", "ANTs gave up", "look at it")

        monkeypatch.setattr(pair, "register", registered)
        frames = align_frames([made.pet, made.pet], made.affine)
        np.testing.assert_array_equal(frames[1], made.pet)
        assert "PET frame 2: ANTs gave up" in capsys.readouterr().err

    def test_nothing_in_any_frame_and_infinity_in_one(self, made):
        with pytest.raises(InputError, match="PET frame 2: .*NaN or infinity"):
            align_frames([made.pet, _spoilt(made.pet, np.inf)], made.affine)
        with pytest.raises(InputError, match="PET frames: none has anything to align by"):
            align_frames([made.pet * 0, made.pet * 0], made.affine)
