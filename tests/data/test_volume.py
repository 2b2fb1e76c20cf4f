"""Reading, checking, resampling and writing of NIfTI volumes, against nibabel and closed forms."""

import gzip
import itertools
import os
import pickle
from dataclasses import replace

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
from scipy import ndimage

from data import volume
from data.volume import (
    PREPARED,
    PROGRAMS,
    check_output,
    read_frames,
    read_pair,
    read_volume,
    resample_to,
    write_like,
)
from tests.helpers.golden import SHARED
from utils.errors import InputError

PAIRS = SHARED / "data" / "pairs"
ODD = SHARED / "data" / "odd"
ORIENTATIONS = ["RAS", "LAS", "PSR", "SAL", "IPR"]
FORM_FIELDS = ["sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"]
FORM_FIELDS += ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]


def change_header(path, **fields):
    """Overwrite header fields of an uncompressed NIfTI-1 as they are, valid or not."""
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for field, value in fields.items():
        if isinstance(value, dict):
            for index, entry in value.items():
                header[field][index] = entry
        else:
            header[field] = value
    path.write_bytes(header.binaryblock + content[348:])
    return path


def stored_header(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        block = stream.read(540)
    kind = nib.Nifti1Header if block[344:348] == b"n+1\0" else nib.Nifti2Header
    return kind(block[: kind.template_dtype.itemsize], check=False)


def same_forms(first, second):
    one, two = stored_header(first), stored_header(second)
    fields_agree = all(one[field].tobytes() == two[field].tobytes() for field in FORM_FIELDS)
    return fields_agree and one["pixdim"][:4].tobytes() == two["pixdim"][:4].tobytes()


@pytest.fixture
def plain(write_nifti, head, head_affine):
    """An uncompressed NIfTI-1 of the head."""
    return write_nifti("plain.nii", head, head_affine)


class TestReading:
    @pytest.mark.parametrize("axcodes", ORIENTATIONS)
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_every_storage_order_gives_the_same_ras_volume(
        self, write_nifti, head, head_affine, axcodes, suffix
    ):
        read = read_volume(write_nifti("head" + suffix, head, head_affine, axcodes))
        assert read.array.dtype == np.float32 and read.array.flags.c_contiguous
        np.testing.assert_array_equal(read.array, head)
        np.testing.assert_allclose(read.affine, head_affine, atol=1e-5)
        assert read.voxel_mm == pytest.approx((1.5, 1.0, 2.0))

    @pytest.mark.parametrize("axcodes", ["RAS", "LAS", "PSR"])
    def test_oblique_like_nibabel(self, write_nifti, head, head_affine, oblique, axcodes):
        path = write_nifti("head.nii", head, oblique(head_affine), axcodes)
        read, canonical = read_volume(path), nib.as_closest_canonical(nib.load(path))
        np.testing.assert_array_equal(read.array, canonical.get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(read.affine, canonical.affine)

    def test_nifti2_and_big_endian(self, write_nifti, tmp_path, head, head_affine):
        second = write_nifti("second.nii.gz", head, head_affine, "LAS", kind=nib.Nifti2Image)
        np.testing.assert_array_equal(read_volume(second).array, head)
        assert isinstance(read_volume(second).header, nib.Nifti2Header)
        header = nib.Nifti1Header(endianness=">")
        header.set_data_dtype(np.float32)
        big = nib.Nifti1Image(head, head_affine, header)
        nib.save(big, tmp_path / "big.nii")
        assert stored_header(tmp_path / "big.nii").endianness == ">"
        np.testing.assert_array_equal(read_volume(tmp_path / "big.nii").array, head)

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.int64, np.float64])
    def test_number_types(self, write_nifti, head, head_affine, kind):
        path = write_nifti("head.nii", head.astype(kind), head_affine)
        np.testing.assert_array_equal(read_volume(path).array, head.astype(kind))

    def test_slope_and_intercept(self, plain, write_nifti, head, head_affine):
        path = write_nifti("scaled.nii", head.astype(np.int16), head_affine)
        change_header(path, scl_slope=0.25, scl_inter=-2)
        expected = head.astype(np.int16) * 0.25 - 2
        np.testing.assert_array_equal(read_volume(path).array, expected)
        change_header(plain, scl_slope=0, scl_inter=7)  # slope 0: no scaling
        np.testing.assert_array_equal(read_volume(plain).array, head)

    def test_one_frame_is_a_volume(self, tmp_path, head, head_affine):
        nib.save(nib.Nifti1Image(head[..., None], head_affine), tmp_path / "frame.nii")
        read = read_volume(tmp_path / "frame.nii")
        np.testing.assert_array_equal(read.array, head)
        assert read.stored_shape == (*head.shape, 1)

    def test_extensions_before_the_data(self, tmp_path, head, head_affine):
        image = nib.Nifti1Image(head, head_affine)
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100))
        nib.save(image, tmp_path / "long.nii")
        assert stored_header(tmp_path / "long.nii")["vox_offset"] > 352
        np.testing.assert_array_equal(read_volume(tmp_path / "long.nii").array, head)

    def test_sform_before_qform(self, plain, head_affine, capsys):
        read_volume(plain)
        assert capsys.readouterr().err == ""
        change_header(plain, qoffset_x=0.0)
        np.testing.assert_allclose(read_volume(plain).affine, head_affine)
        assert "sform and qform differ by up to 13.2 mm; the sform" in capsys.readouterr().err
        change_header(plain, sform_code=0)
        assert read_volume(plain).affine[0, 3] == 0
        assert capsys.readouterr().err == ""
        change_header(plain, sform_code=2, quatern_b=0.9, quatern_c=0.9)
        np.testing.assert_allclose(read_volume(plain).affine, head_affine)
        assert "sform and qform contradict; the sform" in capsys.readouterr().err

    @pytest.mark.parametrize("excess", [1e-6, -1e-6, 9e-6])
    @pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
    def test_a_quaternion_that_rounding_made_longer(
        self, write_nifti, tmp_path, head, head_affine, oblique, capsys, kind, excess
    ):
        """A half turn has no real part, so that rounding alone decides about more than 1."""
        turned = head_affine @ np.diag([-1.0, -1, 1, 1])
        path = write_nifti("turned.nii", head, turned, "LPS", kind=kind)
        content = bytearray(path.read_bytes())
        header = stored_header(path)
        header["sform_code"] = 0
        for axis in "bcd":
            header[f"quatern_{axis}"] *= np.sqrt(1 + excess)
        content[: len(header.binaryblock)] = header.binaryblock
        path.write_bytes(content)
        read = read_volume(path)
        np.testing.assert_array_equal(read.array, head[::-1, ::-1])
        np.testing.assert_allclose(read.stored_affine, turned, atol=0.05)
        assert capsys.readouterr().err == ""
        write_like(tmp_path / "like.nii", read.array, read)  # nibabel would refuse such a one
        np.testing.assert_allclose(nib.load(tmp_path / "like.nii").affine, turned, atol=0.05)

    def test_an_empty_sform_is_none(self, plain, tmp_path, head, head_affine, capsys):
        change_header(plain, srow_x=0, srow_y=0, srow_z=0)
        read = read_volume(plain)
        np.testing.assert_allclose(read.affine, head_affine, atol=1e-5)
        assert "the sform is empty, all zero; the qform is used" in capsys.readouterr().err
        write_like(tmp_path / "like.nii", head, read)
        np.testing.assert_allclose(nib.load(tmp_path / "like.nii").affine, head_affine, atol=1e-5)

    @pytest.mark.skipif(not ODD.is_dir(), reason="the odd inputs are not beside this checkout")
    def test_odd_forms(self, capsys):
        path = ODD / "quaternion_over_1_sform_valid.nii.gz"
        for rules in (PROGRAMS, PREPARED["MRI"], replace(PREPARED["MRI"], prefer="qform")):
            (read,) = read_frames(path, rules)
            stored = stored_header(path).get_sform()
            np.testing.assert_allclose(read.stored_affine, stored, atol=1e-4)
        assert capsys.readouterr().err == ""
        path = ODD / "sform_code1_srow_zero.nii.gz"
        with pytest.raises(InputError, match="--prefer qform"):
            read_frames(path, PREPARED["MRI"])
        for rules in (PROGRAMS, replace(PREPARED["MRI"], prefer="qform")):
            (read,) = read_frames(path, rules)
            np.testing.assert_allclose(read.stored_affine, stored_header(path).get_qform())

    @pytest.mark.parametrize("surplus", [b"\n", b"trailer", b"\0" * 100, b"\0\0x"])
    def test_bytes_behind_the_compressed_data(self, plain, head, surplus, capsys):
        path = plain.with_name("more.nii.gz")
        path.write_bytes(gzip.compress(plain.read_bytes()) + surplus)
        (read,) = read_frames(path, PROGRAMS)
        np.testing.assert_array_equal(read.array, head)
        said = ("bytes behind the compressed data were not read",) if surplus.strip(b"\0") else ()
        assert read.remarks == said and capsys.readouterr().err == ""

    def test_data_in_several_members(self, plain, head):
        path, content = plain.with_name("bgzip.nii.gz"), plain.read_bytes()
        path.write_bytes(gzip.compress(content[:900]) + gzip.compress(content[900:]))
        np.testing.assert_array_equal(read_volume(path).array, head)

    def test_no_orientation_is_assumed_and_said(self, plain, head, capsys):
        change_header(plain, sform_code=0, qform_code=0)
        read = read_volume(plain)
        np.testing.assert_array_equal(read.array, head[::-1])
        np.testing.assert_allclose(read.affine @ [*(np.array(head.shape) - 1) / 2, 1], [0, 0, 0, 1])
        said = capsys.readouterr().err
        assert "names no orientation" in said and "left and right" in said

    @pytest.mark.parametrize("code, unit", [(1, "metre"), (3, "micron")])
    def test_other_units_are_said(self, plain, head_affine, capsys, code, unit):
        read = read_volume(change_header(plain, xyzt_units=code))
        np.testing.assert_allclose(read.affine, head_affine)
        assert unit in capsys.readouterr().err

    def test_qfac_of_0_is_mended_without_a_word(self, plain, head_affine, capsys, caplog):
        caplog.set_level(1, "nibabel.global")
        read = read_volume(change_header(plain, pixdim={0: 0.0}, sform_code=0))
        np.testing.assert_allclose(read.affine, head_affine, atol=1e-5)
        assert capsys.readouterr().err == "" and not caplog.records

    def test_a_volume_travels_between_processes(self, plain, head):
        sent = pickle.loads(pickle.dumps(read_volume(plain)))
        np.testing.assert_array_equal(sent.array, head)
        assert sent.header["sform_code"] == 2

    @pytest.mark.skipif(not PAIRS.is_dir(), reason="the real pairs are not beside this checkout")
    @pytest.mark.parametrize("name", ["template", "coronal", "sagittal"])
    def test_real_pairs(self, tmp_path, name, capsys):
        stem = PAIRS / name / name
        mri, pet = read_pair(f"{stem}_mri_MNI152.nii.gz", f"{stem}_FDG_MNI152.nii.gz")
        assert mri.array.shape == pet.array.shape and capsys.readouterr().err == ""
        write_like(tmp_path / "copy.nii.gz", mri.array, mri)
        assert same_forms(mri.path, tmp_path / "copy.nii.gz")
        source, copy = nib.load(mri.path), nib.load(tmp_path / "copy.nii.gz")
        np.testing.assert_array_equal(copy.get_fdata(), source.get_fdata(dtype=np.float32))


