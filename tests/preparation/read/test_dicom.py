"""Reading DICOM series: test series of other people, a synthetic PET with every defect, and
dcm2niix beside it.
"""

import contextlib
import itertools
import shutil
import subprocess
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from data.phantom.download import write_download
from data.phantom.visit import make_visit
from data.volume import corner_distance
from preparation.read.dicom import read_series
from tests.helpers.dicom_series import SHAPE, enhanced, mr_series, pet_series, write_plane
from tests.helpers.golden import SHARED
from utils.errors import InputError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")

DICOM = SHARED / "data" / "dicom"
needs_series = pytest.mark.skipif(
    not DICOM.is_dir(), reason="the DICOM series are not beside this checkout"
)
ENHANCED_MR, ENHANCED_PET = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.130"


def ras(values, affine):
    """(X, Y, Z[, T]) array in any orientation -> RAS+ array without a last axis of 1, and its
    affine.
    """
    orientation = io_orientation(affine)
    turned = apply_orientation(values, orientation)
    turned = turned[..., 0] if turned.shape[3:] == (1,) else turned
    return turned, affine @ inv_ornt_aff(orientation, values.shape[:3])


def same_image(series, values, affine, tolerance=0.0, corners=1e-4):
    values, affine = ras(values, affine)
    assert series.array.shape == values.shape and series.array.dtype == np.float32
    np.testing.assert_allclose(series.array, values, rtol=0, atol=tolerance)
    assert corner_distance(values.shape[:3], series.affine, affine) < corners


