"""From a scan to a volume: DICOM scans, and what can be a head at all."""

import nibabel as nib
import numpy as np
import pytest

from data.volume import PREPARED, check_grid, corner_distance
from preparation.read.scan import Allowed, load_scan
from tests.helpers.dicom_series import SHAPE, enhanced, mr_series, pet_series, write_plane
from tests.helpers.nifti_scans import content, head, refused, scan_of, write
from utils.errors import InputError


def dicom_scan(series, folder, modality="PET", **fields):
    return scan_of(*series.write(folder), modality=modality, kind="dicom", **fields)


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

    def test_dynamic_pet_with_a_blank_frame(self, tmp_path):
        series = pet_series((10, 300, 600))
        for plane in series.planes[: SHAPE[2]]:
            plane.PixelData = bytes(len(plane.PixelData))
        loaded = load_scan(dicom_scan(series, tmp_path))
        same_place(loaded.volume, series, series.values @ [0, 1 / 3, 2 / 3], 0.25)
        assert "frame 1 of 3 left out: one value everywhere" in loaded.notes

    def test_the_head_of_a_whole_body_pet(self, tmp_path):
        series = pet_series()
        for plane in series.planes:
            plane.NumberOfSlices = 335
        scan = dicom_scan(series, tmp_path / "head")
        refused(scan, "18 of 335 slices", "--fewer-slices")
        loaded = load_scan(scan, allowed=Allowed(fewer_slices=True))
        same_place(loaded.volume, series, series.values[..., 0], 0.25)
        for k, plane in enumerate(series.planes):
            plane.NumberOfSlices = SHAPE[2]
            plane.ImagePositionPatient = [0, 0, 65 * k]
            plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        refused(
            dicom_scan(series, tmp_path / "body"),
            "18 slices over 1170 mm, a whole body",
            "another folder and pass --fewer-slices",
        )

    def test_an_mri_with_fewer_slices_than_its_xml_says(self, tmp_path):
        series = mr_series()
        scan = dicom_scan(series, tmp_path, "MRI", matrix_z=20)
        refused(scan, "18 of 20 slices (Matrix Z of its XML)", "--fewer-slices")
        (note,) = load_scan(scan, allowed=Allowed(fewer_slices=True)).notes
        assert note.startswith("18 of 20 slices")

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

    @pytest.mark.parametrize("degrees", [0, 20, 50])
    def test_the_neck_of_a_complete_oblique_mri(self, tmp_path, degrees):
        """Tissue runs out of the stack below; above, the same would be a cut."""
        turned = np.deg2rad(degrees)
        axes = np.array([[1, 0, 0], [0, np.cos(turned), np.sin(turned)]])
        normal = np.cross(*axes)
        series = mr_series()
        for k, plane in enumerate(series.planes):
            filled = np.zeros((SHAPE[1], SHAPE[0]), "<u2")
            if k < 14:
                filled[6:16, 6:20] = 400
            plane.PixelData = filled.tobytes()
            plane.ImageOrientationPatient = [f"{value:.8g}" for value in axes.ravel()]
            plane.ImagePositionPatient = [f"{value:.8g}" for value in 6.5 * k * normal]
        assert load_scan(dicom_scan(series, tmp_path / "whole", "MRI")).notes == ()
        for k, plane in enumerate(series.planes):
            plane.ImagePositionPatient = [f"{value:.8g}" for value in -6.5 * k * normal]
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
            check_grid("a.nii", shape, np.diag([voxel_mm] * 3 + [1]), PREPARED["MRI"])
        assert caught.value.source == "a.nii"

    @pytest.mark.parametrize(
        "shape, voxel_mm", [((16, 20, 20), 6.5), ((256, 256, 170), 1), ((500, 500, 500), 1)]
    )
    def test_heads(self, shape, voxel_mm):
        check_grid("a.nii", shape, np.diag([voxel_mm] * 3 + [1]), PREPARED["MRI"])

    def test_a_wide_scanner(self, tmp_path):
        """The whole ring of a PET scanner, also as NIfTI; no MRI is that wide."""
        with pytest.raises(InputError, match="684 mm"):
            check_grid("a", (168, 168, 81), np.diag([684 / 168, 684 / 168, 2, 1]), PREPARED["MRI"])
        with pytest.raises(InputError, match="1008 mm .* 100 to 1000"):
            check_grid("a", (168, 168, 81), np.diag([6, 6, 2, 1]), PREPARED["PET"])
        wide = np.repeat(head(), 4, axis=0)
        path = write(tmp_path / "a.nii", wide, np.diag([684 / len(wide), 5.5, 6.5, 1]))
        np.testing.assert_array_equal(load_scan(scan_of(path, modality="PET")).volume.array, wide)
        with pytest.raises(InputError, match="684 mm"):
            load_scan(scan_of(path))
