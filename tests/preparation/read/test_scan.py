"""From a scan to a volume: the rows of bad input that concern one image, and frames."""

import contextlib
import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from data.volume import corner_distance
from preparation.read.scan import Allowed, check_head, load_scan
from preparation.scans import Scan
from tests.helpers.dicom_series import SHAPE, enhanced, mr_series, pet_series, phantom, write_plane
from utils.errors import InputError

AFFINE = np.diag([5.0, 5.5, 6.5, 1.0])
AFFINE[:3, 3] = -62, -55, -57


def head():
    """(26, 22, 18) float32 in RAS+, an ellipsoid in a background of 0."""
    return (phantom(AFFINE) * 500).astype(np.float32)


def write(path, values=None, affine=AFFINE, **fields):
    """A NIfTI with sform and qform; then header fields (index -> value for one entry) as they are,
    valid or not.
    """
    values = head() if values is None else values
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    plain = path.with_name("plain.nii")
    nib.save(image, plain)
    content = bytearray(plain.read_bytes())
    plain.unlink()
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for field, value in fields.items():
        for index, entry in value.items() if isinstance(value, dict) else ((..., value),):
            header[field][index] = entry
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    return path


def content(path, data):
    path.write_bytes(data)
    return path


def with_values(index, value, kind=np.float32):
    values = head().astype(kind)
    values[index] = value
    return values


def sheared(amount):
    affine = AFFINE.copy()
    affine[0, 1] = amount * AFFINE[1, 1]
    return affine


def scaled(factor):
    return np.diag([factor, factor, factor, 1.0]) @ AFFINE


def scan_of(*files, modality="MRI", kind="nifti", **fields):
    return Scan("941_S_0001", modality, tuple(files), kind, **fields)


def dicom_scan(series, folder, modality="PET", **fields):
    return scan_of(*series.write(folder), modality=modality, kind="dicom", **fields)


def refused(scan, *words, **options):
    """The one line of the error, with the path of the scan and these words in it."""
    with pytest.raises(InputError) as caught:
        load_scan(scan, **options)
    error = caught.value
    assert error.source in [str(file) for file in scan.files] + [str(scan.where)]
    assert error.problem and error.remedy and "\n" not in str(error)
    for word in words:
        assert word in str(error)
    return error


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
        loaded = self.noted(
            scan_of(write(tmp_path / "a.nii", head() - 100), modality="PET"), "down to -100"
        )
        np.testing.assert_array_equal(loaded.volume.array, head() - 100)

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
        refused(scan, "the image is constant (0)")

    def test_nan_in_a_frame(self, tmp_path):
        values = self.stacked
        values[0, 0, 0, 1] = np.nan
        scan = scan_of(
            write(tmp_path / "a.nii", values), modality="PET", frame_durations=(1.0, 1.0, 1.0)
        )
        refused(scan, "1 NaN", "--fill-nonfinite")
        filled = load_scan(scan, allowed=Allowed(fill_nonfinite=True))
        np.testing.assert_allclose(filled.volume.array, head() * 6.5 / 3, rtol=1e-6)


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")


def same_place(volume, series, values, tolerance):
    """A loaded volume against the truth of a series whose columns, rows and slices are the axes x,
    y, z turned.
    """
    expected = nib.as_closest_canonical(nib.Nifti1Image(values, series.affine))
    np.testing.assert_allclose(volume.array, np.asarray(expected.dataobj), rtol=0, atol=tolerance)
    assert corner_distance(volume.array.shape, volume.affine, expected.affine) < 1e-4


