"""NIfTI scans of preparation: the rows of bad input that concern one image, and frames."""

import contextlib
import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from data.volume import read_pair
from preparation.read.scan import Allowed, load_scan
from tests.helpers.dicom_series import SHAPE
from tests.helpers.nifti_scans import (
    AFFINE,
    content,
    cut,
    head,
    refused,
    scan_of,
    with_values,
    write,
)
from utils.errors import InputError


def sheared(amount):
    affine = AFFINE.copy()
    affine[0, 1] = amount * AFFINE[1, 1]
    return affine


def scaled(factor):
    return np.diag([factor, factor, factor, 1.0]) @ AFFINE


COLOURS = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
MGH = gzip.compress(b"\0\0\0\1" + b"\0" * 600)
# (name of the row, function from a folder to a file, words of the message)
NIFTI_ROWS = [
    ("row01-cut-gz", lambda to: cut(write(to / "a.nii.gz"), 0.6), ["cut short"]),
    ("row01-cut-gz-end", lambda to: cut(write(to / "a.nii.gz"), 0.9999), ["cut short"]),
    ("row02-cut-nii", lambda to: cut(write(to / "a.nii"), 0.6), ["cut short"]),
    ("row03-empty", lambda to: content(to / "a.nii", b""), ["the file is empty"]),
    ("row03-empty-gz", lambda to: content(to / "a.nii.gz", b""), ["the file is empty"]),
    ("row04-garbage", lambda to: content(to / "a.nii.gz", b"\x17\x42" * 400), ["not a NIfTI"]),
    (
        "row04-web-page",
        lambda to: content(to / "a.nii.gz", b"<html>404</html>" * 40),
        ["not a NIfTI", "web page"],
    ),
    (
        "row05-not-gzipped",
        lambda to: write(to / "a.nii").rename(to / "b.nii.gz"),
        ["rename it to b.nii"],
    ),
    (
        "row06-gzipped-nii",
        lambda to: write(to / "a.nii.gz").rename(to / "b.nii"),
        ["rename it to b.nii.gz"],
    ),
    ("row06-mgz-as-gz", lambda to: content(to / "a.nii.gz", MGH), ["not a NIfTI", "convert it"]),
    (
        "row06-analyze",
        lambda to: content(to / "a.hdr", nib.AnalyzeHeader().binaryblock),
        ["Analyze", "convert it"],
    ),
    ("row06-pair", lambda to: write(to / "a.nii", magic=b"ni1"), ["two-file NIfTI"]),
    (
        "row09-4d-mri",
        lambda to: write(to / "a.nii", np.stack([head()] * 3, -1)),
        ["26 x 22 x 18 x 3", "not a volume"],
    ),
    (
        "row09-2d",
        lambda to: write(to / "a.nii", head()[:, :, 9]),
        ["26 x 22 voxels are not a volume"],
    ),
    (
        "row09-one-slice",
        lambda to: write(to / "a.nii", head()[:, :, 9:10]),
        ["26 x 22 x 1 voxels are not a volume"],
    ),
    ("row09-15-slices", lambda to: write(to / "a.nii", head()[:, :, :15]), ["at least 16 slices"]),
    ("row10-colour", lambda to: write(to / "a.nii", COLOURS), ["colour"]),
    ("row11-complex", lambda to: write(to / "a.nii", head().astype(np.complex64)), ["complex"]),
    (
        "row13-data-type",
        lambda to: write(to / "a.nii", datatype=999),
        ["header is damaged (data type 999)"],
    ),
    (
        "row13-dim",
        lambda to: write(to / "a.nii", dim={2: -22}),
        ["header is damaged (dim is [3, 26, -22"],
    ),
    ("row13-offset", lambda to: write(to / "a.nii", vox_offset=np.nan), ["header is damaged"]),
    (
        "row14-nan",
        lambda to: write(to / "a.nii", with_values((0, 0, slice(12)), np.nan)),
        ["12 NaN of 10296 voxels", "--fill-nonfinite"],
    ),
    (
        "row15-inf",
        lambda to: write(to / "a.nii", with_values((3, 3, 3), np.inf)),
        ["1 infinite of 10296 voxels", "--fill-nonfinite"],
    ),
    ("row16-zero", lambda to: write(to / "a.nii", head() * 0), ["all voxels are 0"]),
    ("row16-constant", lambda to: write(to / "a.nii", head() * 0 + 7), ["all voxels are 7"]),
    ("row18-negative-mri", lambda to: write(to / "a.nii", head() - 100), ["values down to -100"]),
    (
        "row20-zero-size",
        lambda to: write(to / "a.nii", pixdim={2: 0}),
        ["voxel size 0 (5 x 0 x 6.5 mm)"],
    ),
    ("row20-nan-size", lambda to: write(to / "a.nii", pixdim={2: np.nan}), ["voxel size"]),
    (
        "row21-negative-size",
        lambda to: write(to / "a.nii", pixdim={1: -5}),
        ["negative voxel size (-5 x 5.5 x 6.5"],
    ),
    (
        "row22-large",
        lambda to: write(to / "a.nii", affine=scaled(14)),
        ["field of view 1820 mm", "units"],
    ),
    (
        "row22-small",
        lambda to: write(to / "a.nii", affine=scaled(0.2)),
        ["field of view 23.4 mm", "units"],
    ),
    (
        "row22-tiny",
        lambda to: write(to / "a.nii", affine=scaled(1e-3)),
        ["field of view 0.117 mm", "units"],
    ),
    (
        "row22-voxels",
        lambda to: write(to / "a.nii", affine=scaled(1.5)),
        ["voxels of 7.5 x 8.25 x 9.75 mm"],
    ),
    ("row23-metres", lambda to: write(to / "a.nii", xyzt_units=1), ["units are metres"]),
    ("row23-microns", lambda to: write(to / "a.nii", xyzt_units=3), ["units are microns"]),
    (
        "row24-forms",
        lambda to: write(to / "a.nii", qoffset_x=-52),
        ["differ by 10.0 mm", "--prefer sform"],
    ),
    (
        "row25-no-form",
        lambda to: write(to / "a.nii", sform_code=0, qform_code=0),
        ["left and right", "--assume-ras"],
    ),
    (
        "row26-zero-sform",
        lambda to: write(to / "a.nii", srow_x=0, srow_y=0, srow_z=0),
        ["affine is not usable"],
    ),
    ("row26-nan-sform", lambda to: write(to / "a.nii", srow_x=np.nan), ["affine is not usable"]),
    (
        "row26-flat-sform",
        lambda to: write(to / "a.nii", srow_z=[0, 5.5, 0, 0]),
        ["affine is not usable"],
    ),
    (
        "row26-qform",
        lambda to: write(to / "a.nii", sform_code=0, quatern_b=0.9, quatern_c=0.9),
        ["not usable"],
    ),
    (
        "row27-sheared",
        lambda to: write(to / "a.nii", affine=sheared(0.0542), qform_code=0),
        ["sheared by 3.1 degrees"],
    ),
    (
        "row27-slightly",
        lambda to: write(to / "a.nii", affine=sheared(0.005), qform_code=0),
        ["sheared by 0.29"],
    ),
    (
        "row28-sizes",
        lambda to: write(to / "a.nii", pixdim={3: 6.3}, qform_code=0),
        ["voxel size and affine disagree"],
    ),
    (
        "row29-huge",
        lambda to: write(to / "a.nii", dim=[3, 20000, 20000, 20000, 1, 1, 1, 1]),
        ["20000 x 20000 x 20000"],
    ),
    (
        "row52-ecat",
        lambda to: content(to / "a.v", b"MATRIX72v" + b"\0" * 600),
        ["ECAT", "Co-registered, Averaged"],
    ),
    (
        "row52-interfile",
        lambda to: content(to / "a.i", b"\0" * 600),
        ["Interfile", "Co-registered, Averaged"],
    ),
    (
        "row52-zip",
        lambda to: content(to / "a.nii.gz", b"PK\3\4" + b"\0" * 600),
        ["archive; unpack it first"],
    ),
]


