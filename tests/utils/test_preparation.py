"""The parts of preparation that need no registration: names, bytes, states of a folder, fingerprints."""

import importlib.util
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.convert import Allowed
from data.scans import Scan, ScanPair
from utils import prepared_layout
from utils.cli import InputError
from utils.preparation import check_packages, fingerprint
from utils.prepared_folder import PreparedFolder, read_record
from utils.prepared_layout import name_problems, nifti_bytes, place_of, space_label, write_durably
from utils.prepared_subject import PrepareOptions


@pytest.fixture
def pair(tmp_path) -> ScanPair:
    """Two scans of which only names, sizes and times matter."""
    scans = []
    for modality in ("MRI", "PET"):
        files = [tmp_path / modality / f"{i}.dcm" for i in range(2)]
        for file in files:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"content")
        scans.append(Scan("033_S_5198", modality, tuple(files), "dicom"))
    return ScanPair("033_S_5198", *scans, days=3)


# Names -------------------------------------------------------------------------------------------


def test_published_names():
    place = place_of("033_S_5198", "pairs", "mri", None)
    assert place.folder == Path("033_S_5198") and place.record == Path("033_S_5198.json")
    assert [str(place.mri), str(place.pet)] == ["033_S_5198_mri_MNI152.nii.gz", "033_S_5198_FDG_MNI152.nii.gz"]


@pytest.mark.parametrize(
    ("name", "space", "template", "folder", "mri", "pet"),
    (
        (
            "033_S_5198", "mri", None, "sub-033S5198", "sub-033S5198_desc-preproc_T1w",
            "sub-033S5198_trc-18FFDG_space-T1w_desc-preproc_pet",
        ),
        (
            "sub-01_ses-M00", "mni", None, "sub-01/ses-M00",
            "sub-01_ses-M00_space-MNI152NLin2009aSym_res-1_desc-preproc_T1w",
            "sub-01_ses-M00_trc-18FFDG_space-MNI152NLin2009aSym_res-1_desc-preproc_pet",
        ),
        (
            "sub-01", "mni", Path("x/tpl-MNI152NLin6Asym_res-02_T1w.nii.gz"), "sub-01",
            "sub-01_space-MNI152NLin6Asym_res-1_desc-preproc_T1w",
            "sub-01_trc-18FFDG_space-MNI152NLin6Asym_res-1_desc-preproc_pet",
        ),
    ),
)  # fmt: skip
def test_bids_names(name, space, template, folder, mri, pet):
    place = place_of(name, "bids", space, template)
    assert place.folder == Path(folder)
    assert place.mri == Path("anat") / f"{mri}.nii.gz" and place.pet == Path("pet") / f"{pet}.nii.gz"


def test_space_label_has_letters_and_digits_only():
    assert space_label(Path("my_head-2mm.nii.gz")) == "myhead2mm"


def test_names_that_would_meet_or_cannot_be(pair):
    named = [replace(pair, name=name) for name in ("a-1", "a1", "b", "qc", "FLAGGED", "../x")]
    problems = name_problems(named, "bids")
    assert sorted(problems) == ["../x", "FLAGGED", "a1", "qc"]
    assert "a-1" in problems["a1"]
    assert sorted(name_problems(named, "pairs")) == ["../x", "FLAGGED", "qc"]


# Bytes -------------------------------------------------------------------------------------------


def test_an_image_comes_back_and_its_bytes_do_not_change(tmp_path, head, head_affine, oblique):
    affine = oblique(head_affine)
    content = nifti_bytes(head, affine, 2)
    assert content == nifti_bytes(head.astype(np.float64), affine, 2)
    (tmp_path / "a.nii.gz").write_bytes(content)
    image = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(image.get_fdata(), head) and image.get_data_dtype() == np.float32
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 2 and np.allclose(form, affine, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepared_layout.shutil, "disk_usage", lambda path: usage._replace(free=3_000_000))
    with pytest.raises(InputError, match=r"no space left, 3 of 20 MB"):
        write_durably(tmp_path / "new", {Path("a"): bytes(20_000_000)})
    assert not list((tmp_path / "new").iterdir())


# Fingerprints ------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_inputs_options_and_template(pair, tmp_path):
    template = tmp_path / "template.nii"
    template.write_bytes(b"1")
    options = PrepareOptions(space="mni", template=template)
    first = fingerprint(pair, options)
    reordered = replace(pair, mri=replace(pair.mri, files=pair.mri.files[::-1]))
    assert fingerprint(pair, options) == first == fingerprint(reordered, options)

    others = [
        fingerprint(pair, replace(options, space="mri")),
        fingerprint(pair, replace(options, allowed=Allowed(fill_nonfinite=True))),
        fingerprint(replace(pair, pet=replace(pair.pet, description="ADNI Brain PET: Raw")), options),
        fingerprint(replace(pair, pet=replace(pair.pet, files=pair.pet.files[:1])), options),
    ]
    template.write_bytes(b"2")
    others.append(fingerprint(pair, options))
    template.write_bytes(b"1")
    assert fingerprint(pair, options) == first
    os.utime(pair.pet.files[0], ns=(0, 1))
    others.append(fingerprint(pair, options))
    assert len({first, *others}) == len(others) + 1


