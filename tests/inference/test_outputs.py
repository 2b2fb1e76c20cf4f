"""What is written of a fused pair: RGB NIfTI as others read it, DICOM on the MRI's own planes."""

import argparse
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.volume import read_volume
from inference.fuse import Fusion, Job
from inference.outputs import Outputs, choose_outputs
from tests.helpers.dicom_series import mr_series, pet_series
from utils.colour import colour_map
from utils.errors import InputError

HOT = colour_map("hot")
RECORD = {"Description": "fused"}


def fusion_of(mri) -> Fusion:
    """The MRI as fused volume, with uptake that rises to the front."""
    scaled = mri.array / mri.array.max()
    pet = np.broadcast_to(np.linspace(0, 1, scaled.shape[1])[:, None], scaled.shape)
    return Fusion(scaled, scaled, pet.astype(np.float32), scaled > 0, 0.0, [(0, 1), (0, 1)])


def written(mri_file: Path, folder: Path, **options):
    """(MRI, fusion, {kind: file}) of outputs that were written."""
    job = Job("one", mri_file, mri_file, folder / "fused.nii.gz")
    mri = read_volume(mri_file)
    outputs, fusion = Outputs(HOT, **options), fusion_of(mri)
    outputs.check(job, overwrite=False)
    files = outputs.files(job)
    assert outputs.write(job, fusion, mri, RECORD) == list(files.values())
    return mri, fusion, files


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_colour_nifti_lies_on_the_mri(head, head_affine, write_nifti, tmp_path, kind):
    file = write_nifti("m.nii.gz", head, head_affine, "PSR", codes=(4, 1), kind=kind)
    mri, fusion, files = written(file, tmp_path / "out", with_colour=True)
    image, source = nib.load(files["colour"]), nib.load(file)
    assert type(image) is kind
    assert image.header["datatype"] == 128 and image.header["bitpix"] == 24  # DT_RGB24
    for field in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
        assert np.array_equal(image.header[field], source.header[field]), field
    assert np.array_equal(image.affine, source.affine) and image.shape == source.shape
    stored = np.ascontiguousarray(image.dataobj)
    rgb = stored.view(np.uint8).reshape(*stored.shape, 3)
    world = nib.as_closest_canonical(nib.Nifti1Image(rgb, image.affine))
    assert np.array_equal(np.asarray(world.dataobj), HOT.paint(fusion.fused, fusion.pet))


