"""The parts of preparation that need no registration: names, bytes, states of a folder,
fingerprints.
"""

import errno
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from preparation.cohort import PACKAGES, Item, fingerprint
from preparation.output import layout
from preparation.output.folder import PreparedFolder, read_record
from preparation.output.layout import (
    Place,
    name_problems,
    nifti_bytes,
    place_of,
    space_label,
    write_durably,
)
from preparation.read.scan import Allowed
from preparation.report import exit_status
from preparation.scans import LeftOutScan, Scan, ScanPair
from preparation.subject import Job, PrepareOptions, prepare_subject
from utils.errors import InputError
from utils.optional import check_installed


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
    assert [str(place.mri), str(place.pet)] == [
        "033_S_5198_mri_MNI152.nii.gz",
        "033_S_5198_FDG_MNI152.nii.gz",
    ]


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
    assert (
        place.mri == Path("anat") / f"{mri}.nii.gz" and place.pet == Path("pet") / f"{pet}.nii.gz"
    )


def test_space_label_has_letters_and_digits_only():
    assert space_label(Path("my_head-2mm.nii.gz")) == "myhead2mm"


def test_names_that_would_meet_or_cannot_be(pair):
    named = [replace(pair, name=name) for name in ("a-1", "a1", "b", "qc", "FLAGGED", "../x")]
    problems = name_problems(named, "bids")
    assert sorted(problems) == ["../x", "FLAGGED", "a1", "qc"]
    assert "a-1" in problems["a1"]
    assert sorted(name_problems(named, "pairs")) == ["../x", "FLAGGED", "qc"]


def test_no_subject_lies_inside_another(pair):
    outer, inner = (replace(pair, name=name) for name in ("sub-01", "sub-01_ses-M00"))
    for pairs in ([outer, inner], [inner, outer]):
        problems = name_problems(pairs, "bids")
        assert list(problems) == [inner.name] and "inside those of sub-01" in problems[inner.name]
    assert list(name_problems([outer], "bids", [Path("sub-01/ses-M00")])) == [outer.name]
    assert list(name_problems([inner], "bids", [Path("sub-01")])) == [inner.name]
    assert not name_problems([inner], "bids", [Path("sub-01/ses-M00"), Path("sub-01/ses-M12")])


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
    monkeypatch.setattr(layout.shutil, "disk_usage", lambda path: usage._replace(free=3_000_000))
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
        fingerprint(
            replace(pair, pet=replace(pair.pet, description="ADNI Brain PET: Raw")), options
        ),
        fingerprint(replace(pair, pet=replace(pair.pet, files=pair.pet.files[:1])), options),
    ]
    template.write_bytes(b"2")
    others.append(fingerprint(pair, options))
    template.write_bytes(b"1")
    assert fingerprint(pair, options) == first
    os.utime(pair.pet.files[0], ns=(0, 1))
    others.append(fingerprint(pair, options))
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize(
    "package", ("numpy", "scipy", "nibabel", "antspyx", "pydicom", "pylibjpeg-openjpeg")
)
def test_a_fingerprint_is_of_versions(pair, monkeypatch, package):
    options, version = PrepareOptions(), importlib.metadata.version
    first = fingerprint(pair, options)
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == package else version(name)
    )
    assert fingerprint(pair, options) != first


def test_a_fault_in_what_was_found_is_in_the_exit_status(pair):
    made = Item(pair, PLACE, record={"warnings": []})
    faults = [
        LeftOutScan("a", None, "not chosen"),
        LeftOutScan("b", None, "damaged", is_fault=True),
    ]
    assert exit_status([made], faults[:1]) == 0 and exit_status([made], faults) == 1
    assert exit_status([Item(pair, PLACE)], []) == 2


def test_warnings_are_of_the_pair_as_it_is_now(pair):
    record = {"warnings": ["PET: 3 voxels below 0 set to 0"], "pair_warnings": ["no date"]}
    item = Item(replace(pair, warnings=("new",)), PLACE, record=record)
    assert item.warnings == ["new", "PET: 3 voxels below 0 set to 0"] and item.status == "warned"


def test_missing_packages_are_named(monkeypatch):
    check_installed(PACKAGES, "prepare.py")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ants" else object()
    )
    with pytest.raises(
        InputError, match="antspyx not installed; pip install -r requirements-prep.txt"
    ):
        check_installed(PACKAGES, "prepare.py")


@pytest.mark.parametrize(
    ("cause", "kind", "is_final"),
    (
        (None, "input", True),
        (OSError("Expected 10 bytes, got 5"), "input", True),
        (EOFError(), "input", True),
        (OSError(errno.EIO, "Input/output error"), "input", False),
        (PermissionError(errno.EACCES, "Permission denied"), "input", False),
        (ImportError("no ants"), "input", False),
        (MemoryError(), "input", False),
        (None, "package", False),
    ),
)
def test_only_errors_of_the_scans_are_final(pair, tmp_path, monkeypatch, cause, kind, is_final):
    def load_scan(scan, *_, **__):
        raise InputError(scan.where, "cannot be read", "mend it", kind) from cause

    monkeypatch.setattr("preparation.subject.load_scan", load_scan)
    job = Job(pair, PLACE, PrepareOptions(), tmp_path / "data", "new", {})
    with pytest.raises(InputError, match="cannot be read") as caught:
        prepare_subject(job)
    assert (caught.value.kind == "final") == is_final