def refused(files, modality, *words, source=None, **options):
    """One line with these words, from the file or the folder of the series."""
    with pytest.raises(InputError) as caught:
        read_series(files, modality, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    if source is not None:
        assert caught.value.source == str(source)
    return str(caught.value)


def dcm2niix(folder, out, *flags):
    """The images that dcm2niix makes of a folder."""
    program = pytest.importorskip(
        "dcm2niix", reason="dcm2niix is not installed (PyPI package dcm2niix)"
    ).bin
    out.mkdir()
    command = [program, "-z", "n", "-b", "n", "-f", "out", *flags, "-o", out, folder]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return [nib.load(file) for file in sorted(out.glob("*.nii"))]


def close_to(image, series):
    """Voxels to 1e-6 of the largest, corners to 0.01 mm."""
    values = np.asarray(image.dataobj, dtype=np.float64)
    same_image(series, values, image.affine, 1e-6 * np.abs(values).max(), 0.01)


@needs_series
class TestOtherPeoplesSeries:
    @pytest.mark.parametrize(
        "name, shape, voxel_mm, flags",
        [
            ("mr_axial_mprage_4slices", (4, 256, 256), (1, 1, 1), ()),
            ("mr_siemens_sagittal", (4, 256, 256), (1, 1, 1), ()),
            ("mr_siemens_enhanced_multiframe", (256, 256, 8), (0.9375, 0.9375, 0.9), ()),
            ("mr_philips_enhanced_multiframe", (8, 256, 256), (1.2, 1, 1), ("-p", "n")),
            ("mr_jpeg_lossless", (4, 256, 256), (1, 1, 1), ()),
            ("mr_jpegls", (4, 256, 256), (1, 1, 1), ()),
            ("mr_jpeg2000", (4, 256, 256), (1, 1, 1), ()),
            ("mr_rle", (4, 256, 256), (1, 1, 1), ()),
            ("mr_ge_4d_two_volumes", (64, 64, 4, 2), (3, 3, 3.6), ()),
            ("mr_ge_epi_15x10_4d", (64, 64, 15, 10), (3.75, 3.75, 5), ()),
        ],
    )
    def test_like_dcm2niix(self, tmp_path, name, shape, voxel_mm, flags):
        series = read_series([DICOM / name], "MRI")
        assert series.array.shape == shape and series.slices == shape[series.slice_axis]
        np.testing.assert_allclose(
            np.linalg.norm(series.affine[:3, :3], axis=0), voxel_mm, rtol=1e-4
        )
        (image,) = dcm2niix(DICOM / name, tmp_path / "out", *flags)
        close_to(image, series)

    def test_slope_and_intercept_of_each_slice(self, tmp_path):
        folder = DICOM / "mr_anisotropic_per_slice_rescale"
        series = read_series([folder], "MRI")
        assert series.array.shape == (64, 28, 4)
        np.testing.assert_allclose(
            np.linalg.norm(series.affine[:3, :3], axis=0), (6.4, 4, 0.5), rtol=1e-4
        )
        planes = sorted(
            (pydicom.dcmread(file) for file in folder.iterdir()),
            key=lambda p: p.ImagePositionPatient[2],
        )
        slopes = [float(plane.RescaleSlope) for plane in planes]
        assert len(set(slopes)) == 4
        for k, plane in enumerate(planes):
            values = plane.pixel_array.T * float(plane.RescaleSlope) + float(plane.RescaleIntercept)
            # rows run from front to back, columns from right to left
            np.testing.assert_allclose(series.array[..., k], values[::-1, ::-1], rtol=1e-6)
        (image,) = dcm2niix(folder, tmp_path / "out")
        close_to(image, series)

    @pytest.mark.parametrize(
        "name, words",
        [
            ("mr_rgb_reject", ("colour", "RGB")),
            ("mr_two_slices_reject", ("only 2 slice positions",)),
            ("mr_two_orientations_reject", ("not parallel", "2 + 2 planes")),
            ("mr_siemens_mosaic_reject", ("mosaic",)),
            (
                "ct_missing_slice_reject",
                ("uneven slice gaps (5 mm, 10 mm after slice 3", "a slice is missing"),
            ),
        ],
    )
    def test_refused(self, name, words):
        refused([DICOM / name], None, *words)
        refused(sorted((DICOM / name).iterdir()), None, *words)

    def test_wrong_modality(self):
        refused([DICOM / "ct_missing_slice_reject"], "MRI", "its modality is CT, not MR")
        refused([DICOM / "synthetic" / "mr_t1"], "PET", "its modality is MR, not PT")

    @pytest.mark.parametrize(
        "name, modality, durations, corners",
        [
            ("pet_static", "PET", (1200,), 1e-5),
            ("pet_dynamic", "PET", (300, 300, 600), 1e-5),
            ("mr_t1", "MRI", None, 1e-9),
        ],
    )
    def test_synthetic_series_against_the_truth(self, tmp_path, name, modality, durations, corners):
        truth = np.load(DICOM / "synthetic" / "truth.npz")
        series = read_series([DICOM / "synthetic" / name], modality)
        pet = modality == "PET"
        values = truth["pet"] if pet else truth["mr"]
        if name == "pet_dynamic":
            values = values[..., None] * np.array([0.9, 1, 1.05])
        tolerance = 0.25 if pet else 0  # half a step of 16 bits
        same_image(
            series, values, truth["pet_affine_dicom" if pet else "mr_affine"], tolerance, corners
        )
        assert series.frame_durations == durations and series.units == ("BQML" if pet else "")
        assert series.notes == ()
        (image,) = dcm2niix(DICOM / "synthetic" / name, tmp_path / "out")
        close_to(image, series)


class TestGoodSeries:
    def test_static_pet(self, tmp_path):
        series = pet_series()
        read = read_series(series.write(tmp_path), "PET")
        same_image(read, series.values, series.affine, 0.25)
        assert (read.frame_durations, read.units, read.slices, read.frames) == (
            (1200.0,),
            "BQML",
            SHAPE[2],
            1,
        )
        assert read.description == "Head" and read.notes == ()

    def test_mr(self, tmp_path):
        series = mr_series()
        read = read_series(series.write(tmp_path), "MRI")
        same_image(read, series.values, series.affine)
        assert (read.frame_durations, read.units, read.slice_axis, read.notes) == (None, "", 0, ())

    def test_order_and_names_do_not_matter(self, tmp_path):
        series = pet_series((300, 300, 600))
        first = read_series(series.write(tmp_path / "a", seed=1), "PET")
        second = read_series(series.write(tmp_path / "b", seed=2)[::-1], "PET")
        assert first.array.tobytes() == second.array.tobytes()
        np.testing.assert_array_equal(first.affine, second.affine)

    def test_copies_text_and_folders_around_it(self, tmp_path):
        series = pet_series()
        files = series.write(tmp_path / "deep" / "series")
        shutil.copy(files[3], files[3].with_name("copy.dcm"))
        shutil.copy(files[4], tmp_path / "deep" / "another copy.IMA")
        (tmp_path / "notes.txt").write_text("words")
        (tmp_path / "ADNI.xml").write_text("<xml/>")
        (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 200)
        read = read_series([tmp_path], "PET")
        same_image(read, series.values, series.affine, 0.25)
        assert read.notes == (
            "files passed over that hold no DICOM image: 1",
            "copies of planes passed over: 2",
        )

    def test_one_uid_for_all(self, tmp_path):
        series = pet_series()
        for plane in series.planes:
            plane.SOPInstanceUID = "1.2.3"
        same_image(read_series(series.write(tmp_path), "PET"), series.values, series.affine, 0.25)

    @pytest.mark.parametrize("whole_meta", [True, False])
    def test_without_preamble(self, tmp_path, whole_meta):
        series = pet_series()
        for file in series.write(tmp_path):
            content = file.read_bytes()
            start = 132 if whole_meta else 132 + 12 + int.from_bytes(content[140:144], "little")
            file.write_bytes(content[start:])
        same_image(read_series([tmp_path], "PET"), series.values, series.affine, 0.25)

    def test_image_id_decides(self, tmp_path):
        wanted, other = pet_series(), pet_series(uid="7", degrees=3)
        for image, number in ((wanted, 11), (other, 22)):
            for index, plane in enumerate(image.planes):
                write_plane(
                    plane, tmp_path / f"ADNI_941_S_0001_PT_Head_Br_{index}_S1_I{number}.dcm"
                )
        refused([tmp_path], "PET", "2 images (18 + 18 planes)", "series, image id", source=tmp_path)
        same_image(read_series([tmp_path], "PET", "I11"), wanted.values, wanted.affine, 0.25)
        same_image(read_series([tmp_path], "PET", "I22"), other.values, other.affine, 0.25)
        refused([tmp_path], "PET", "no file of image I33 (there is I11, I22)", image_id="I33")

    def test_modality_decides(self, tmp_path):
        pet, mr = pet_series(), mr_series()
        pet.write(tmp_path / "pet")
        mr.write(tmp_path / "mr")
        same_image(read_series([tmp_path], "PET"), pet.values, pet.affine, 0.25)
        same_image(read_series([tmp_path], "MRI"), mr.values, mr.affine)

    @pytest.mark.parametrize("degrees", [0, 40, 100])
    def test_any_orientation(self, tmp_path, degrees):
        series = pet_series(degrees=degrees)
        same_image(read_series(series.write(tmp_path), "PET"), series.values, series.affine, 0.25)

    def test_thickness_and_spacing_fields_are_not_believed(self, tmp_path):
        series = mr_series()
        for plane in series.planes:
            plane.SliceThickness, plane.SpacingBetweenSlices, plane.InstanceNumber = "1", "99", 1
        same_image(read_series(series.write(tmp_path), "MRI"), series.values, series.affine)

    def test_twelve_of_sixteen_bits(self, tmp_path):
        series = mr_series()
        for plane in series.planes:
            plane.BitsStored, plane.HighBit = 12, 11
            # the upper four bits are not part of the value
            plane.PixelData = (np.frombuffer(plane.PixelData, "<u2") | 0xA000).tobytes()
        same_image(read_series(series.write(tmp_path), "MRI"), series.values, series.affine)

    def test_intercept_and_slope_of_mr(self, tmp_path):
        series = mr_series()
        for k, plane in enumerate(series.planes):
            plane.RescaleSlope, plane.RescaleIntercept = f"{1 + k / 8}", f"{-k}"
        slices = np.arange(SHAPE[2])[:, None]
        expected = series.values * (1 + slices / 8) - slices
        same_image(read_series(series.write(tmp_path), "MRI"), expected, series.affine)

    def test_real_numbers_as_pixels(self, tmp_path):
        series = mr_series()
        for plane, k in zip(series.planes, range(SHAPE[2]), strict=True):
            del plane.PixelData, plane.BitsStored, plane.HighBit, plane.PixelRepresentation
            plane.BitsAllocated = 32
            plane.FloatPixelData = (series.values[:, :, k, 0].T / 7).astype("<f4").tobytes()
        same_image(
            read_series(series.write(tmp_path), "MRI"), series.values / 7, series.affine, 1e-4
        )

    @pytest.mark.parametrize("syntax", ["RLELossless", "DeflatedExplicitVRLittleEndian"])
    def test_transfer_syntaxes_that_need_nothing_else(self, tmp_path, syntax):
        series = mr_series()
        for plane in series.planes:
            if syntax == "RLELossless":
                plane.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            plane.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
        same_image(read_series(series.write(tmp_path), "MRI"), series.values, series.affine)

    @pytest.mark.parametrize("unit", ["CNTS", "GML", ""])
    def test_other_units_are_said(self, tmp_path, unit):
        series = pet_series()
        for plane in series.planes:
            plane.Units = unit
        read = read_series(series.write(tmp_path), "PET")
        assert read.units == unit and any("not BQML" in note for note in read.notes)

    def test_dcm2niix_agrees(self, tmp_path):
        for name, series, modality in (("pet", pet_series(), "PET"), ("mr", mr_series(), "MRI")):
            files = series.write(tmp_path / name)
            (image,) = dcm2niix(tmp_path / name, tmp_path / f"{name}-out")
            close_to(image, read_series(files, modality))


class TestFrames:
    def test_ordered_by_time(self, tmp_path):
        series = pet_series((300, 300, 600))
        read = read_series(series.write(tmp_path), "PET")
        same_image(read, series.values, series.affine, 0.25)
        assert read.frame_durations == (300, 300, 600) and read.frames == 3 and read.notes == ()

    @pytest.mark.parametrize("left", ["AcquisitionTime", "TemporalPositionIndex", "ImageIndex"])
    def test_any_one_of_the_frame_keys_is_enough(self, tmp_path, left):
        series = pet_series((600, 300))
        for number, plane in enumerate(series.planes):
            frame = number // SHAPE[2]
            plane.FrameReferenceTime = "0"
            plane.InstanceNumber = 1
            if left != "AcquisitionTime":
                plane.AcquisitionTime = "100000"
            if left == "TemporalPositionIndex":
                plane.TemporalPositionIndex = frame + 1
            if left != "ImageIndex":
                plane.ImageIndex = 1
        read = read_series(series.write(tmp_path), "PET")
        same_image(read, series.values, series.affine, 0.25)
        assert read.frame_durations == (600, 300)

    def test_static_series_twice_under_new_uids(self, tmp_path):
        series, again = pet_series(), pet_series()
        for plane in again.planes:
            plane.SOPInstanceUID += ".9"
        series.write(tmp_path / "one")
        again.write(tmp_path / "two")
        refused([tmp_path], "PET", "planes at each position: 2", "promised by the headers: 1")
        for folder, image in (("one", series), ("two", again)):
            for plane in image.planes:
                del plane.SeriesType
            image.write(tmp_path / folder)
        refused(
            [tmp_path], "PET", "2 planes at each slice position and no frame times", source=tmp_path
        )

    def test_mr_series_twice_under_new_uids(self, tmp_path):
        for copy in ("one", "two"):
            series = mr_series()
            for plane in series.planes:
                plane.SOPInstanceUID += f".{len(copy)}{copy}".replace("one", "1").replace(
                    "two", "2"
                )
            series.write(tmp_path / copy)
        refused([tmp_path], "MRI", "no frame times that tell them apart")

    def test_a_frame_is_missing(self, tmp_path):
        series = pet_series((300, 300, 600))
        files = series.write(tmp_path)
        for file in files[SHAPE[2] : 2 * SHAPE[2]]:
            file.unlink()
        refused([tmp_path], "PET", "planes at each position: 2", "promised by the headers: 3")

    def test_a_plane_of_a_frame_is_missing(self, tmp_path):
        files = pet_series((300, 600)).write(tmp_path)
        files[4].unlink()
        refused(
            [tmp_path],
            "PET",
            "unequal numbers of planes (1 at slice 5 of 18",
            "and 2 at most others",
        )

    def test_headers_of_the_dynamic_scan_in_its_average(self, tmp_path):
        series = pet_series()
        for plane in series.planes:
            plane.NumberOfTimeSlices = 6
        refused(
            series.write(tmp_path),
            "PET",
            "planes at each position: 1",
            "promised by the headers: 6",
        )
        read = read_series([tmp_path], "PET", description="Coreg,_Avg,_Std_Img_and_Vox_Siz")
        assert read.frames == 1 and any("taken as their average" in note for note in read.notes)
        for plane in series.planes:
            plane.SeriesDescription = "Co-registered, Averaged"
        assert read_series(series.write(tmp_path), "PET").notes == read.notes

    def test_unknown_and_unequal_durations(self, tmp_path):
        series = pet_series((300, 600))
        del series.planes[3].ActualFrameDuration
        refused(series.write(tmp_path), "PET", "durations of the planes of frame 1 differ")
        for plane in series.planes:
            plane.pop("ActualFrameDuration", None)
        assert read_series(series.write(tmp_path), "PET").frame_durations is None

    def test_dcm2niix_agrees(self, tmp_path):
        series = pet_series((300, 300, 600))
        files = series.write(tmp_path / "in")
        images = dcm2niix(tmp_path / "in", tmp_path / "out")
        assert len(images) == 1
        close_to(images[0], read_series(files, "PET"))


class TestEnhanced:
    @pytest.mark.parametrize("durations", [(1200,), (300, 600)])
    def test_pet_in_one_file(self, tmp_path, durations):
        series = enhanced(pet_series(durations), ENHANCED_PET)
        read = read_series(series.write(tmp_path), "PET")
        same_image(read, series.values, series.affine, 0.25)
        assert read.frame_durations == durations

    def test_one_file_for_each_frame(self, tmp_path):
        series = pet_series((300, 600))
        files = []
        for frame in range(2):
            part = pet_series((300, 600))
            part.planes = part.planes[frame * SHAPE[2] : (frame + 1) * SHAPE[2]]
            files += enhanced(part, ENHANCED_PET).write(tmp_path / str(frame))
        read = read_series(files, "PET")
        same_image(read, series.values, series.affine, 0.25)
        assert read.frame_durations == (300, 600)

    def test_mr(self, tmp_path):
        series = enhanced(mr_series(), ENHANCED_MR)
        same_image(read_series(series.write(tmp_path), "MRI"), series.values, series.affine)

    def test_without_functional_groups(self, tmp_path):
        series = enhanced(mr_series(), ENHANCED_MR)
        del series.planes[0].PerFrameFunctionalGroupsSequence
        refused(series.write(tmp_path), "MRI", "18 frames without a description of each")

    def test_groups_that_do_not_count_up(self, tmp_path):
        series = enhanced(mr_series(), ENHANCED_MR)
        del series.planes[0].PerFrameFunctionalGroupsSequence[3]
        refused(series.write(tmp_path), "MRI", "promises 18 frames and describes 17")

    def test_one_frame_in_a_classic_file(self, tmp_path):
        series = mr_series()
        for plane in series.planes:
            plane.NumberOfFrames = 1
        same_image(read_series(series.write(tmp_path), "MRI"), series.values, series.affine)


def _nudge(plane, keyword, index, change):
    values = [float(value) for value in getattr(plane, keyword)]
    values[index] += change
    setattr(plane, keyword, [f"{value:.10g}" for value in values])


def _along_normal(plane, millimetres):
    directions = np.array([float(value) for value in plane.ImageOrientationPatient])
    normal = np.cross(directions[:3], directions[3:])
    for axis in range(3):
        _nudge(plane, "ImagePositionPatient", axis, millimetres * normal[axis])


def _in_plane(plane, millimetres):
    for axis in range(3):
        _nudge(
            plane,
            "ImagePositionPatient",
            axis,
            millimetres * float(plane.ImageOrientationPatient[axis]),
        )


def _without(keyword):
    return lambda planes: planes[7].pop(keyword)


def _with(keyword, value):
    return lambda planes: setattr(planes[7], keyword, value)


def _smaller(planes):
    planes[7].Rows -= 1
    planes[7].PixelData = planes[7].PixelData[: 2 * planes[7].Rows * planes[7].Columns]


def _tilted(planes):
    for k, plane in enumerate(planes):
        _nudge(plane, "ImagePositionPatient", 1, 0.7 * k)


def _doubled(planes):
    planes[7].ImagePositionPatient = planes[8].ImagePositionPatient


def _all(keyword, value):
    return lambda planes: [setattr(plane, keyword, value) for plane in planes]


DEFECTS = {
    "middle slice missing": (
        lambda planes: planes.pop(7),
        "uneven slice gaps (6.5 mm, 13 mm after slice 7 of 17",
    ),
    "two slices missing": (
        lambda planes: planes.__delitem__(slice(7, 9)),
        "19.5 mm after slice 7 of 16",
    ),
    "last slice missing": (lambda planes: planes.pop(), "17 of 18 slices"),
    "more slices than promised": (_all("NumberOfSlices", 12), "18 slices, not 12"),
    "first slices missing": (lambda planes: planes.__delitem__(slice(0, 3)), "15 of 18 slices"),
    "slice moved 1 mm": (lambda planes: _along_normal(planes[7], 1), "7.5 mm after slice 7 of 18"),
    "slice shifted 3 mm in its plane": (
        lambda planes: _in_plane(planes[7], 3),
        "slice 8 of 18 is 2.9",
    ),
    "end slice shifted 3 mm in its plane": (
        lambda planes: _in_plane(planes[0], 3),
        "slice 1 of 18 is 2.9",
    ),
    "tilted": (_tilted, "sheared by 6"),
    "other size": (_smaller, "2 images (17 + 1 planes) that differ in size"),
    "other orientation": (
        lambda planes: _nudge(planes[7], "ImageOrientationPatient", 1, 0.004),
        "not parallel",
    ),
    "skewed orientation": (
        lambda planes: _nudge(planes[7], "ImageOrientationPatient", 3, 0.2),
        "right angles",
    ),
    "other spacing": (
        _with("PixelSpacing", ["5.5", "5.2"]),
        "PixelSpacing is 5.5 x 5.2 mm and 5.5 x 5 mm",
    ),
    "spacing 0": (_with("PixelSpacing", ["0", "5"]), "PixelSpacing is 0 x 5 mm"),
    "one spacing number": (_with("PixelSpacing", "5"), "PixelSpacing is 5, not 2"),
    "no spacing": (
        _without("PixelSpacing"),
        "no slice position: not an image series (PixelSpacing is missing)",
    ),
    "no position": (_without("ImagePositionPatient"), "no slice position: not an image series"),
    "no orientation": (
        _without("ImageOrientationPatient"),
        "no slice position: not an image series",
    ),
    "slope missing": (_without("RescaleSlope"), "RescaleSlope missing in 1 of 18 slices"),
    "slope empty": (_with("RescaleSlope", None), "RescaleSlope missing in 1 of 18 slices"),
    "slope 0": (_with("RescaleSlope", "0"), "RescaleSlope is 0"),
    "slope negative": (_with("RescaleSlope", "-1"), "RescaleSlope is -1"),
    "no slope at all": (
        lambda planes: [plane.pop("RescaleSlope") for plane in planes],
        "RescaleSlope missing in 18 of 18 slices",
    ),
    "intercept missing": (_without("RescaleIntercept"), "RescaleIntercept missing in 1 of 18"),
    "no pixel data": (_without("PixelData"), "pixel data missing"),
    "pixel data cut short": (
        _with("PixelData", b"\1\2" * 50),
        "pixel data cut short (100 of 1144 bytes)",
    ),
    "all slices at one place": (
        _all("ImagePositionPatient", ["0", "0", "0"]),
        "only 1 slice position in 18 planes",
    ),
    "one slice at the place of another": (
        _doubled,
        "unequal numbers of planes (2 at slice 8 of 17",
    ),
    "position empty": (_with("ImagePositionPatient", None), "no slice position"),
    "colour": (_all("SamplesPerPixel", 3), "colour"),
    "palette": (_with("PhotometricInterpretation", "PALETTE COLOR"), "colour (PALETTE COLOR)"),
    "UIH's grid of frames": (_all("ImageType", ["ORIGINAL", "PRIMARY", "M", "VFRAME"]), "mosaic"),
    "UIH's grid by its private elements": (
        lambda planes: [plane.add_new((0x0065, 0x1050), "DS", "40") for plane in planes],
        "mosaic",
    ),
    "Siemens' mosaic by its private element": (
        lambda planes: [plane.add_new((0x0019, 0x100A), "UN", b"\x28\0") for plane in planes],
        "mosaic",
    ),
    "not corrected for attenuation": (
        _all("CorrectedImage", ["DECY", "NORM"]),
        "not corrected for attenuation (CorrectedImage is DECY, NORM, without ATTN); choose",
    ),
    "uncorrected by the method": (
        _all("AttenuationCorrectionMethod", "NONE"),
        "not corrected for attenuation (AttenuationCorrectionMethod is NONE)",
    ),
    "mosaic": (_all("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
    "magnitude and phase": (
        _with("ImageType", ["ORIGINAL", "PRIMARY", "P"]),
        "differ in image type",
    ),
    "second echo": (_with("EchoTime", "9"), "differ in echo time"),
    "black": (
        lambda planes: [setattr(p, "PixelData", bytes(len(p.PixelData))) for p in planes],
        "it is empty, all voxels are 0",
    ),
}


class TestSeriesAsPeopleHaveThem:
    """Found in public series and bug reports; each is made of a good series."""

    def test_monochrome1_changes_no_value(self, tmp_path):
        series = pet_series()
        for plane in series.planes:
            plane.PhotometricInterpretation = "MONOCHROME1"
        read = read_series(series.write(tmp_path), "PET")
        same_image(read, series.values, series.affine, 0.25)
        (note,) = read.notes
        assert "MONOCHROME1" in note and ": 18;" in note

    @pytest.mark.parametrize(
        "sop_class, name",
        [
            ("1.2.840.10008.5.1.4.1.1.66", "Raw Data Storage"),
            ("1.2.840.10008.5.1.4.1.1.4.2", "MR Spectroscopy Storage"),
            ("1.3.46.670589.11.0.0.12.2", "1.3.46.670589.11.0.0.12.2"),
        ],
        ids=["raw-data", "spectroscopy", "private"],
    )
    def test_objects_without_an_image_beside_it(self, tmp_path, sop_class, name):
        series, raw = mr_series(), mr_series().planes[0]
        raw.SOPClassUID = raw.file_meta.MediaStorageSOPClassUID = sop_class
        raw.SOPInstanceUID += ".66"
        raw.Rows, raw.Columns = 1, 1
        for keyword in ("PixelData", "ImagePositionPatient", "BitsAllocated"):
            del raw[keyword]
        series.write(tmp_path)
        write_plane(raw, tmp_path / "XX_0001.dcm")
        read = read_series([tmp_path], "MRI")
        same_image(read, series.values, series.affine)
        assert read.notes == (f"files passed over that hold no DICOM image: 1 ({name})",)

    def test_a_private_class_with_pixels_is_an_image(self, tmp_path):
        series = mr_series()
        for plane in series.planes:
            plane.SOPClassUID = plane.file_meta.MediaStorageSOPClassUID = "1.3.46.670589.11.0.0.1"
        same_image(read_series(series.write(tmp_path), "MRI"), series.values, series.affine)

    def test_another_modality_beside_it_is_said(self, tmp_path):
        series = pet_series()
        series.write(tmp_path / "pet")
        mr_series().write(tmp_path / "mr")
        (note,) = read_series([tmp_path], "PET").notes
        assert note == "planes of another modality passed over: 18 (MR)"

    def test_a_series_uid_for_each_plane(self, tmp_path):
        series = mr_series()
        for number, plane in enumerate(series.planes):
            plane.SeriesInstanceUID += f".{number + 1}"
        files = series.write(tmp_path)
        read = read_series(files, "MRI")
        same_image(read, series.values, series.affine)
        assert read.notes == (
            "every plane has a SeriesInstanceUID of its own: taken as one series",
        )
        files[7].unlink()
        refused([tmp_path], "MRI", "a slice is missing")

    def test_an_image_id_for_each_plane(self, tmp_path):
        series = mr_series()
        for number, plane in enumerate(series.planes):
            write_plane(plane, tmp_path / f"head_I{number + 1}.dcm")
        same_image(read_series([tmp_path], "MRI"), series.values, series.affine)

    def test_many_images_in_a_short_line(self, tmp_path):
        series = mr_series()
        for number, plane in enumerate(series.planes):
            plane.SeriesInstanceUID += f".{number % 9}"
        line = refused(series.write(tmp_path), "MRI", "9 images (2 + 2 + 2 + 2 + ... planes)")
        assert "image id" not in line.split(";")[1]

    @pytest.mark.parametrize("off", [3e-6, 0.005])
    def test_an_echo_time_rounded_otherwise_in_one_slice(self, tmp_path, off):
        series = mr_series()
        series.planes[7].EchoTime = f"{3.1 + off:.7g}"
        same_image(read_series(series.write(tmp_path), "MRI"), series.values, series.affine)
        for plane in series.planes[:9]:
            plane.EchoTime = "4.76"
        refused(series.write(tmp_path), "MRI", "2 images (9 + 9 planes) that differ in echo time")

    def test_frame_times_rounded_otherwise_in_one_slice(self, tmp_path):
        series = pet_series((300, 600))
        series.planes[7].FrameReferenceTime = "150000.003"
        series.planes[7].ActualFrameDuration = "300000"
        for plane in series.planes[:9]:
            plane.AcquisitionTime = "100000.000"
        read = read_series(series.write(tmp_path), "PET")
        same_image(read, series.values, series.affine, 0.25)
        assert read.frame_durations == (300, 600)
        for plane in series.planes:
            plane.FrameReferenceTime = "0"
        read = read_series(series.write(tmp_path), "PET")  # by the acquisition time
        same_image(read, series.values, series.affine, 0.25)

    def test_slices_cut_out_of_a_longer_scan(self, tmp_path):
        series = pet_series()
        for plane in series.planes:
            plane.NumberOfSlices = 335
        files = series.write(tmp_path)
        refused(files, "PET", "18 of 335 slices; ", "pass --fewer-slices")
        read = read_series(files, "PET", fewer_slices=True)
        same_image(read, series.values, series.affine, 0.25)
        assert read.notes == ("18 of 335 slices are there, as allowed",)
        for plane in series.planes:
            plane.NumberOfSlices = 12
        refused(series.write(tmp_path), "PET", "18 slices, not 12", fewer_slices=True)

    def test_a_corrected_pet_is_taken_before_an_uncorrected_one(self, tmp_path):
        corrected, uncorrected = pet_series(), pet_series(uid="7")
        for plane in corrected.planes:
            plane.CorrectedImage = ["DECY", "ATTN", "SCAT"]
        for plane in uncorrected.planes:
            plane.CorrectedImage = "DECY"
            plane.RescaleSlope = "3"
        corrected.write(tmp_path / "b")
        uncorrected.write(tmp_path / "a")
        read = read_series([tmp_path], "PET")
        same_image(read, corrected.values, corrected.affine, 0.25)
        assert read.notes == ("planes that are not corrected for attenuation passed over: 18",)

    def test_an_enhanced_pet_that_is_not_corrected(self, tmp_path):
        series = enhanced(pet_series(), ENHANCED_PET)
        series.planes[0].AttenuationCorrected = "NO"
        refused(series.write(tmp_path), "PET", "not corrected for attenuation")
        series.planes[0].AttenuationCorrected = "YES"
        same_image(read_series(series.write(tmp_path), "PET"), series.values, series.affine, 0.25)

    @pytest.mark.parametrize("kind", ["classic", "enhanced"])
    def test_deflated_frames(self, tmp_path, kind):
        series = mr_series()
        if kind == "enhanced":
            series = enhanced(series, ENHANCED_MR)
        for plane in series.planes:
            frames = int(plane.get("NumberOfFrames", 1))
            size = len(plane.PixelData) // frames
            parts = [plane.PixelData[i * size : (i + 1) * size] for i in range(frames)]
            plane.PixelData = pydicom.encaps.encapsulate([_deflated(part) for part in parts])
            plane["PixelData"].VR = "OB"
            plane["PixelData"].is_undefined_length = True
            plane.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        files = series.write(tmp_path)
        for file in files:  # pydicom does not write it
            content = file.read_bytes()
            assert content.count(b"1.2.840.10008.1.2.4.90") == 1
            other = content.replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.8.1\0")
            file.write_bytes(other)
        same_image(read_series(files, "MRI"), series.values, series.affine)
        whole = files[0].read_bytes()
        for damaged in (whole[:-60], whole[:-40] + b"\xff" * 32 + whole[-8:]):
            files[0].write_bytes(damaged)
            refused(files, "MRI", "cut short", source=files[0])

    def test_syntaxes_that_no_package_reads(self, tmp_path):
        series = mr_series()
        series.planes[7].PixelData = pydicom.encaps.encapsulate([b"\1\2\3\4"])
        series.planes[7]["PixelData"].is_undefined_length = True
        series.planes[7].file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        line = refused(series.write(tmp_path), "MRI", "MPEG2", "no decoder", "without compression")
        assert "pip install" not in line

    def test_what_is_named_like_the_images_is_never_passed_over(self, tmp_path):
        files = mr_series().write(tmp_path)
        for file in files:
            file.rename(file.with_suffix(".MR"))
        (tmp_path / "0099.MR").write_bytes(b"")
        refused([tmp_path], "MRI", "no DICOM file, as the others", source=tmp_path / "0099.MR")


def _deflated(data: bytes) -> bytes:
    """A raw DEFLATE stream of even length."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = deflate.compress(data) + deflate.flush()
    return stream + b"\0" * (len(stream) % 2)


class TestDefects:
    @pytest.mark.parametrize("defect", DEFECTS)
    def test_is_caught(self, tmp_path, defect):
        spoil, words = DEFECTS[defect]
        series = pet_series()
        spoil(series.planes)
        line = refused(series.write(tmp_path), "PET", words)
        assert str(tmp_path) in line

    def test_which_file(self, tmp_path):
        series = pet_series()
        series.planes[7].RescaleSlope = "0"
        files = series.write(tmp_path)
        refused(files, "PET", source=files[7])
        files[7].unlink()
        assert f"before {files[8].name}" in refused(files[:7] + files[8:], "PET", source=tmp_path)

    def test_small_disagreement_is_rounding(self, tmp_path):
        series = pet_series()
        generator = np.random.default_rng(0)
        for plane, axis in itertools.product(series.planes, range(3)):
            _nudge(plane, "ImagePositionPatient", axis, generator.uniform(-0.005, 0.005))
        same_image(
            read_series(series.write(tmp_path), "PET"),
            series.values,
            series.affine,
            0.25,
            corners=0.02,
        )

    def test_missing_number_of_slices_is_said(self, tmp_path):
        series = pet_series()
        for plane in series.planes:
            del plane.NumberOfSlices
        assert any(
            "end slices cannot be seen" in note
            for note in read_series(series.write(tmp_path), "PET").notes
        )

    def test_some_slopes_in_mr(self, tmp_path):
        series = mr_series()
        series.planes[2].RescaleSlope = "2"
        refused(series.write(tmp_path), "MRI", "RescaleSlope missing in 17 of 18 slices")

    @pytest.mark.parametrize("name, word", [("0007.dcm", "is empty"), ("noname", "is empty")])
    def test_empty_file(self, tmp_path, name, word):
        pet_series().write(tmp_path)
        (tmp_path / name).write_bytes(b"")
        refused([tmp_path], "PET", word, source=tmp_path / name)

    def test_web_page_as_a_slice(self, tmp_path):
        pet_series().write(tmp_path)
        (tmp_path / "0007.dcm").write_text("<html>sorry</html>")
        refused([tmp_path], "PET", "no DICOM file but a web page", source=tmp_path / "0007.dcm")

    @pytest.mark.parametrize("size", [133, 200, 400, 700])
    def test_header_cut_short(self, tmp_path, size):
        files = pet_series().write(tmp_path)
        files[7].write_bytes(files[7].read_bytes()[:size])
        refused(files, "PET", source=files[7])

    def test_every_length_of_a_cut_file_is_refused(self, tmp_path):
        files = pet_series().write(tmp_path)
        content = files[7].read_bytes()
        for size in np.linspace(1, len(content) - 2, 25, dtype=int):
            files[7].write_bytes(content[:size])
            refused(files, "PET", str(tmp_path))

    def test_malformed_number(self, tmp_path):
        files = pet_series().write(tmp_path)
        content = files[7].read_bytes()
        assert content.count(b"5.5\\5 ") == 1
        files[7].write_bytes(content.replace(b"5.5\\5 ", b"5,5\\5 "))
        refused(files, "PET", "PixelSpacing", source=files[7])

    def test_compressed_data_cut_short(self, tmp_path):
        series = mr_series()
        series.planes[7].compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        files = series.write(tmp_path)
        files[7].write_bytes(files[7].read_bytes()[:-60])
        refused(files, "MRI", "pixel data", "cut short", source=files[7])

    def test_damage_in_compressed_data_is_one_line_and_nothing_else(self, tmp_path, capfd):
        """A decoder in Rust panics, with a backtrace; RLE goes by pydicom's own."""
        series = mr_series()
        for plane in series.planes:
            plane.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        files = series.write(tmp_path)
        content = bytearray(files[7].read_bytes())
        content[-200:-10] = b"\x7f" * 190
        files[7].write_bytes(content)
        refused(files, "MRI", "RLE", "cut short or damaged", source=files[7])
        assert capfd.readouterr() == ("", "")

    def test_a_decoder_that_panics(self, tmp_path, monkeypatch):
        class PanicException(BaseException):
            """As of pyo3."""

        def pixel_array(_):
            raise PanicException("index out of bounds")

        monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(pixel_array))
        refused(mr_series().write(tmp_path), "MRI", "cut short or damaged")

    def test_no_decoder(self, tmp_path, monkeypatch):
        series = mr_series()
        files = series.write(tmp_path)
        series.planes[7].compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        series.planes[7].file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        write_plane(series.planes[7], files[7])
        decoder = type(pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1))
        monkeypatch.setattr(decoder, "is_available", property(lambda _: False))
        refused(
            files,
            "MRI",
            "JPEG Lossless",
            "no decoder",
            'pip install "pydicom[pixeldata]"',
            source=files[7],
        )

    def test_no_pydicom(self, tmp_path, monkeypatch):
        files = pet_series().write(tmp_path)
        monkeypatch.setitem(sys.modules, "pydicom", None)
        refused(
            files, "PET", "pydicom: it is not installed", "pip install -r requirements-prep.txt"
        )

    def test_damage_anywhere_gives_one_line_or_an_image(self, tmp_path):
        generator = np.random.default_rng(0)
        for name, series, modality in (
            ("pet", pet_series(), "PET"),
            ("enhanced", enhanced(pet_series((300, 600)), ENHANCED_PET), "PET"),
        ):
            files = series.write(tmp_path / name)
            content = files[0].read_bytes()
            for _ in range(40):
                damaged = bytearray(content)
                for place in generator.integers(128, min(1500, len(content)), 4):
                    damaged[place] = generator.integers(256)
                files[0].write_bytes(damaged)
                with contextlib.suppress(InputError):
                    read_series(files, modality)


class TestNothingThere:
    @pytest.mark.parametrize(
        "name, content, word",
        [
            ("scan.v", b"MATRIX72v" + b"\0" * 600, "ECAT"),
            ("scan.v", b"\0" * 600, "ECAT"),
            ("scan.i", b"\0" * 600, "Interfile"),
            ("scan.i.hdr", b"!INTERFILE :=\n", "Interfile"),
            ("scan.zip", b"PK\3\4" + b"\0" * 99, "archive; unpack it first"),
            ("scan.tar.gz", b"\x1f\x8b" + b"\0" * 99, "archive"),
            ("DICOMDIR", b"\0" * 128 + b"DICM", "DICOMDIR"),
            ("notes.txt", b"words", "no DICOM file"),
        ],
    )
    def test_says_what_lies_there(self, tmp_path, name, content, word):
        (tmp_path / name).write_bytes(content)
        refused([tmp_path], "PET", word)

    def test_empty_folder_and_missing_file(self, tmp_path):
        refused([tmp_path], "PET", "no DICOM file")
        refused([tmp_path / "none.dcm"], "PET", "no such file")

    def test_report(self, tmp_path):
        plane = pet_series().planes[0]
        for keyword in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
            del plane[keyword]
        plane.SOPClassUID = plane.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedSRStorage
        write_plane(plane, tmp_path / "report.dcm")
        refused([tmp_path], "PET", "no slice position: not an image series (Enhanced SR Storage)")


class TestSyntheticDownload:
    def test_against_the_truth_and_dcm2niix(self, tmp_path):
        truth = write_download(tmp_path / "download", subjects=2, seed=3, voxel_mm=6)
        for (name, facts), index in zip(truth["subjects"].items(), range(2), strict=True):
            visit = make_visit(3, index, 6, dynamic=facts["dynamic"])
            for modality, values in (("MRI", visit.mri), ("PET", visit.frames)):
                kind = modality.lower()
                (folder,) = (tmp_path / "download" / "ADNI" / name).glob(
                    f"*/*/{facts[f'{kind}_id']}"
                )
                series = read_series([folder], modality, facts[f"{kind}_id"])
                tolerance = values.max() / 60000 if modality == "PET" else 0
                same_image(series, values, np.array(facts[f"{kind}_affine"]), tolerance, 1e-5)
                assert series.frame_durations == (
                    tuple(facts["durations_s"]) if modality == "PET" else None
                )
                (image,) = dcm2niix(folder, tmp_path / f"{name}-{kind}")
                close_to(image, series)