class TestRefusedFiles:
    def refused(self, path, *words):
        """`path` gives the one-line error, with the path first and these words in it."""
        with pytest.raises(InputError) as caught:
            read_volume(path)
        error = caught.value
        assert error.source == str(path) and error.remedy and "\n" not in str(error)
        for word in words:
            assert word in str(error)

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "none.nii.gz", "no such file")

    def test_folder(self, tmp_path):
        self.refused(tmp_path, "is a folder")

    def test_not_downloaded(self, tmp_path):
        path = tmp_path / "scan.nii.gz"
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
        self.refused(path, "not downloaded", "git lfs pull")

    def test_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "scan.nii")
        self.refused(tmp_path / "scan.nii", "no file", "save the data to a file first")

    def test_permission(self, plain, monkeypatch):
        def denied(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(volume, "open", denied, raising=False)
        self.refused(plain, "permission denied")

    def test_broken_disk(self, plain, monkeypatch):
        def broken(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(volume, "open", broken, raising=False)
        self.refused(plain, "Input/output error")

    @pytest.mark.parametrize("name", ["empty.nii", "empty.nii.gz"])
    def test_empty_file(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"")
        self.refused(tmp_path / name, "is empty")

    @pytest.mark.parametrize("name", ["scan.mgz", "scan.img", "scan", "scan.nii.bz2"])
    def test_other_suffix(self, plain, name):
        self.refused(plain.rename(plain.with_name(name)), "does not end in .nii or .nii.gz")

    def test_gzip_named_nii(self, write_nifti, head, head_affine):
        path = write_nifti("head.nii.gz", head, head_affine)
        self.refused(
            path.rename(path.with_name("a.nii")), "gzip-compressed", "rename it to a.nii.gz"
        )

    def test_plain_named_gz(self, plain):
        renamed = plain.rename(plain.with_name("a.nii.gz"))
        self.refused(renamed, "not gzip-compressed", "rename it to a.nii")

    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize(
        "content, word",
        [
            (b"some words", "no NIfTI header"),
            (b"\n<!DOCTYPE html><html>", "web page or XML; copy or download it again"),
            (b"\0" * 128 + b"DICM" + b"\0" * 400, "DICOM"),
            (b"PK\3\4" + b"\0" * 600, "zip"),
            (b"MATRIX72v" + b"\0" * 600, "ECAT"),
            (nib.AnalyzeHeader().binaryblock + b"\0" * 400, "Analyze"),
        ],
    )
    def test_not_a_nifti(self, tmp_path, content, word, compressed):
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(gzip.compress(content) if compressed else content)
        self.refused(path, "not a NIfTI", word)
        if not compressed:
            self.refused(path.rename(tmp_path / "scan.nii"), "not a NIfTI", word)

    def test_half_of_a_pair(self, plain):
        self.refused(change_header(plain, magic=b"ni1"), "two-file NIfTI")

    @pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.9999])
    def test_truncated_gzip(self, write_nifti, head, head_affine, part):
        path = write_nifti("head.nii.gz", head, head_affine)
        content = path.read_bytes()
        path.write_bytes(content[: max(int(part * len(content)), 20)])
        self.refused(path, "cut short")

    def test_something_else_within_the_compressed_data(self, plain):
        path, content = plain.with_name("a.nii.gz"), plain.read_bytes()
        path.write_bytes(gzip.compress(content[:900]) + b"no gzip" + gzip.compress(content[900:]))
        self.refused(path, "cut short or damaged")

    def test_gzip_with_a_wrong_checksum(self, write_nifti, head, head_affine):
        path = write_nifti("head.nii.gz", head, head_affine)
        content = bytearray(path.read_bytes())
        content[-6] ^= 1
        path.write_bytes(content)
        self.refused(path, "damaged")

    @pytest.mark.parametrize("size", [345, 351, 352, 5000, -1])
    def test_truncated_data(self, plain, size):
        plain.write_bytes(plain.read_bytes()[:size])
        self.refused(plain, "NIfTI" if size == 345 else "cut short")

    def test_truncated_data_well_compressed(self, plain):
        path = plain.with_name("short.nii.gz")
        path.write_bytes(gzip.compress(plain.read_bytes()[:-4]))
        self.refused(path, "cut short")

    @pytest.mark.parametrize(
        ("side", "problem"), [(30000, "more than any scan"), (1000, "cut short")]
    )
    def test_header_that_promises_terabytes(self, plain, side, problem):
        change_header(plain, dim=[3, side, side, side, 1, 1, 1, 1])
        self.refused(plain, problem)
        path = plain.with_name("short.nii.gz")
        path.write_bytes(gzip.compress(plain.read_bytes()))
        self.refused(path, problem)

    @pytest.mark.parametrize(
        "fields",
        [
            {"dim": {0: 9}},
            {"dim": {0: 0}},
            {"dim": {2: -22}},
            {"datatype": 999},
            {"datatype": 1},
            {"vox_offset": 0},
            {"vox_offset": 16},
            {"vox_offset": np.nan},
            {"vox_offset": np.inf},
            {"scl_slope": 2, "scl_inter": np.nan},
            {"sform_code": 0, "quatern_b": 0.9, "quatern_c": 0.9},
        ],
    )
    def test_damaged_header(self, plain, fields):
        self.refused(change_header(plain, **fields), "header is damaged")

    @pytest.mark.parametrize("side", [0.001, 1000])
    def test_voxels_that_no_scanner_makes(self, head, write_nifti, side):
        path = write_nifti("odd.nii", head, np.diag([side, side, side, 1.0]))
        with pytest.raises(InputError, match=r"odd\.nii: voxels of .* are usual"):
            read_frames(path, PROGRAMS)

    def test_frames(self, tmp_path, head, head_affine):
        frames = np.stack([head] * 6, axis=-1)
        nib.save(nib.Nifti1Image(frames, head_affine), tmp_path / "dynamic.nii")
        self.refused(tmp_path / "dynamic.nii", "6 frames", "average the frames or choose one first")

    @pytest.mark.parametrize("shape", [(9,), (9, 8), (9, 8, 1), (1, 9, 8), (9, 1, 8, 1)])
    def test_less_than_a_volume(self, tmp_path, shape, head_affine):
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        nib.save(nib.Nifti1Image(values, head_affine), tmp_path / "slice.nii")
        self.refused(tmp_path / "slice.nii", "x".join(f" {n} " for n in shape).strip(), "3-D")

    def test_colour(self, tmp_path, head, head_affine):
        colours = np.zeros(head.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        nib.save(nib.Nifti1Image(colours, head_affine), tmp_path / "rgb.nii")
        self.refused(tmp_path / "rgb.nii", "colour")

    def test_complex(self, tmp_path, head, head_affine):
        nib.save(nib.Nifti1Image(head.astype(np.complex64), head_affine), tmp_path / "c.nii")
        self.refused(tmp_path / "c.nii", "complex")

    def test_nan_and_infinity(self, write_nifti, head, head_affine):
        head[3, 4, 5:7] = np.nan
        self.refused(write_nifti("nan.nii", head, head_affine), f"2 NaN of {head.size} voxels")
        head[9, 9, 9] = -np.inf
        self.refused(write_nifti("both.nii", head, head_affine), "2 NaN and 1 infinite of")

    def test_beyond_float32(self, write_nifti, head, head_affine):
        path = write_nifti("large.nii", head.astype(np.float64) * 1e300, head_affine)
        self.refused(path, "infinite of")

    def test_empty_and_constant(self, write_nifti, head, head_affine):
        self.refused(write_nifti("zero.nii", head * 0, head_affine), "empty", "all voxels are 0")
        self.refused(write_nifti("seven.nii", head * 0 + 7, head_affine), "all voxels are 7")

    @pytest.mark.parametrize("side", [0.0, -1.0, np.nan, np.inf])
    def test_voxel_size(self, plain, side):
        self.refused(change_header(plain, pixdim={2: side}), f"1.5 x {side:g} x 2 mm")

    @pytest.mark.parametrize(
        "fields",
        [
            {"srow_y": [0, 0, 0, 0]},
            {"srow_y": [1.5, 0, 0, 0]},  # parallel to x
            {"srow_z": [0, 0, np.nan, 0]},
        ],
    )
    def test_singular_affine(self, plain, fields):
        self.refused(change_header(plain, **fields), "sform is singular")


class TestRules:
    """One reading; what is a notice to the programs is an error to preparation."""

    @pytest.fixture
    def large(self, write_nifti, head, head_affine):
        """(36, 44, 30) voxels, 162 x 132 x 180 mm, above 0; returns the path and the values."""
        values = np.kron(head, np.ones((2, 2, 2), np.float32)) + 1
        affine = head_affine @ np.diag([3, 3, 3, 1.0])
        return write_nifti("large.nii", values, affine), values

    @pytest.mark.parametrize(
        "fields, said, problem",
        [
            ({"xyzt_units": 1}, "unit of length is metre", "units are metres"),
            ({"qoffset_x": 0}, "the sform is used", "sform and qform differ by"),
            ({"quatern_b": 0.9, "quatern_c": 0.9}, "contradict", "affine is not usable"),
            ({"sform_code": 0, "qform_code": 0}, "assumed LAS", "no orientation"),
            ({"sform_code": 99}, "sform_code is 99, which does not exist", "sform_code is 99"),
            ({"qform_code": -1}, "qform_code is -1, which does not exist", "qform_code is -1"),
        ],
    )
    def test_a_doubt(self, large, capsys, fields, said, problem):
        path = change_header(large[0], **fields)
        read_frames(path, PROGRAMS)
        assert said in capsys.readouterr().err
        with pytest.raises(InputError, match=problem):
            read_frames(path, PREPARED["MRI"])
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("fields", [{"qoffset_x": 30}, {"qform_code": 0}])
    def test_a_form_whose_code_does_not_exist_is_the_form(self, large, fields):
        """Also where the other one says something else, or nothing."""
        path = change_header(large[0], **fields)
        right = read_volume(path).affine
        read = read_volume(change_header(path, sform_code=99))
        np.testing.assert_array_equal(read.affine, right)
        assert read.header["sform_code"] == 2
        (read,) = read_frames(path, replace(PREPARED["MRI"], prefer="sform"))
        np.testing.assert_array_equal(read.affine, right)

    @pytest.mark.parametrize(
        "rules, problem",
        [
            (replace(PROGRAMS, least_voxels=31), "at least 31 slices"),
            (replace(PROGRAMS, most_voxels=1000), "more than any scan"),
            (replace(PROGRAMS, view_mm=(133, 500)), "field of view 132 mm"),
            (replace(PROGRAMS, view_mm=(0, 179)), "field of view 180 mm"),
            (replace(PROGRAMS, voxel_mm=(3.1, 8)), "voxels of 4.5 x 3 x 6 mm"),
        ],
    )
    def test_a_limit(self, large, rules, problem):
        with pytest.raises(InputError, match=problem):
            read_frames(large[0], rules)
        read_frames(large[0], PROGRAMS)

    def test_frames(self, tmp_path, large, head_affine):
        weights = 1, 2, 4
        frames = np.stack([large[1] * weight for weight in weights], axis=-1)
        nib.save(nib.Nifti1Image(frames, head_affine @ np.diag([-3, 3, 3, 1])), tmp_path / "t.nii")
        frames_read = read_frames(tmp_path / "t.nii", replace(PROGRAMS, frames=True))
        assert len(frames_read) == 3
        for one, weight in zip(frames_read, weights, strict=True):
            np.testing.assert_array_equal(one.array, large[1][::-1] * weight)
            assert one.array.flags.c_contiguous and one.affine[0, 0] > 0

    def test_remarks(self, tmp_path, large, capsys):
        values = large[1][..., None].copy()
        values[0, 0, :2] = np.nan
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "t.nii")
        change_header(tmp_path / "t.nii", scl_slope=0)
        (volume,) = read_frames(tmp_path / "t.nii", replace(PROGRAMS, fill_nonfinite=True))
        assert volume.remarks == (
            "the scaling factor is 0, taken as no scaling",
            "a fourth axis of length 1 was dropped",
            "2 voxels that were NaN or infinite set to 0",
        )
        assert not volume.array[0, 0, :2].any() and capsys.readouterr().err == ""


