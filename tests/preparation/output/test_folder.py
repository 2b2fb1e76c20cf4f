"""The states of a subject in its folder, whatever interrupts them."""

import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from preparation.output.folder import PreparedFolder, read_record
from preparation.output.layout import Place, nifti_bytes, place_of, write_durably
from utils.errors import InputError

NAME = "033_S_5198"
PLACE = place_of(NAME, "pairs", "mri", None)


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
