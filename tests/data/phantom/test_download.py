"""The synthetic ADNI download: names, headers, geometry, known transforms, defects."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.phantom import download as synthetic
from data.phantom.download import DEFECTS, main, write_download
from data.phantom.visit import make_visit
from preparation.descriptions import FILE_NAME
from preparation.find.adni import find_adni
from utils.errors import InputError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")

SEED, VOXEL_MM = 5, 7.0


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """(root, truth) of three good subjects, the second with a dynamic PET."""
    root = tmp_path_factory.mktemp("download") / "adni"
    return root, write_download(root, 3, SEED, VOXEL_MM, heads=1)


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    """(findings, truth) of a download in which every subject has another defect."""
    root = tmp_path_factory.mktemp("defective") / "adni"
    truth = write_download(root, len(DEFECTS), SEED, VOXEL_MM, heads=1, bad_share=1.0)
    return find_adni(root), truth


@pytest.fixture(scope="module")
def dcm2niix():
    """Path of the converter, an independent reader of DICOM."""
    beside = Path(sys.executable).with_name("dcm2niix")
    found = str(beside) if beside.exists() else shutil.which("dcm2niix")
    return found or pytest.skip("dcm2niix is not installed")


def planes(scan):
    return [pydicom.dcmread(file) for file in scan.files]


def visit(index):
    return make_visit(SEED, index, VOXEL_MM, heads=1, dynamic=index % 3 == 1)


def test_the_finder_takes_what_the_truth_says(download):
    root, truth = download
    findings = find_adni(root, tables=[root / "collection.csv"])
    assert (
        [pair.name for pair in findings.pairs]
        == list(truth["subjects"])
        == [f"999_S_000{n}" for n in (1, 2, 3)]
    )
    for pair in findings.pairs:
        true = truth["subjects"][pair.name]
        assert (pair.mri.image_id, pair.pet.image_id, pair.days) == (
            true["mri_id"],
            true["pet_id"],
            true["days"],
        )
        assert (pair.mri.description, pair.pet.description) == (
            true["mri_description"],
            true["pet_description"],
        )
        assert pair.mri.matrix_z == len(pair.mri.files) == true["mri_shape"][0]
        assert len(pair.pet.files) == true["pet_shape"][2] * (3 if true["dynamic"] else 1)
        assert all(FILE_NAME.fullmatch(file.name) for file in pair.mri.files + pair.pet.files)
    reasons = [item.reason for item in findings.left_out if item.subject == "999_S_0001"]
    assert len(reasons) == 4 and "tracer is florbetapir, not FDG" in reasons
    assert len(list(root.rglob("*_truth.json"))) == 0


def test_headers(download):
    pairs = find_adni(download[0]).pairs
    static, dynamic, mri = planes(pairs[0].pet), planes(pairs[1].pet), planes(pairs[0].mri)
    assert {d.Units for d in static} == {"BQML"} and {tuple(d.SeriesType) for d in dynamic} == {
        ("DYNAMIC", "IMAGE")
    }
    slopes = [float(d.RescaleSlope) for d in static]
    assert len(set(slopes)) > len(slopes) / 2 and max(slopes) > 3 * min(slopes) > 0
    count = dynamic[0].NumberOfSlices
    assert dynamic[0].NumberOfTimeSlices == 3 and [d.ImageIndex for d in dynamic] == list(
        range(1, 3 * count + 1)
    )
    times = [(float(d.FrameReferenceTime), int(d.ActualFrameDuration)) for d in dynamic]
    assert sorted(set(times)) == [(150e3, 300_000), (450e3, 300_000), (900e3, 600_000)]
    assert len({d.SOPInstanceUID for d in static + dynamic + mri}) == len(static + dynamic + mri)
    assert all(d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID for d in mri)
    assert {d.file_meta.TransferSyntaxUID.name for d in mri} == {"Explicit VR Little Endian"}
    normal = np.cross(*np.reshape(np.array(mri[0].ImageOrientationPatient, float), (2, 3)))
    assert 0.9 < abs(normal[0]) < 0.99999  # sagittal and oblique


def test_planes_lie_where_the_truth_says(download):
    """One bright voxel of each image, placed with the formula of the DICOM standard."""
    root, truth = download
    for index, pair in enumerate(find_adni(root).pairs):
        made = visit(index)
        for scan, array, affine in (
            (pair.mri, made.mri, made.mri_affine),
            (pair.pet, made.frames[..., -1], made.pet_affine),
        ):
            voxel = np.unravel_index(array.argmax(), array.shape)
            places = []
            for plane in planes(scan)[-array.shape[2] :] if scan is pair.pet else planes(scan):
                values = plane.pixel_array * float(plane.get("RescaleSlope", 1))
                row, column = np.unravel_index(values.argmax(), values.shape)
                along, down = np.reshape(np.array(plane.ImageOrientationPatient, float), (2, 3))
                between_rows, between_columns = map(float, plane.PixelSpacing)
                place = np.array(plane.ImagePositionPatient, float)
                place = place + along * between_columns * column + down * between_rows * row
                places.append((values.max(), *place))
            value, x, y, z = max(places)
            assert value == pytest.approx(array.max(), rel=1e-4)
            assert np.allclose((affine @ [*voxel, 1])[:3], [-x, -y, z], atol=1e-3)
        true = truth["subjects"][pair.name]
        assert np.allclose(true["mri_affine"], made.mri_affine) and np.allclose(
            true["pet_affine"], made.pet_affine
        )


@pytest.mark.parametrize("index", [0, 1], ids=["static", "dynamic"])
def test_dcm2niix_reads_the_same(download, dcm2niix, tmp_path, index):
    pair, made = find_adni(download[0]).pairs[index], visit(index)
    for scan, array, affine, error in (
        (pair.mri, made.mri, made.mri_affine, 0.0),
        (pair.pet, np.squeeze(made.frames), made.pet_affine, made.frames.max() / 32767),
    ):
        out = tmp_path / scan.modality
        out.mkdir()
        command = [dcm2niix, "-z", "n", "-f", "x", "-o", str(out), str(scan.where)]
        subprocess.run(command, check=True, capture_output=True)
        (file,) = out.glob("*.nii")
        image = nib.as_closest_canonical(nib.load(file))
        assert image.shape == array.shape and np.allclose(image.affine, affine, atol=1e-3)
        assert np.abs(image.get_fdata() - array).max() <= error


def test_same_arguments_same_bytes(download, tmp_path):
    root, truth = download
    again = tmp_path / "again"
    assert write_download(again, 3, SEED, VOXEL_MM, heads=1) == truth
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((root / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert (tmp_path / "again_truth.json").read_bytes() == (
        root.parent / "adni_truth.json"
    ).read_bytes()


def test_defects_are_known_and_seen(defective):
    findings, truth = defective
    defect = {name: true["defect"] for name, true in truth["subjects"].items()}
    assert sorted(defect.values()) == sorted(DEFECTS)
    reasons = {defect[item.subject]: item.reason for item in findings.left_out if item.path is None}
    assert reasons[synthetic.NO_PET] == "no FDG image" == reasons[synthetic.OTHER_TRACER]
    assert (
        "days apart" in reasons[synthetic.FAR_APART]
        and "days apart" in reasons[synthetic.EMPTY_FOLDER]
    )
    paired = {defect[pair.name]: pair for pair in findings.pairs}
    shape = next(iter(truth["subjects"].values()))["mri_shape"]
    assert len(paired[synthetic.MISSING_MRI_SLICE].mri.files) == shape[0] - 1
    assert (
        len(paired[synthetic.MISSING_MRI_END].mri.files)
        == paired[synthetic.MISSING_MRI_END].mri.matrix_z - 3
    )
    pet = planes(paired[synthetic.MISSING_PET_SLICE].pet)
    assert len(pet) % pet[0].NumberOfSlices != 0
    assert sum("RescaleSlope" not in plane for plane in planes(paired[synthetic.NO_SLOPE].pet)) in (
        1,
        3,
    )
    assert len({plane.pixel_array.std() for plane in planes(paired[synthetic.CONSTANT].pet)}) == 1
    sizes = {file.stat().st_size for file in paired[synthetic.CUT_SHORT].pet.files}
    assert min(sizes) < 0.6 * max(sizes)


def test_a_share_of_bad_subjects():
    bad = [synthetic._defect(index, 0.05) for index in range(200)]
    assert sum(defect is not None for defect in bad) == 10 and set(bad) == {None, *DEFECTS}


def test_other_things_in_the_way(download, tmp_path):
    root, truth = download
    assert write_download(root, 3, SEED, VOXEL_MM, heads=1) == truth
    with pytest.raises(InputError, match="other settings"):
        write_download(root, 3, SEED + 1, VOXEL_MM, heads=1)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="no synthetic download"):
        write_download(tmp_path / "mine", 1, SEED, VOXEL_MM)
    for options in ({"voxel_mm": 20}, {"bad_share": 2}):
        with pytest.raises(InputError, match="is not within"):
            write_download(tmp_path / "new", 1, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_of_an_interrupted_one(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_write_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_download(tmp_path / "adni", 1, SEED, VOXEL_MM)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, monkeypatch, capsys):
    flags = ["--subjects", "1", "--seed", str(SEED), "--voxel-mm", "7"]
    monkeypatch.setattr("sys.argv", ["download", "--out", str(tmp_path / "adni"), *flags])
    main()
    assert "1 subjects" in capsys.readouterr().out
    truth = json.loads((tmp_path / "adni_truth.json").read_text())
    assert truth["subjects"]["999_S_0001"]["defect"] is None