class TestResampling:
    def linear(self, affine, shape):
        """3 + 0.5 x - 0.25 y + 2 z at the voxel centres, which trilinear interpolation keeps."""
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        return (3 + world @ [0.5, -0.25, 2.0]).astype(np.float32)

    def test_a_linear_function_of_world_space(self, write_nifti, head, head_affine, oblique):
        fine = oblique(np.diag([1.4, 1.2, 1.6, 1.0]), 10)
        fine[:3, 3] = -3, -2, -4
        reference = read_volume(write_nifti("r.nii", head[:8, :9, :7], fine, "LAS", codes=(2, 0)))
        moving = read_volume(
            write_nifti("m.nii", self.linear(head_affine, head.shape), head_affine, "PSR")
        )
        result = resample_to(moving, reference)
        expected = self.linear(reference.affine, reference.array.shape)
        np.testing.assert_allclose(result.array, expected, atol=1e-4)
        assert result.array.dtype == np.float32 and result.path == moving.path
        assert result.affine is reference.affine and result.header is reference.header

    @pytest.mark.parametrize("order", [0, 1, 3])
    def test_like_nibabel_inside_and_0_outside(
        self, write_nifti, head, head_affine, oblique, order
    ):
        head = np.pad(head, 8)  # far from the border both treat as outside
        target = oblique(head_affine, 12)
        target[:3, 3] += 5, -3, 2
        moving = read_volume(write_nifti("m.nii", head, head_affine))
        reference = read_volume(write_nifti("r.nii", head, target))
        result = resample_to(moving, reference, order).array
        image = nib.Nifti1Image(head, head_affine)
        expected = nibabel.processing.resample_from_to(
            image, (head.shape, reference.affine), order=order
        ).get_fdata()
        np.testing.assert_allclose(result, expected, atol=2e-3)
        assert expected.max() > 100

    def test_rounding_does_not_empty_the_border(self, write_nifti, head, head_affine):
        moving = read_volume(write_nifti("m.nii", head + 1, head_affine))
        noisy = head_affine.copy()
        noisy[:3, 3] -= 1e-6
        reference = read_volume(write_nifti("r.nii", head, noisy))
        np.testing.assert_allclose(resample_to(moving, reference).array, head + 1, atol=1e-3)

    def test_coarser_sampling_is_smoothed_first(self, write_nifti, head, head_affine, capsys):
        coarse = head_affine @ np.diag([2.0, 1.0, 2.0, 1.0])
        moving = read_volume(write_nifti("m.nii", head, head_affine))
        reference = read_volume(write_nifti("r.nii", head[::2, :, ::2], coarse))
        result = resample_to(moving, reference).array
        sigma = 3**0.5 / 2.354820045
        smooth = ndimage.gaussian_filter(head, (sigma, 0, sigma), mode="constant")
        np.testing.assert_allclose(result, smooth[::2, :, ::2], atol=1e-3)
        assert "2 x 1 x 2 times more coarsely" in capsys.readouterr().err