def test_missing_packages_are_named(monkeypatch):
    check_packages()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ants" else object())
    with pytest.raises(InputError, match="antspyx not installed; pip install -r requirements-prep.txt"):
        check_packages()


# States of a subject -----------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path, head):
    """Function (folder, name, fingerprint) that leaves a complete subject waiting for its judgement."""

    def call(folder: PreparedFolder, name: str, fingerprint: str) -> None:
        place = place_of(name, "pairs", "mri", None)
        content = nifti_bytes(head, np.eye(4), 1)
        outputs = {
            key: {"file": str(file), "bytes": len(content), "shape": list(head.shape)}
            for key, file in (("mri", place.mri), ("pet", place.pet))
        }
        record = {"fingerprint": fingerprint, "outputs": outputs}
        with folder.working_on(name) as working:
            files = {place.mri: content, place.pet: content, place.record: json.dumps(record).encode()}
            write_durably(working, files)
            folder.commit(name)

    return call


NAME = "033_S_5198"
PLACE = place_of(NAME, "pairs", "mri", None)


def test_a_subject_appears_with_its_judgement_and_moves_with_it(tmp_path, make):
    folder = PreparedFolder(tmp_path)
    make(folder, NAME, "new")
    plausible, flagged = tmp_path / NAME, tmp_path / "flagged" / NAME
    assert not plausible.exists() and not flagged.exists()
    assert folder.complete_record(NAME, PLACE, "new") and not folder.complete_record(NAME, PLACE, "other")

    for is_flagged, here, there in (
        (False, plausible, flagged),
        (True, flagged, plausible),
        (False, plausible, flagged),
    ):
        assert folder.settle(NAME, PLACE, is_flagged, "new") == here
        assert len(list(here.iterdir())) == 3 and not there.exists()
        assert folder.complete_record(NAME, PLACE, "new")
    assert not (tmp_path / "flagged").exists()

    make(folder, NAME, "newer")
    assert read_record(plausible / PLACE.record)["fingerprint"] == "new"
    folder.settle(NAME, PLACE, True, "newer")
    assert read_record(flagged / PLACE.record)["fingerprint"] == "newer" and not plausible.exists()
    folder.remove(NAME, PLACE)
    folder.tidy()
    assert [path.name for path in tmp_path.iterdir()] == [".prepare"]


@pytest.mark.parametrize("damage", ("cut", "gone", "garbage", "other shape", "no record"))
def test_what_is_not_whole_is_not_taken_for_done(tmp_path, make, damage):
    folder = PreparedFolder(tmp_path)
    make(folder, NAME, "new")
    folder.settle(NAME, PLACE, False, "new")
    image, record = tmp_path / NAME / PLACE.pet, tmp_path / NAME / PLACE.record
    content = image.read_bytes()
    if damage == "cut":
        image.write_bytes(content[:-10])
    elif damage == "gone":
        image.unlink()
    elif damage == "garbage":
        image.write_bytes(bytes(len(content)))
    elif damage == "other shape":
        record.write_text(record.read_text().replace("15]", "16]"))
    else:
        record.write_text(record.read_text()[:-5])
    assert folder.complete_record(NAME, PLACE, "new") is None


def test_folders_of_others_are_left_alone(tmp_path, make):
    folder = PreparedFolder(tmp_path)
    assert not folder.is_foreign(PLACE)
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "scan.dcm").write_text("not ours")
    assert folder.is_foreign(PLACE)


def test_earlier_subjects_are_told_apart_by_layout(tmp_path, make):
    folder = PreparedFolder(tmp_path)
    make(folder, NAME, "new")
    folder.settle(NAME, PLACE, False, "new")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.json").write_text("{}")
    assert folder.others([]) == ([NAME], {"pairs"})
    assert folder.others([PLACE]) == ([], {"pairs"})


def test_one_run_at_a_time_and_remains_of_a_killed_one_are_cleared(tmp_path):
    folder = PreparedFolder(tmp_path)
    (folder.working / "half").mkdir(parents=True)
    (tmp_path / "qc").mkdir()
    parts = [tmp_path / ".123.report.tsv", tmp_path / "qc" / ".45.033_S_5198.png"]
    for part in (*parts, tmp_path / ".bidsignore"):
        part.write_text("half")
    with folder.locked():
        assert not folder.working.exists() and not any(part.exists() for part in parts)
        assert (tmp_path / ".bidsignore").exists()
        with pytest.raises(InputError, match="another prepare.py is at work"), PreparedFolder(tmp_path).locked():
            pass
    with PreparedFolder(tmp_path).locked():
        pass


def test_a_run_waits_for_the_processes_of_a_killed_one(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.prepared_folder.ORPHANS_S", 0.2)
    folder = PreparedFolder(tmp_path)
    with folder.working_on("a"):
        with folder.working_on("b"):
            pass
        with pytest.raises(InputError, match="processes of a run that was killed"), folder.locked():
            pass
    with folder.locked():
        pass