@pytest.mark.usefixtures("pydicom")
class TestDicom:
    def test_static_pet(self, tmp_path):
        series = pet_series()
        loaded = load_scan(dicom_scan(series, tmp_path))
        same_place(loaded.volume, series, series.values[..., 0], 0.25)
        assert (loaded.frames, loaded.units, loaded.notes) == (1, "BQML", ())
        assert loaded.volume.path == tmp_path

    def test_dynamic_pet(self, tmp_path):
        series = pet_series((300, 300, 600))
        loaded = load_scan(dicom_scan(series, tmp_path))
        same_place(loaded.volume, series, series.values @ [0.25, 0.25, 0.5], 0.25)
        assert loaded.frames == 3

    def test_dynamic_pet_of_unknown_durations(self, tmp_path):
        series = pet_series((300, 600))
        for plane in series.planes:
            del plane.ActualFrameDuration
        scan = dicom_scan(series, tmp_path)
        refused(scan, "2 frames of unknown duration", "--average-frames")
        loaded = load_scan(scan, allowed=Allowed(average_frames=True))
        same_place(loaded.volume, series, series.values.mean(axis=-1), 0.25)

    def test_mr(self, tmp_path):
        series = mr_series()
        scan = dicom_scan(series, tmp_path, "MRI", matrix_z=SHAPE[2])
        loaded = load_scan(scan)
        same_place(loaded.volume, series, series.values[..., 0], 0)
        assert loaded.notes == ()

    def test_several_mr_volumes(self, tmp_path):
        series, again = mr_series(), mr_series()
        for plane in again.planes:
            plane.InstanceNumber += 100
            plane.SOPInstanceUID += ".9"
            plane.PixelData = plane.PixelData[::-1]
        files = (*series.write(tmp_path / "one"), *again.write(tmp_path / "two"))
        refused(scan_of(*files, kind="dicom"), "2 volumes, not one")

    def test_less_than_a_head(self, tmp_path):
        series = mr_series()
        series.planes = series.planes[:12]
        refused(
            dicom_scan(series, tmp_path, "MRI"),
            "12 x 26 x 22 voxels are not a volume",
            "at least 16 slices",
        )

    def test_row46_no_decoder(self, tmp_path, monkeypatch, pydicom):
        series = mr_series()
        files = series.write(tmp_path)
        series.planes[7].compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        series.planes[7].file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        write_plane(series.planes[7], files[7])
        decoder = type(pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1))
        monkeypatch.setattr(decoder, "is_available", property(lambda _: False))
        scan = scan_of(*files, kind="dicom")
        refused(
            scan,
            files[7].name,
            "JPEG Lossless",
            "pixel data and no decoder",
            'pip install "pydicom[pixeldata]"',
        )

    @pytest.mark.parametrize("row", ["row47-cut", "row47-none"])
    def test_row47_pixel_data(self, tmp_path, row):
        series = pet_series()
        if row == "row47-cut":
            series.planes[7].PixelData = series.planes[7].PixelData[:600]
        else:
            del series.planes[7].PixelData
        scan = dicom_scan(series, tmp_path)
        assert refused(scan, "pixel data", "cut short").source == str(scan.files[7])

    def test_row48_no_position(self, tmp_path):
        series = pet_series()
        for plane in series.planes:
            del plane.ImagePositionPatient, plane.ImageOrientationPatient
        refused(dicom_scan(series, tmp_path), "no slice position: not an image series")

    def test_row49_missing_slice(self, tmp_path):
        series = pet_series()
        del series.planes[7]
        line = "uneven slice gaps (6.5 mm, 13 mm after slice 7 of 17, before "
        refused(dicom_scan(series, tmp_path), line, "): a slice is missing")

    @pytest.mark.parametrize(
        "row", ["row49-tilt", "row49-localizer", "row49-mosaic", "row49-two-sizes"]
    )
    def test_row49_other_faults_of_geometry(self, tmp_path, row):
        series = mr_series()
        for k, plane in enumerate(series.planes):
            if row == "row49-tilt":
                x, y, z = (float(value) for value in plane.ImagePositionPatient)
                plane.ImagePositionPatient = [x, y + 0.3 * k, z]
            elif row == "row49-localizer" and k >= 15:
                plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            elif row == "row49-mosaic":
                plane.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
            elif row == "row49-two-sizes" and k == 3:
                plane.Rows, plane.Columns = plane.Columns, plane.Rows
        word = {
            "tilt": "gantry tilt",
            "localizer": "not parallel",
            "mosaic": "mosaic",
            "two-sizes": "differ in size",
        }
        refused(dicom_scan(series, tmp_path, "MRI"), word[row.removeprefix("row49-")])

    def test_row50_last_slices_of_a_pet(self, tmp_path):
        series = pet_series()
        series.planes = series.planes[:16]
        refused(dicom_scan(series, tmp_path), "16 of 18 slices")

    def test_row50_last_slices_of_an_mri(self, tmp_path):
        series = mr_series()
        series.planes = series.planes[:17]
        refused(
            dicom_scan(series, tmp_path, "MRI", matrix_z=18),
            "17 of 18 slices (Matrix Z of its XML)",
        )

    def test_row50_nothing_tells_how_many(self, tmp_path):
        series = mr_series()
        assert load_scan(dicom_scan(series, tmp_path / "whole", "MRI")).notes == ()
        for k, plane in enumerate(
            series.planes
        ):  # the outer nine slices are gone, the others have moved up
            plane.PixelData = series.values[:, :, max(k - 9, 0), 0].T.astype("<u2").tobytes()
        (note,) = load_scan(dicom_scan(series, tmp_path / "cut", "MRI")).notes
        assert "end slices may be missing" in note

    @pytest.mark.parametrize("row", ["row51-missing", "row51-zero", "row51-negative"])
    def test_row51_slope(self, tmp_path, row):
        series = pet_series()
        for plane in series.planes[4:7]:
            if row == "row51-missing":
                del plane.RescaleSlope
            else:
                plane.RescaleSlope = "0" if row == "row51-zero" else "-2"
        word = {
            "row51-missing": "missing in 3 of 18 slices",
            "row51-zero": "is 0",
            "row51-negative": "is -2",
        }[row]
        refused(dicom_scan(series, tmp_path), f"RescaleSlope {word}")

    @pytest.mark.parametrize(
        "name, data, word",
        [
            ("a.v", b"MATRIX72v" + b"\0" * 600, "ECAT"),
            ("a.i", b"\0" * 600, "Interfile"),
            ("DICOMDIR", b"\0" * 128 + b"DICM", "DICOMDIR"),
            ("a.zip", b"PK\3\4" + b"\0" * 600, "archive; unpack it first"),
        ],
        ids=["row52-ecat", "row52-interfile", "row52-dicomdir", "row52-zip"],
    )
    def test_row52_other_formats(self, tmp_path, name, data, word):
        refused(scan_of(content(tmp_path / name, data), modality="PET", kind="dicom"), word)

    def test_nothing_is_printed(self, tmp_path, capfd):
        series = pet_series((300, 600))
        for plane in series.planes:
            plane.PixelData += b"\0" * 20  # pydicom warns about excess bytes
        load_scan(dicom_scan(series, tmp_path))
        load_scan(
            dicom_scan(enhanced(pet_series(), "1.2.840.10008.5.1.4.1.1.130"), tmp_path / "enhanced")
        )
        assert capfd.readouterr() == ("", "")

    def test_values_that_are_not_finite(self, tmp_path, monkeypatch):
        series = mr_series()
        for plane in series.planes:
            values = np.frombuffer(plane.PixelData, "<u2").astype("<f4")
            values[0] = np.nan
            del plane.PixelData, plane.BitsStored, plane.HighBit, plane.PixelRepresentation
            plane.BitsAllocated, plane.FloatPixelData = 32, values.tobytes()
        refused(dicom_scan(series, tmp_path, "MRI"), "18 NaN of 10296 voxels")