class TestPairs:
    @pytest.fixture
    def mri(self, write_nifti, head, head_affine):
        return write_nifti("mri.nii.gz", head, head_affine, "LAS")

    def refused(self, mri, pet, source, *words):
        with pytest.raises(InputError) as caught:
            read_pair(mri, pet)
        assert caught.value.source == str(source)
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize("axcodes", ORIENTATIONS)
    def test_one_grid_in_any_order_is_left_alone(
        self, mri, write_nifti, head, head_affine, axcodes, capsys
    ):
        noisy = head_affine + np.random.default_rng(1).normal(0, 1e-5, (4, 4))
        noisy[3] = 0, 0, 0, 1
        pet_path = write_nifti("pet.nii", head[::-1] * 2, noisy, axcodes, codes=(1, 0))
        read, pet = read_pair(mri, pet_path)
        np.testing.assert_array_equal(pet.array, head[::-1] * 2)
        np.testing.assert_array_equal(pet.affine, read.affine)
        assert pet.path == pet_path and capsys.readouterr().err == ""

    def test_shifted_pet_is_resampled(self, mri, write_nifti, head, head_affine, capsys):
        shifted = head_affine.copy()
        shifted[1, 3] += 2  # two voxels to the front
        _, pet = read_pair(mri, write_nifti("pet.nii", head, shifted))
        np.testing.assert_allclose(pet.array[:, 2:], head[:, :-2], atol=1e-3)
        said = capsys.readouterr().err
        assert "pet.nii" in said and "up to 2 mm" in said and "resampled" in said

    def test_pet_of_another_shape(self, mri, write_nifti, head, head_affine, capsys):
        cropped = head_affine.copy()
        cropped[:3, 3] = (head_affine @ [2, 3, 1, 1])[:3]
        path = write_nifti("pet.nii", head[2:-1, 3:-2, 1:-1], cropped, "PSR")
        read, pet = read_pair(mri, path)
        assert pet.array.shape == read.array.shape
        np.testing.assert_allclose(pet.array[2:-1, 3:-2, 1:-1], head[2:-1, 3:-2, 1:-1], atol=1e-3)
        assert not pet.array[0].any() and "15x17x13 against 18x22x15" in capsys.readouterr().err

    @pytest.mark.parametrize("shift", [(500, 0, 0), (25.5, 20, 0)])  # nothing; 2 of 18 * 22
    def test_no_overlap(self, mri, write_nifti, head, head_affine, shift):
        away = head_affine.copy()
        away[:3, 3] += shift
        path = write_nifti("pet.nii", head + 1, away)
        self.refused(
            mri, path, path, "the PET covers 0", "x -14..13", "register the PET", "mri.nii"
        )

    def test_pet_without_signal_in_the_field_of_view(self, mri, write_nifti, head, head_affine):
        away = head_affine.copy()
        away[0, 3] += 13.5
        empty = head.copy()
        empty[:13] = 0
        path = write_nifti("pet.nii", empty, away)
        self.refused(mri, path, path, "0 everywhere inside the MRI")

    def test_nothing_above_0(self, mri, write_nifti, head, head_affine):
        negative = write_nifti("negative.nii", -head, head_affine)
        self.refused(negative, mri, negative, "no voxel of the MRI is above 0")
        self.refused(mri, negative, negative, "no voxel of the PET is above 0")

    def test_standardised_values(self, mri, write_nifti, head, head_affine):
        path = write_nifti("z.nii", (head - head.mean()) / head.std(), head_affine)
        self.refused(path, mri, path, "too much below 0", "standardisation")
        self.refused(mri, path, path, "too much below 0")

    def test_noise_around_0_is_no_background_below_it(self, write_nifti, head, head_affine, capsys):
        """Filtered backprojection: noise of 15 % of the head in all voxels, most of them air."""
        grid = np.pad(np.kron(head, np.ones((2, 2, 2), np.float32)), 12)
        noise = np.random.default_rng(0).normal(0, 0.15 * head[head > 0].mean(), grid.shape)
        noisy = (grid + noise).astype(np.float32)
        assert -noisy[noisy < 0].sum() > 0.1 * noisy[noisy > 0].sum()
        path = write_nifti("fbp.nii", noisy, head_affine)
        mri, pet = read_pair(path, path)
        np.testing.assert_array_equal(mri.array, noisy)
        np.testing.assert_array_equal(pet.array, np.maximum(noisy, 0))

    @pytest.mark.parametrize(
        "standardise",
        [
            lambda v: (v - v.mean()) / v.std(),
            lambda v: np.where(v > 0, (v - v[v > 0].mean()) / v.std(), 0),
            lambda v: 2 * v / v.max() - 1,
            lambda v: np.where(v > 0, v - np.percentile(v, 99), 0),
        ],
        ids=["all", "head", "-1-to-1", "peak-at-0"],
    )
    def test_ways_to_standardise(self, mri, write_nifti, head, head_affine, standardise):
        values = standardise(head.astype(np.float64)).astype(np.float32)
        path = write_nifti("z.nii", values, head_affine)
        self.refused(path, mri, path, "MRI has too much below 0")
        self.refused(mri, path, path, "PET has too much below 0")

    def test_a_few_negative_values(self, write_nifti, head, head_affine, capsys):
        head[0, 0, :5] = -3
        path = write_nifti("ringing.nii", head, head_affine)
        other = write_nifti("other.nii", head, head_affine)
        mri, pet = read_pair(path, other)
        np.testing.assert_array_equal(mri.array, head)
        np.testing.assert_array_equal(pet.array, np.maximum(head, 0))
        said = capsys.readouterr().err
        assert (
            "5 voxels below 0 count as background" in said and "5 voxels below 0 set to 0" in said
        )

    def test_the_same_file_twice_is_said(self, mri, capsys):
        read_pair(mri, mri)
        assert "is the MRI and the PET at once" in capsys.readouterr().err