class TestNiftiRows:
    @pytest.mark.parametrize(
        "make, words", [row[1:] for row in NIFTI_ROWS], ids=[row[0] for row in NIFTI_ROWS]
    )
    def test_refused_in_one_line(self, tmp_path, capfd, make, words):
        refused(scan_of(make(tmp_path)), *words)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_good_one(self, tmp_path, suffix, capfd):
        loaded = load_scan(scan_of(write(tmp_path / f"a{suffix}")))
        np.testing.assert_array_equal(loaded.volume.array, head())
        np.testing.assert_allclose(loaded.volume.affine, AFFINE)
        assert (loaded.frames, loaded.units, loaded.notes) == (1, "", ())
        assert capfd.readouterr() == ("", "")

    def test_good_one_stored_in_another_order(self, tmp_path):
        image = nib.Nifti1Image(head(), AFFINE).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
        loaded = load_scan(
            scan_of(write(tmp_path / "a.nii", np.asarray(image.dataobj), image.affine))
        )
        np.testing.assert_array_equal(loaded.volume.array, head())
        np.testing.assert_allclose(loaded.volume.affine, AFFINE)

    def noted(self, scan, word, **options):
        loaded = load_scan(scan, **options)
        assert any(word in note for note in loaded.notes), loaded.notes
        return loaded

    def test_row07_last_axis_of_1(self, tmp_path):
        loaded = self.noted(
            scan_of(write(tmp_path / "a.nii", head()[..., None])), "fourth axis of length 1"
        )
        np.testing.assert_array_equal(loaded.volume.array, head())

    @pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint64, np.float64])
    def test_row12_number_types(self, tmp_path, kind):
        loaded = load_scan(scan_of(write(tmp_path / "a.nii", (head() / 8).astype(kind))))
        np.testing.assert_array_equal(
            loaded.volume.array, (head() / 8).astype(kind).astype(np.float32)
        )

    def test_row14_row15_filled_when_allowed(self, tmp_path):
        values = with_values((0, 0, slice(2)), (np.nan, np.inf))
        scan = scan_of(write(tmp_path / "a.nii", values))
        loaded = self.noted(
            scan,
            "2 voxels that were NaN or infinite set to 0",
            allowed=Allowed(fill_nonfinite=True),
        )
        np.testing.assert_array_equal(loaded.volume.array, head())

    def test_row17_spike(self, tmp_path):
        values = with_values((13, 11, 9), 1e6)
        loaded = self.noted(scan_of(write(tmp_path / "a.nii", values)), "times the 99.9 percentile")
        np.testing.assert_array_equal(loaded.volume.array, values)

    def test_row18_a_little_below_0(self, tmp_path):
        values = with_values((0, 0, slice(4)), -3)
        for modality in ("MRI", "PET"):
            scan = scan_of(write(tmp_path / "a.nii", values), modality=modality)
            self.noted(scan, "4 voxels below 0 (down to -3)")

    def test_row18_the_noise_of_a_filtered_backprojection(self, tmp_path):
        noisy = head() + np.random.default_rng(0).normal(0, 75, head().shape).astype(np.float32)
        noisy[0, 0, 0] = -300
        loaded = self.noted(
            scan_of(write(tmp_path / "a.nii", noisy), modality="PET"), "down to -300"
        )
        np.testing.assert_array_equal(loaded.volume.array, noisy)
        read = read_pair(tmp_path / "a.nii", tmp_path / "a.nii")  # the programs take it, too
        np.testing.assert_array_equal(read[0].array, noisy)

    def test_row18_a_standardised_pet_is_refused_as_by_the_programs(self, tmp_path):
        scan = scan_of(write(tmp_path / "a.nii", head() - 100), modality="PET")
        refused(scan, "values down to -100", "0 is not its background")

    def test_row18_ringing_of_a_resampling(self, tmp_path):
        rings = ndimage.zoom(head(), 1.37, order=3)
        assert rings.min() < -0.05 * rings.max()
        affine = AFFINE @ np.diag([1 / 1.37, 1 / 1.37, 1 / 1.37, 1])
        loaded = self.noted(scan_of(write(tmp_path / "a.nii", rings, affine)), "voxels below 0")
        np.testing.assert_array_equal(loaded.volume.array, rings)

    @pytest.mark.parametrize("slope, word", [(np.nan, "is NaN"), (0, "is 0")])
    def test_row19_scaling_factor(self, tmp_path, slope, word):
        loaded = self.noted(
            scan_of(write(tmp_path / "a.nii", scl_slope=slope)), f"scaling factor {word}"
        )
        np.testing.assert_array_equal(loaded.volume.array, head())

    @pytest.mark.parametrize("prefer, left", [("sform", -62), ("qform", -52)])
    def test_row24_preferred_form(self, tmp_path, capfd, prefer, left):
        scan = scan_of(write(tmp_path / "a.nii", qoffset_x=-52))
        loaded = load_scan(scan, allowed=Allowed(prefer=prefer))
        assert loaded.volume.affine[0, 3] == pytest.approx(left)
        np.testing.assert_array_equal(loaded.volume.array, head())
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        "prefer, fields",
        [
            ("qform", {"srow_x": 0, "srow_y": 0, "srow_z": 0}),
            ("qform", {"srow_x": np.nan}),
            ("qform", {"sform_code": 200}),
            ("sform", {"quatern_b": 0.9, "quatern_c": 0.9}),
            ("sform", {"qform_code": -3}),
        ],
        ids=["empty", "nan", "code", "quaternion", "negative-code"],
    )
    def test_row24_the_other_form_does_no_harm(self, tmp_path, capfd, prefer, fields):
        scan = scan_of(write(tmp_path / "a.nii", **fields))
        refused(scan, f"--prefer {prefer}")
        loaded = load_scan(scan, allowed=Allowed(prefer=prefer))
        np.testing.assert_allclose(loaded.volume.affine, AFFINE, atol=1e-4)
        np.testing.assert_array_equal(loaded.volume.array, head())
        assert capfd.readouterr() == ("", "")

    def test_row24_a_preferred_form_that_is_not_usable(self, tmp_path):
        scan = scan_of(write(tmp_path / "a.nii", srow_x=np.nan))
        refused(scan, "sform is singular", "--prefer qform", allowed=Allowed(prefer="sform"))

    def test_row24_rounding_of_the_quaternion_is_no_difference(self, tmp_path):
        assert (
            load_scan(scan_of(write(tmp_path / "a.nii", qoffset_x=-61.2))).volume.affine[0, 3]
            == -62
        )

    def test_row25_assumed_when_allowed(self, tmp_path, capfd):
        scan = scan_of(write(tmp_path / "a.nii", sform_code=0, qform_code=0))
        loaded = load_scan(scan, allowed=Allowed(assume_ras=True))
        np.testing.assert_array_equal(loaded.volume.array, head())
        centre = loaded.volume.affine @ [*(np.array(SHAPE) - 1) / 2, 1]
        np.testing.assert_allclose(centre, [0, 0, 0, 1], atol=1e-6)
        assert loaded.volume.affine[0, 0] > 0 and capfd.readouterr() == ("", "")

    def test_qfac_of_0_is_1(self, tmp_path):
        np.testing.assert_array_equal(
            load_scan(scan_of(write(tmp_path / "a.nii", pixdim={0: 0}))).volume.array, head()
        )

    def test_missing_file_and_folder(self, tmp_path):
        refused(scan_of(tmp_path / "none.nii"), "no such file")
        refused(scan_of(tmp_path), "is a folder")