class TestHead:
    @pytest.mark.parametrize(
        "shape, voxel_mm, word",
        [
            ((256, 256, 4), 1, "at least 16 slices"),
            ((256, 256), 1, "not a volume"),
            ((99, 200, 200), 1, "field of view 99 mm"),
            ((200, 200, 501), 1, "field of view 501 mm"),
            ((400, 400, 400), 0.26, "voxels of 0.26 x 0.26 x 0.26 mm"),
            ((16, 16, 16), 8.1, "voxels of 8.1"),
        ],
    )
    def test_no_head(self, shape, voxel_mm, word):
        with pytest.raises(InputError, match=word) as caught:
            check_head("a.nii", shape, np.diag([voxel_mm] * 3 + [1]), "MRI")
        assert caught.value.source == "a.nii"

    @pytest.mark.parametrize(
        "shape, voxel_mm", [((16, 20, 20), 6.5), ((256, 256, 170), 1), ((500, 500, 500), 1)]
    )
    def test_heads(self, shape, voxel_mm):
        check_head("a.nii", shape, np.diag([voxel_mm] * 3 + [1]), "MRI")

    def test_a_wide_scanner(self, tmp_path):
        """The whole ring of a PET scanner, also as NIfTI; no MRI is that wide."""
        with pytest.raises(InputError, match="684 mm"):
            check_head("a", (168, 168, 81), np.diag([684 / 168, 684 / 168, 2, 1]), "MRI")
        with pytest.raises(InputError, match="1008 mm .* 100 to 1000"):
            check_head("a", (168, 168, 81), np.diag([6, 6, 2, 1]), "PET")
        wide = np.repeat(head(), 4, axis=0)
        path = write(tmp_path / "a.nii", wide, np.diag([684 / len(wide), 5.5, 6.5, 1]))
        np.testing.assert_array_equal(load_scan(scan_of(path, modality="PET")).volume.array, wide)
        with pytest.raises(InputError, match="684 mm"):
            load_scan(scan_of(path))