class TestWriting:
    @pytest.mark.parametrize("axcodes", ORIENTATIONS)
    @pytest.mark.parametrize("codes", [(4, 1), (2, 0), (0, 3), (0, 0)])
    def test_round_trip_keeps_the_grid_to_the_byte(
        self, write_nifti, tmp_path, head, head_affine, oblique, axcodes, codes
    ):
        path = write_nifti("mri.nii.gz", head, oblique(head_affine), axcodes, codes)
        mri = read_volume(path)
        write_like(tmp_path / "fused.nii.gz", mri.array / 255, mri)
        assert same_forms(path, tmp_path / "fused.nii.gz")
        source, fused = nib.load(path), nib.load(tmp_path / "fused.nii.gz")
        assert fused.shape == source.shape
        np.testing.assert_array_equal(fused.affine, source.affine)
        expected = source.get_fdata(dtype=np.float32) / np.float32(255)
        np.testing.assert_array_equal(fused.get_fdata(dtype=np.float32), expected)

    def test_scaled_int16_source_becomes_float32(self, write_nifti, tmp_path, head, head_affine):
        path = write_nifti("mri.nii", head.astype(np.int16), head_affine, "PSR", (1, 4))
        change_header(
            path, scl_slope=0.1, scl_inter=-1, cal_max=900, aux_file=b"lookup", intent_code=3
        )
        mri = read_volume(path)
        values = np.random.default_rng(2).random(head.shape, dtype=np.float32)
        write_like(tmp_path / "fused.nii", values, mri)
        header = stored_header(tmp_path / "fused.nii")
        assert header.get_data_dtype() == np.float32 and header["vox_offset"] == 352
        assert (header["scl_slope"], header["scl_inter"]) == (1, 0)
        assert (header["cal_min"], header["cal_max"]) == (0, 1)
        assert b"fused" in header["descrip"].item() and not header["aux_file"].item()
        assert header["intent_code"] == 0 and same_forms(path, tmp_path / "fused.nii")
        np.testing.assert_array_equal(read_volume(tmp_path / "fused.nii").array, values)
        assert mri.header["cal_max"] == 900  # the stored header is left as it was

    def test_4d_source_gives_a_3d_file(self, tmp_path, head, head_affine):
        nib.save(nib.Nifti1Image(head[..., None], head_affine), tmp_path / "mri.nii")
        mri = read_volume(tmp_path / "mri.nii")
        write_like(tmp_path / "fused.nii", head, mri)
        assert nib.load(tmp_path / "fused.nii").shape == head.shape
        assert same_forms(tmp_path / "mri.nii", tmp_path / "fused.nii")

    def test_nifti2_extensions_and_suffix(self, tmp_path, head, head_affine):
        image = nib.Nifti2Image(head, head_affine)
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient name"))
        nib.save(image, tmp_path / "mri.nii")
        write_like(
            tmp_path / "new" / "deep" / "FUSED.NII.GZ", head, read_volume(tmp_path / "mri.nii")
        )
        written = tmp_path / "new" / "deep" / "FUSED.NII.GZ"
        content = gzip.decompress(written.read_bytes())
        assert content[4:8] == b"n+2\0" and b"patient name" not in content
        np.testing.assert_array_equal(read_volume(written).array, head)

    def test_same_input_same_bytes(self, plain, tmp_path, head):
        mri = read_volume(plain)
        for name in ("one.nii.gz", "two.nii.gz"):
            write_like(tmp_path / name, head, mri)
        assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()

    @pytest.mark.parametrize("name", ["fused.img", "fused", "fused.png"])
    def test_other_suffix(self, plain, tmp_path, head, name):
        with pytest.raises(InputError, match="does not end in .nii or .nii.gz"):
            write_like(tmp_path / name, head, read_volume(plain))

    def test_programming_errors_are_no_input_errors(self, plain, tmp_path, head):
        with pytest.raises(ValueError, match="shape"):
            write_like(tmp_path / "a.nii", head[1:], read_volume(plain))
        with pytest.raises(ValueError, match="NaN"):
            write_like(tmp_path / "a.nii", head * np.nan, read_volume(plain))

    def test_a_failing_write_leaves_the_old_file_and_nothing_else(
        self, plain, tmp_path, head, monkeypatch
    ):
        mri = read_volume(plain)
        write_like(tmp_path / "fused.nii", head, mri)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

        def disk_full(_, path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(volume.nib, "save", disk_full)
        with pytest.raises(InputError, match=r"fused.nii: cannot be written \(No space left"):
            write_like(tmp_path / "fused.nii", head * 2, mri)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    def test_a_failing_rename_leaves_nothing(self, plain, tmp_path, head, monkeypatch):
        mri = read_volume(plain)

        def denied(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "replace", denied)
        with pytest.raises(InputError, match="Permission denied"):
            write_like(tmp_path / "out" / "fused.nii.gz", head, mri)
        assert list((tmp_path / "out").iterdir()) == []

    def test_parent_is_a_file(self, plain, head):
        with pytest.raises(InputError, match="cannot be written"):
            write_like(plain / "fused.nii", head, read_volume(plain))


class TestOutputNames:
    def refused(self, word, *arguments, **options):
        with pytest.raises(InputError) as caught:
            check_output(*arguments, **options)
        assert word in str(caught.value) and caught.value.source == str(arguments[0])

    def test_good_names(self, plain, tmp_path):
        check_output(tmp_path / "new" / "fused.nii.gz", [plain])
        check_output(plain, [tmp_path / "other.nii"], overwrite=True)
        assert not (tmp_path / "new").exists()

    def test_refused_names(self, plain, tmp_path):
        self.refused("does not end in", tmp_path / "fused.png")
        (tmp_path / "folder.nii").mkdir()
        self.refused("is a folder", tmp_path / "folder.nii", overwrite=True)
        self.refused("is already there", plain)
        self.refused("not a folder", plain / "fused.nii")

    def test_an_input_under_any_name(self, plain, tmp_path):
        roundabout = tmp_path / "folder" / ".." / plain.name
        (tmp_path / "folder").mkdir()
        (tmp_path / "link.nii").symlink_to(plain)
        os.link(plain, tmp_path / "hard.nii")
        for name, overwrite in itertools.product((plain, roundabout), (False, True)):
            self.refused("is also an input", name, [plain], overwrite=overwrite)
        self.refused("is also an input", tmp_path / "link.nii", [plain], overwrite=True)
        self.refused("is also an input", tmp_path / "hard.nii", [plain], overwrite=True)
