"""The synthetic cohort on disk: layout, headers, equal bytes, and what is in the way."""

import gzip
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from data.phantom.cohort import subject_seed, write_cohort
from data.phantom.head import make_subject
from tests.helpers.golden import ROOT
from utils.errors import InputError

COARSE = 6.0  # mm: enough where the anatomy is not looked at


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort")
    return root, write_cohort(root, subjects=2, seed=7, voxel_mm=COARSE)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout_and_record(cohort):
    root, names = cohort
    assert names == ["synthetic-001", "synthetic-002"]
    expected = {"cohort.json"}
    for name in names:
        expected |= {f"{name}/{name}_mri_MNI152.nii.gz", f"{name}/{name}_FDG_MNI152.nii.gz"}
    assert set(contents(root)) == expected
    record = json.loads((root / "cohort.json").read_text())
    assert (record["seed"], record["voxel_mm"]) == (7, COARSE)
    assert list(record["subjects"]) == names
    assert set(record["subjects"][names[0]]) == {"hypometabolic"}


def test_headers_and_voxels(cohort):
    root, names = cohort
    made = make_subject(subject_seed(7, 0), COARSE)
    for kind, array in (("mri", made.mri), ("FDG", made.pet)):
        image = nib.load(root / names[0] / f"{names[0]}_{kind}_MNI152.nii.gz")
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header["sform_code"] == image.header["qform_code"] == 4
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-5)
        np.testing.assert_allclose(image.header.get_zooms(), COARSE)
        np.testing.assert_array_equal(image.affine, made.affine)
        np.testing.assert_array_equal(np.asarray(image.dataobj), array)


def test_files_are_the_same_bytes_and_do_not_depend_on_the_number_of_subjects(cohort, tmp_path):
    root, _ = cohort
    write_cohort(tmp_path, subjects=3, seed=7, voxel_mm=COARSE)
    small, large = contents(root), contents(tmp_path)
    small.pop("cohort.json")
    assert all(large[name] == content for name, content in small.items())
    packed = next(iter(small.values()))
    assert packed[3] == 0 and packed[4:8] == bytes(4)  # no file name, no time stamp
    assert gzip.decompress(packed)[344:348] == b"n+1\0"


def test_other_seeds_give_other_files(cohort, tmp_path):
    root, names = cohort
    write_cohort(tmp_path, subjects=1, seed=8, voxel_mm=COARSE)
    name = f"{names[0]}/{names[0]}_mri_MNI152.nii.gz"
    assert contents(root)[name] != contents(tmp_path)[name]


def test_a_complete_cohort_is_reused_and_an_incomplete_one_completed(tmp_path, monkeypatch):
    names = write_cohort(tmp_path, subjects=2, seed=7, voxel_mm=COARSE)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("data.phantom.many.make_subject", lambda *_: pytest.fail("made again"))
        assert write_cohort(tmp_path, subjects=2, seed=7, voxel_mm=COARSE) == names
    (tmp_path / names[1] / f"{names[1]}_FDG_MNI152.nii.gz").unlink()
    (tmp_path / "cohort.json").unlink()
    write_cohort(tmp_path, subjects=2, seed=7, voxel_mm=COARSE)
    assert contents(tmp_path) == before


def test_another_cohort_is_never_overwritten(cohort):
    root, _ = cohort
    before = contents(root)
    for other in ({"seed": 8}, {"voxel_mm": 8.0}, {"subjects": 1}):
        with pytest.raises(InputError, match="delete the folder or give another"):
            write_cohort(root, **({"subjects": 2, "seed": 7, "voxel_mm": COARSE} | other))
    assert contents(root) == before


def test_a_broken_record_is_an_input_error(tmp_path):
    (tmp_path / "cohort.json").write_text("{")
    with pytest.raises(InputError, match="cohort.json"):
        write_cohort(tmp_path, subjects=1, voxel_mm=COARSE)


def test_an_interrupted_write_leaves_no_part_and_no_record(tmp_path, monkeypatch):
    replace, calls = os.replace, []

    def fail_later(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("utils.files.os.replace", fail_later)
    with pytest.raises(InputError, match="No space left"):
        write_cohort(tmp_path, subjects=1, seed=7, voxel_mm=8.0)
    assert list(contents(tmp_path)) == ["synthetic-001/synthetic-001_mri_MNI152.nii.gz"]


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "data.phantom", "--subjects", "1"]
    command += ["--out", str(tmp_path / "c")]
    done = subprocess.run([*command, "--voxel-mm", "8"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "c").rglob("*.nii.gz"))) == 2
    done = subprocess.run([*command, "--voxel-mm", "50"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: voxel size: 50 mm") and done.stderr.count("\n") == 1