def test_simpleitk_reads_the_colours_in_their_place(head, head_affine, write_nifti, tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    file = write_nifti("m.nii.gz", head, head_affine, "LAS")
    _, _, files = written(file, tmp_path / "out", with_colour=True)
    image, source = sitk.ReadImage(str(files["colour"])), sitk.ReadImage(str(file))
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert image.GetOrigin() == source.GetOrigin()
    assert image.GetDirection() == source.GetDirection()
    there = np.asarray(nib.load(files["colour"]).dataobj)
    assert np.array_equal(sitk.GetArrayFromImage(image)[..., 0].T, there["R"])


def nifti_of(series, folder: Path) -> Path:
    """What dcm2niix makes of a series: its third axis the planes, rows upside down."""
    values = series.values[..., 0][:, ::-1]
    affine = series.affine.copy()
    affine[:, 3] += affine[:, 1] * (values.shape[1] - 1)
    affine[:, 1] *= -1
    path = folder / "mri.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return path


@pytest.mark.parametrize("make", [mr_series, pet_series])  # sagittal; axial and oblique
def test_dicom_planes_are_those_of_the_mri(tmp_path, make):
    pydicom = pytest.importorskip("pydicom")
    series = make()
    series.write(tmp_path / "series")
    file = nifti_of(series, tmp_path)
    options = {"with_dicom": True, "series": tmp_path / "series"}
    _, fusion, files = written(file, tmp_path / "out", **options)
    planes = [pydicom.dcmread(path) for path in sorted(files["dicom"].iterdir())]
    assert len(planes) == len(series.planes)

    def place(plane):
        return tuple(np.round(np.array(plane.ImagePositionPatient, float), 3))

    mine = {place(plane): plane for plane in planes}
    grey = np.round(series.values / series.values.max() * 255)
    for k, original in enumerate(series.planes):
        plane = mine[place(original)]
        assert plane.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        assert plane.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert plane.SeriesInstanceUID != original.SeriesInstanceUID
        assert plane.PatientName == plane.PatientID == plane.PatientBirthDate == ""
        for keyword in ("ImageOrientationPatient", "PixelSpacing"):
            there = [np.array(p[keyword].value, float) for p in (plane, original)]
            np.testing.assert_allclose(*there, atol=1e-6)
        rgb = plane.pixel_array
        assert rgb.shape == (original.Rows, original.Columns, 3)
        # A voxel that is fused is as light as its grey, so black stays black and the rest is not.
        assert ((rgb.max(axis=-1) > 0) == (grey[:, :, k, 0].T > 0)).all()
    assert len({plane.SOPInstanceUID for plane in planes}) == len(planes)


def test_patient_and_study_are_taken_over_when_asked_for(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    series = mr_series()
    series.write(tmp_path / "series")
    options = {"with_dicom": True, "series": tmp_path / "series", "keep_patient": True}
    _, _, files = written(nifti_of(series, tmp_path), tmp_path / "out", **options)
    plane = pydicom.dcmread(files["dicom"] / "0001.dcm")
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID"):
        assert plane[keyword].value == series.planes[0][keyword].value


def test_a_series_that_lies_elsewhere_is_refused_and_leaves_nothing(tmp_path):
    pytest.importorskip("pydicom")
    series = mr_series()
    file = nifti_of(series, tmp_path)
    for plane in series.planes:
        plane.ImagePositionPatient = [float(v) + 1 for v in plane.ImagePositionPatient]
    series.write(tmp_path / "series")
    with pytest.raises(InputError, match="series: its planes are not those"):
        written(file, tmp_path / "out", with_dicom=True, series=tmp_path / "series")
    assert not (tmp_path / "out" / "fused_dicom").exists()


def test_dcm2niix_brings_the_planes_back_to_the_mri(head, head_affine, oblique, tmp_path):
    program = pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    pytest.importorskip("pydicom")
    affine = oblique(head_affine)
    file = tmp_path / "mri.nii.gz"
    nib.save(nib.Nifti1Image(head, affine), file)
    _, _, files = written(file, tmp_path / "out", with_dicom=True)
    command = [program.bin, "-z", "y", "-f", "back", "-o", tmp_path, files["dicom"]]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    (path,) = tmp_path.glob("back*.nii.gz")
    back = nib.as_closest_canonical(nib.load(path))
    assert back.header["datatype"] == 128
    np.testing.assert_allclose(back.affine, affine, atol=1e-3)
    there = np.ascontiguousarray(back.dataobj).view(np.uint8).reshape(*head.shape, 3)
    assert ((there.max(axis=-1) > 0) == (np.round(head / head.max() * 255) > 0)).all()


@pytest.mark.parametrize("name", ["fused_colour.nii.gz", "fused_dicom"])
def test_what_is_there_is_not_replaced_unasked(head, head_affine, write_nifti, tmp_path, name):
    file = write_nifti("m.nii.gz", head, head_affine)
    options = {"with_colour": True, "with_dicom": True}
    _, _, files = written(file, tmp_path / "out", **options)
    for path in files.values():
        if path.name != name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=f"{name}: is already there"):
        written(file, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"keep_patient": True, "dicom": ""}, "--keep-patient"),
        ({"keep_patient": True}, "--keep-patient"),
        ({"dicom": "series", "mri": None}, "--dicom: one DICOM series for many"),
        ({"dicom": "series"}, "series: cannot be read"),
        ({"layout": "bids"}, "--layout: bids is for a data set"),
        ({"colour": "rainbow"}, "--colour: no colour map rainbow"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(flags, words):
    given = {"colour": None, "dicom": None, "keep_patient": False, "page": False}
    given |= {"mri": Path("m.nii"), "layout": "plain", "data": None, "output": None} | flags
    with pytest.raises(InputError, match=words):
        choose_outputs(argparse.Namespace(**given))