class TestDamagedNifti:
    @pytest.mark.parametrize("frames", [1, 3])
    def test_damage_anywhere_gives_one_line_or_an_image(self, tmp_path, frames, capfd):
        generator = np.random.default_rng(0)
        values = np.stack([head()] * frames, axis=-1)
        content = write(tmp_path / "a.nii", values).read_bytes()
        modality = "PET" if frames > 1 else "MRI"
        for number in range(150):
            damaged = bytearray(content)
            for place in generator.integers(40, 352, 3):
                damaged[place] = generator.integers(256)
            (tmp_path / "a.nii").write_bytes(damaged)
            prefer = (None, "sform", "qform")[number % 3]
            with contextlib.suppress(InputError):
                load_scan(
                    scan_of(tmp_path / "a.nii", modality=modality),
                    allowed=Allowed(True, True, True, prefer),
                )
        assert capfd.readouterr() == ("", "")


class TestNiftiFrames:
    WEIGHTS = (1.0, 1.5, 4.0)

    @property
    def stacked(self):
        return np.stack([head() * weight for weight in self.WEIGHTS], axis=-1)

    def pet(self, tmp_path, **fields):
        return scan_of(write(tmp_path / "a.nii.gz", self.stacked), modality="PET", **fields)

    def test_row08_4d_pet(self, tmp_path):
        refused(self.pet(tmp_path), "3 frames of unknown duration", "--average-frames")

    def test_averaged_by_duration(self, tmp_path):
        loaded = load_scan(self.pet(tmp_path, frame_durations=(300.0, 300.0, 600.0)))
        np.testing.assert_allclose(loaded.volume.array, head() * (1 + 1.5 + 2 * 4) / 4, rtol=1e-6)
        assert loaded.frames == 3 and loaded.volume.array.dtype == np.float32
        assert any("weighted by duration" in note for note in loaded.notes)

    def test_plain_mean_when_allowed(self, tmp_path):
        loaded = load_scan(self.pet(tmp_path), allowed=Allowed(average_frames=True))
        np.testing.assert_allclose(loaded.volume.array, head() * 6.5 / 3, rtol=1e-6)

    @pytest.mark.parametrize("durations", [(300.0,), (300.0, 300.0, 0.0), (300.0, 300.0, np.inf)])
    def test_durations_that_do_not_fit(self, tmp_path, durations):
        refused(self.pet(tmp_path, frame_durations=durations), "3 frames with durations of 300")

    def test_one_file_for_each_frame(self, tmp_path):
        files = [write(tmp_path / f"{n}.nii", self.stacked[..., n]) for n in range(3)]
        scan = scan_of(*files, modality="PET", frame_durations=(300.0, 300.0, 600.0))
        np.testing.assert_allclose(load_scan(scan).volume.array, head() * 10.5 / 4, rtol=1e-6)
        refused(
            replace(scan, frame_durations=None), "3 frames of unknown duration", "--average-frames"
        )
        refused(replace(scan, modality="MRI"), "3 files, not one volume")

    def test_frames_on_two_grids(self, tmp_path):
        moved = AFFINE.copy()
        moved[2, 3] += 2
        first, second = write(tmp_path / "0.nii"), write(tmp_path / "1.nii", affine=moved)
        error = refused(
            scan_of(first, second, modality="PET"), "not on the grid of the first frame, 0.nii"
        )
        assert error.source == str(second)

    def test_aligned_first(self, tmp_path):
        seen = []

        def align(frames, affine):
            seen.append((len(frames), affine))
            return [frame * 2 for frame in frames]

        scan = self.pet(tmp_path, frame_durations=(1.0, 1.0, 1.0))
        loaded = load_scan(scan, align)
        np.testing.assert_allclose(loaded.volume.array, head() * 13 / 3, rtol=1e-6)
        assert seen[0][0] == 3
        np.testing.assert_allclose(seen[0][1], AFFINE)
        load_scan(replace(scan, description="Co-registered_Dynamic"), align)
        load_scan(scan_of(write(tmp_path / "one.nii"), modality="PET"), align)
        assert len(seen) == 1

    @pytest.mark.parametrize("part", [0.5, 0.999])
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_cut_short(self, tmp_path, suffix, part, capfd):
        path = cut(write(tmp_path / f"a{suffix}", self.stacked), part)
        scan = scan_of(path, modality="PET", frame_durations=(1.0, 1.0, 1.0))
        refused(scan, "cut short")
        assert capfd.readouterr() == ("", "")

    def test_damaged_checksum(self, tmp_path):
        path = write(tmp_path / "a.nii.gz", self.stacked)
        data = bytearray(path.read_bytes())
        data[-6] ^= 1
        path.write_bytes(data)
        refused(
            scan_of(path, modality="PET", frame_durations=(1.0, 1.0, 1.0)), "cut short or damaged"
        )

    @pytest.mark.parametrize(
        "kind, order", [(nib.Nifti1Image, "<"), (nib.Nifti2Image, "<"), (nib.Nifti1Image, ">")]
    )
    def test_scaled_whole_numbers(self, tmp_path, kind, order):
        header = kind.header_class(endianness=order)
        header.set_data_dtype(np.int16)
        stored = np.round(self.stacked).astype(np.int16)
        image = kind(stored, AFFINE, header)
        image.header.set_slope_inter(0.5, -3)
        nib.save(image, tmp_path / "a.nii")
        loaded = load_scan(
            scan_of(tmp_path / "a.nii", modality="PET", frame_durations=(1.0, 1.0, 2.0))
        )
        np.testing.assert_allclose(
            loaded.volume.array, stored @ [0.125, 0.125, 0.25] - 3, rtol=1e-5, atol=1e-3
        )

    def test_a_blank_frame(self, tmp_path):
        blank = self.stacked * [1, 0, 1]
        scan = scan_of(
            write(tmp_path / "a.nii", blank), modality="PET", frame_durations=(1.0, 1.0, 1.0)
        )
        loaded = load_scan(scan)
        np.testing.assert_allclose(loaded.volume.array, head() * 2.5, rtol=1e-6)
        assert "frame 2 of 3 left out: one value everywhere" in loaded.notes
        all_blank = write(tmp_path / "b.nii", blank * 0)
        refused(
            scan_of(all_blank, modality="PET", frame_durations=(1.0, 1.0, 1.0)),
            "it is empty, all voxels are 0",
        )

    def test_a_blank_file_among_the_frames(self, tmp_path):
        files = [write(tmp_path / f"{n}.nii", self.stacked[..., n] * (n > 0)) for n in range(3)]
        loaded = load_scan(scan_of(*files, modality="PET", frame_durations=(10.0, 300.0, 600.0)))
        np.testing.assert_allclose(loaded.volume.array, head() * (1.5 + 2 * 4) / 3, rtol=1e-6)
        refused(scan_of(files[0], modality="PET"), "it is empty, all voxels are 0")

    def test_nan_in_a_frame(self, tmp_path):
        values = self.stacked
        values[0, 0, 0, 1] = np.nan
        scan = scan_of(
            write(tmp_path / "a.nii", values), modality="PET", frame_durations=(1.0, 1.0, 1.0)
        )
        refused(scan, "frame 2 holds 1 NaN", "--fill-nonfinite")
        filled = load_scan(scan, allowed=Allowed(fill_nonfinite=True))
        np.testing.assert_allclose(filled.volume.array, head() * 6.5 / 3, rtol=1e-6)