# States of a subject -----------------------------------------------------------------------------


@pytest.fixture
def files_of(head):
    """Function (place, fingerprint) -> the files of a complete subject."""

    def call(place: Place, fingerprint: str) -> dict[Path, bytes]:
        content = nifti_bytes(head, np.eye(4), 1)
        outputs = {
            key: {"file": str(file), "bytes": len(content), "shape": list(head.shape)}
            for key, file in (("mri", place.mri), ("pet", place.pet))
        }
        record = {"fingerprint": fingerprint, "outputs": outputs}
        return {place.mri: content, place.pet: content, place.record: json.dumps(record).encode()}

    return call


@pytest.fixture
def make(files_of):
    """Function (folder, name, fingerprint) that leaves a complete subject waiting for its
    judgement.
    """

    def call(folder: PreparedFolder, name: str, fingerprint: str) -> None:
        with folder.working_on(name) as working:
            write_durably(working, files_of(place_of(name, "pairs", "mri", None), fingerprint))
            write_durably(
                folder.picture(name).parent, {Path(folder.picture(name).name): b"picture"}
            )
            folder.commit(name)

    return call


NAME = "033_S_5198"
PLACE = place_of(NAME, "pairs", "mri", None)


def test_a_subject_appears_with_its_judgement_and_moves_with_it(tmp_path, make):
    folder = PreparedFolder(tmp_path)
    make(folder, NAME, "new")
    plausible, flagged = tmp_path / NAME, tmp_path / "flagged" / NAME
    assert not plausible.exists() and not flagged.exists()
    assert folder.complete_record(NAME, PLACE, "new") and not folder.complete_record(
        NAME, PLACE, "other"
    )

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
    assert sorted(path.name for path in tmp_path.iterdir()) == [".prepare", "qc"]
    assert not folder.picture(NAME).exists()


def make_for_ever(
    root: Path, name: str, place: Place, contents: dict[Path, bytes], fingerprint: str
) -> None:
    """Make a subject again and again, with its judgement changing each time."""
    folder, flagged = PreparedFolder(root), False
    while True:
        with folder.working_on(name) as working:
            write_durably(working, contents)
            folder.commit(name)
        folder.settle(name, place, flagged, fingerprint)
        flagged = not flagged


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="kills forked processes"
)
def test_killed_at_any_moment_every_subject_in_sight_is_whole(tmp_path, files_of):
    folder, choice = PreparedFolder(tmp_path), random.Random(5)
    contents = files_of(PLACE, "new")
    seen = set()
    for _ in range(40):
        arguments = tmp_path, NAME, PLACE, contents, "new"
        process = multiprocessing.get_context("fork").Process(target=make_for_ever, args=arguments)
        process.start()
        time.sleep(choice.uniform(0.005, 0.06))
        process.kill()
        process.join()
        held = [where for where in folder.places(NAME, PLACE) if where.exists()]
        for where in held:
            assert {
                path.relative_to(where): path.read_bytes() for path in where.iterdir()
            } == contents
        seen.add(tuple(path.relative_to(tmp_path).parts[0] for path in held))
        with folder.locked():
            assert not folder.working.exists()
    assert len(seen) > 1  # the moments were different ones


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


def test_a_subject_without_its_picture_is_made_again(tmp_path, make):
    folder = PreparedFolder(tmp_path)
    make(folder, NAME, "new")
    assert folder.complete_record(NAME, PLACE, "new")
    folder.picture(NAME).unlink()
    assert folder.complete_record(NAME, PLACE, "new") is None


def test_what_is_not_whole_in_its_place_is_said(tmp_path, make):
    folder = PreparedFolder(tmp_path)
    make(folder, NAME, "new")
    with pytest.raises(InputError, match="not complete after all"):
        folder.settle(NAME, PLACE, False, "other")


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
    make(folder, "waits", "new")
    assert {path: layout for path, (layout, _) in folder.subjects().items()} == {
        Path(NAME): "pairs"
    }
    assert folder.waiting() == {"waits"}


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
        with (
            pytest.raises(InputError, match="another prepare.py is at work"),
            PreparedFolder(tmp_path).locked(),
        ):
            pass
    with PreparedFolder(tmp_path).locked():
        pass


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / ".prepare" / "lock").mkdir(parents=True)
    with (
        pytest.raises(InputError, match="lock: cannot be opened"),
        PreparedFolder(tmp_path).locked(),
    ):
        pass


def test_temporary_files_are_where_the_next_run_finds_them(tmp_path):
    before = tempfile.gettempdir()
    folder = PreparedFolder(tmp_path)
    with folder.working_on(NAME):
        assert folder.working in Path(tempfile.mkdtemp()).parents
    assert tempfile.gettempdir() == before and not list(folder.working.glob(".scratch*"))
    with PreparedFolder(tmp_path / "a, b").working_on(NAME):  # ANTs would take this path apart
        assert tempfile.gettempdir() == before


def test_a_run_waits_for_the_processes_of_a_killed_one(tmp_path, monkeypatch):
    monkeypatch.setattr("preparation.output.folder.ORPHANS_S", 0.2)
    folder = PreparedFolder(tmp_path)
    with folder.working_on("a"):
        with folder.working_on("b"):
            pass
        with pytest.raises(InputError, match="processes of a run that was killed"), folder.locked():
            pass
    with folder.locked():
        pass
