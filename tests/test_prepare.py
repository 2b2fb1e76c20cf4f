"""prepare.py at its boundary: scans in, a data set of aligned pairs out, whatever happens on the
way.

All but the tests of the result itself run with a stand-in for ANTs (`tests.helpers.unaligned`),
which would take minutes.
"""

import csv
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

import prepare
import train_diff
from data.phantom.cohort import write_cohort
from data.phantom.download import write_download
from data.subjects import find_subjects
from data.volume import read_pair
from preparation import cohort
from preparation.output.folder import PreparedFolder
from tests.helpers import unaligned
from tests.helpers.golden import ROOT as REPOSITORY
from tests.helpers.runs import QUICK
from tests.helpers.tasks import is_alive, wait_until

GOOD = ("synthetic-001", "synthetic-002")
CUT, NOISE = "cut", "noise"


@dataclass(frozen=True)
class Finished:
    """A run of the script in a process of its own."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def command(*flags) -> list[str]:
    return [sys.executable, "-m", "tests.helpers.unaligned", *map(str, flags)]


def call(
    *flags, script: tuple[str, ...] = ("-m", "tests.helpers.unaligned"), **environment: str
) -> Finished:
    command, environment = [sys.executable, *script, *map(str, flags)], os.environ | environment
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, env=environment
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def digests(root: Path) -> dict[str, str]:
    """{file relative to the data set: hash} of every image in it."""
    files = sorted(root.rglob("*.nii.gz"))
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def rows(root: Path, name: str = "report.tsv") -> dict[str, dict[str, str]]:
    with open(root / name, newline="") as file:
        return {row["subject"]: row for row in csv.DictReader(file, delimiter="\t")}


def write_table(path: Path, names) -> Path:
    path.write_text(
        "subject,mri,pet\n"
        + "".join(f"{name},{name}/mri.nii.gz,{name}/pet.nii.gz\n" for name in names)
    )
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two coarse heads, a cut file, and a PET of noise."""
    root = tmp_path_factory.mktemp("source")
    write_cohort(root / "cohort", subjects=2, voxel_mm=4)
    for name in GOOD:
        (root / name).mkdir()
        for kind, file in (("mri", "mri"), ("FDG", "pet")):
            shutil.copy(
                root / "cohort" / name / f"{name}_{kind}_MNI152.nii.gz",
                root / name / f"{file}.nii.gz",
            )
    for name in (CUT, NOISE):
        shutil.copytree(root / GOOD[0], root / name)
    content = (root / CUT / "mri.nii.gz").read_bytes()
    (root / CUT / "mri.nii.gz").write_bytes(content[: len(content) // 2])
    (root / CUT / "pet.nii.gz").write_bytes((root / GOOD[1] / "pet.nii.gz").read_bytes()[:5000])
    other = nib.load(root / GOOD[1] / "mri.nii.gz")
    nib.save(
        nib.Nifti1Image(np.asarray(other.dataobj)[..., 1:-1], other.affine),
        root / NOISE / "mri.nii.gz",
    )
    noise = np.random.default_rng(0).uniform(0, 1000, other.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, other.affine), root / NOISE / "pet.nii.gz")
    write_table(root / "pairs.csv", (*GOOD, CUT, NOISE))
    write_table(root / "one.csv", GOOD[:1])
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory) -> tuple[Path, Finished]:
    """The data set made of it, and what the run said; read only."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    return out, call("--pairs", source / "pairs.csv", "--out", out, "--jobs", 2)


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    """A copy of that data set to change."""
    shutil.copytree(prepared[0], tmp_path / "data")
    return tmp_path / "data"


# What comes out ----------------------------------------------------------------------------------


def test_good_subjects_are_made_and_bad_ones_are_told(prepared):
    root, run = prepared
    assert run.status == 1, run.err
    assert "4 pairs: " in run.out and " 1 flagged, 1 failed" in run.out
    assert (
        len(run.errors) == 1
        and run.errors[0].startswith(f"error: {CUT}: ")
        and "mri.nii.gz" in run.errors[0]
    )
    assert "Traceback" not in run.err
    report = rows(root)
    assert {name: row["status"] in ("ok", "warned") for name, row in report.items()} == {
        GOOD[0]: True, GOOD[1]: True, CUT: False, NOISE: False,
    }  # fmt: skip
    assert report[CUT]["status"] == "failed" and "mri.nii.gz" in report[CUT]["message"]
    assert report[NOISE]["status"] == "flagged" and report[NOISE]["flags"]


def test_training_takes_the_data_set_as_it_is(prepared):
    cohort = find_subjects(prepared[0])
    assert [subject.name for subject in cohort.subjects] == list(GOOD)
    assert not cohort.left_out and not cohort.passed_over and cohort.layout == "published"
    for subject in cohort.subjects:
        mri, pet = read_pair(subject.mri, subject.pet)
        assert np.isfinite(mri.array).all() and mri.array.min() >= 0 and pet.array.min() >= 0
        images = [nib.load(path) for path in (subject.mri, subject.pet)]
        assert images[0].shape == images[1].shape == (46, 54, 46)
        assert np.array_equal(images[0].affine, images[1].affine)
        assert all(nib.aff2axcodes(image.affine) == ("R", "A", "S") for image in images)


def test_a_turned_pet_comes_back_onto_its_mri(tmp_path):
    write_cohort(tmp_path / "cohort", subjects=1)
    name, turn = GOOD[0], np.eye(4)
    files = [tmp_path / "cohort" / name / f"{name}_{kind}_MNI152.nii.gz" for kind in ("mri", "FDG")]
    mri, pet = map(nib.load, files)
    turn[:3, :3] = Rotation.from_euler("xyz", (4, -3, 9), degrees=True).as_matrix()
    turn[:3, 3] = 8, -5, 6
    nib.save(nib.Nifti1Image(np.asarray(pet.dataobj), turn @ pet.affine), tmp_path / "pet.nii.gz")
    (tmp_path / "pairs.csv").write_text(f"subject,mri,pet\n{name},{files[0]},pet.nii.gz\n")

    run = call(
        "--pairs", tmp_path / "pairs.csv", "--out", tmp_path / "data", script=("prepare.py",)
    )
    assert run.status == 0, run.err
    made = [nib.load(tmp_path / "data" / name / file.name) for file in files]
    # In the MRI's own space the MRI is not touched.
    assert np.array_equal(made[0].get_fdata(), mri.get_fdata())
    inside = pet.get_fdata() > 0
    assert np.corrcoef(made[1].get_fdata()[inside], pet.get_fdata()[inside])[0, 1] > 0.98
    record = json.loads((tmp_path / "data" / name / f"{name}.json").read_text())
    assert (
        np.abs(np.array(record["transforms"]["pet_to_mri"]) @ turn - np.eye(4))[:3, :3].max() < 0.02
    )
    assert float(rows(tmp_path / "data")[name]["rotation_deg"]) == pytest.approx(10.2, abs=1)
    assert 1.025 < record["figures"]["nmi_brain"]


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory) -> tuple[dict, list[Path]]:
    """The truth about an ADNI-like download with one bad subject, and two data sets made of it by
    ANTs; read only.
    """
    if find_spec("ants") is None:
        pytest.skip("antspyx is not installed")
    root = tmp_path_factory.mktemp("download")
    truth = write_download(root / "adni", subjects=3, voxel_mm=4, bad_share=0.34)["subjects"]
    made = []
    for jobs in (2, 1):
        made.append(root / f"data-{jobs}")
        run = call(
            "--adni", root / "adni", "--out", made[-1], "--jobs", jobs, script=("prepare.py",)
        )
        assert run.status == 1 and len(run.errors) == 1, run.err
    return truth, made


def test_a_download_becomes_what_is_true_of_it(downloaded):
    truth, (root, _) = downloaded
    report = rows(root)
    assert (
        report.keys() == truth.keys()
        and sum(subject["defect"] is not None for subject in truth.values()) == 1
    )
    for name, subject in truth.items():
        status = report[name]["status"]
        assert (status == "failed") if subject["defect"] else (status in ("ok", "warned")), report[
            name
        ]
        if subject["defect"]:
            continue
        record = json.loads((root / name / f"{name}.json").read_text())
        assert (record["inputs"]["pet"]["frames"] > 1) == subject["dynamic"]
        mri = nib.load(root / name / f"{name}_mri_MNI152.nii.gz")
        assert list(mri.shape) == subject["mri_shape"] and np.allclose(
            mri.affine, subject["mri_affine"], atol=1e-4
        )
        points = np.append(
            np.random.default_rng(0).uniform(-70, 70, (100, 3)), np.ones((100, 1)), axis=1
        )
        there, true = (
            points @ np.transpose(m)
            for m in (record["transforms"]["pet_to_mri"], subject["pet_to_mri"])
        )
        assert np.linalg.norm(there - true, axis=1).mean() < 2  # half a voxel


def test_two_runs_give_the_same_bytes(downloaded):
    first, second = map(digests, downloaded[1])
    assert len(first) == 4 and first == second


def test_training_takes_what_a_download_gave(downloaded, tmp_path, run_script):
    flags = "--data", downloaded[1][0], "--out", tmp_path, "--epochs", 1, *QUICK
    status, out, err = run_script(train_diff.main, *flags)
    assert status == 0, err
    assert "2 subjects" in out


def test_a_bids_data_set_is_prepared(source, tmp_path):
    for label, name in zip(("01", "02"), GOOD, strict=True):
        for kind, file in (
            ("anat", f"sub-{label}_T1w.nii.gz"),
            ("pet", f"sub-{label}_trc-18FFDG_pet.nii.gz"),
        ):
            (tmp_path / "bids" / f"sub-{label}" / kind).mkdir(parents=True)
            scan = source / name / ("mri.nii.gz" if kind == "anat" else "pet.nii.gz")
            shutil.copy(scan, tmp_path / "bids" / f"sub-{label}" / kind / file)
    run = call("--bids", tmp_path / "bids", "--out", tmp_path / "data", "--layout", "bids")
    assert run.status == 0, run.err
    cohort = find_subjects(tmp_path / "data")
    assert [subject.name for subject in cohort.subjects] == [
        "sub-01",
        "sub-02",
    ] and cohort.layout == "BIDS"


def test_records_hold_inputs_transforms_and_figures(prepared):
    record = json.loads((prepared[0] / GOOD[0] / f"{GOOD[0]}.json").read_text())
    assert record["subject"] == GOOD[0] and record["versions"]["antspyx"]
    assert record["inputs"]["pet"]["shape"] == [46, 54, 46] and record["inputs"]["pet"][
        "files"
    ] == ["pet.nii.gz"]
    assert (
        all(np.shape(matrix) == (4, 4) for matrix in record["transforms"].values())
        and record["transforms"]
    )
    assert record["figures"]["nmi_brain"] > 1.025
    assert record["warnings"] == ["aligned by the headers"]  # what is said in its process is kept
    row = rows(prepared[0])[GOOD[0]]
    assert float(row["rotation_deg"]) == pytest.approx(record["figures"]["rotation_deg"], rel=1e-3)
    assert row["mri_shape"] == "46 x 54 x 46" and row["mri_voxel"] == "4 x 4 x 4" and row["space"]
    log = (prepared[0] / "qc" / f"{GOOD[0]}.log").read_text().splitlines()
    assert {"what ANTs prints", "notice: aligned by the headers"} <= set(log)


def test_flagged_subjects_lie_apart_and_are_first_on_the_page(prepared):
    root = prepared[0]
    assert sorted(path.name for path in (root / "flagged" / NOISE).iterdir()) == [
        "noise.json", "noise_FDG_MNI152.nii.gz", "noise_mri_MNI152.nii.gz",
    ]  # fmt: skip
    assert not (root / NOISE).exists() and not (root / CUT).exists()
    page = (root / "report.html").read_text()
    assert page.index("id='flagged'") < page.index("id='failed'") < page.index(f"<b>{GOOD[0]}</b>")
    for name in (*GOOD, NOISE):
        assert f"src='qc/{name}.png'" in page
        assert Image.open(root / "qc" / f"{name}.png").width > 600
    assert {path.name for path in root.iterdir()} == {
        *GOOD, "flagged", "qc", "pairs.tsv", "report.tsv", "report.html", ".prepare",
    }  # fmt: skip


# Again -------------------------------------------------------------------------------------------


def test_the_same_command_makes_nothing_twice(copy, source):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.nii.gz")}
    run = call("--pairs", source / "pairs.csv", "--out", copy)
    assert run.status == 1 and "0 made, 2 made before, 1 flagged, 1 failed" in run.out
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.nii.gz")} == before


def test_what_has_changed_is_made_again_with_the_same_bytes(copy, source, prepared):
    (copy / GOOD[0] / f"{GOOD[0]}_FDG_MNI152.nii.gz").write_bytes(b"half")
    run = call("--pairs", source / "one.csv", "--out", copy)
    assert run.status == 0, run.err
    assert "1 made" in run.out and "1 subjects of earlier runs stay as they are" in run.err
    assert digests(copy) == digests(prepared[0])


def test_a_judgement_that_changes_moves_a_subject(copy, source):
    shutil.move(copy / GOOD[0], copy / "flagged" / GOOD[0])
    run = call("--pairs", source / "pairs.csv", "--out", copy)
    assert "0 made, 2 made before, 1 flagged" in run.out
    assert (copy / GOOD[0]).is_dir() and sorted(os.listdir(copy / "flagged")) == [NOISE]


def test_results_that_the_inputs_no_longer_give_go_away(copy, source, tmp_path):
    table = tmp_path / "table.csv"
    scans = source / GOOD[0] / "mri.nii.gz", source / CUT / "pet.nii.gz"
    table.write_text(f"subject,mri,pet\n{GOOD[0]},{scans[0]},{scans[1]}\n")
    run = call("--pairs", table, "--out", copy)
    assert run.status == 2 and len(run.errors) == 1
    assert not (copy / GOOD[0]).exists() and (copy / GOOD[1]).exists()


def everything(root: Path) -> dict[str, bytes]:
    """All files of the subjects of a data set."""
    files = (
        path
        for path in root.rglob("*")
        if path.is_file() and path.parts[len(root.parts)] in (*GOOD, "flagged")
    )
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_what_has_nothing_to_do_with_the_scans_deletes_no_result(copy, source):
    before = everything(copy)
    run = call("--pairs", source / "one.csv", "--out", copy, "--force", "--time-limit", 0.005)
    assert (
        run.status == 2
        and len(run.errors) == 1
        and run.errors[0].endswith("the earlier result stays")
    )
    assert everything(copy) == before and len(before) == 9

    run = call(
        "--pairs",
        source / "pairs.csv",
        "--out",
        copy,
        "--template",
        source / GOOD[0] / "pet.nii.gz",
    )
    assert (
        run.status == 2
        and len(run.errors) == 1
        and "no T1 template in MNI152 space" in run.errors[0]
    )
    assert everything(copy) == before


def test_a_broken_package_or_full_disk_deletes_no_result(copy, source, tmp_path):
    before = everything(copy)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import shutil\n"
        "usage = shutil.disk_usage\n"
        "shutil.disk_usage = lambda path: usage(path)._replace(free=0)\n"
    )
    flags = "--pairs", source / "pairs.csv", "--out", copy, "--force", "--assume-ras"
    run = call(*flags, PYTHONPATH=str(tmp_path / "broken"))
    assert run.status == 2 and sum("no space left" in line for line in run.errors) == 3
    assert sum(line.endswith("stays, made of other inputs or options") for line in run.errors) == 3
    assert everything(copy) == before


def test_one_refused_move_does_not_stop_the_others(copy, source):
    shutil.move(copy / GOOD[0], copy / "flagged" / GOOD[0])
    shutil.rmtree(copy / GOOD[1])
    code = (
        "import os\n"
        "rename = os.rename\n"
        "def refusing(a, b):\n"
        f"    if str(b).endswith('data/{GOOD[0]}'):\n"
        "        raise OSError(18, 'Invalid cross-device link')\n"
        "    rename(a, b)\n"
        "os.rename = refusing\n"
    )
    (copy.parent / "sitecustomize.py").write_text(code)
    run = call("--pairs", source / "pairs.csv", "--out", copy, PYTHONPATH=str(copy.parent))
    assert run.status == 1 and any(
        GOOD[0] in line and "cross-device" in line for line in run.errors
    )
    statuses = {name: row["status"] for name, row in rows(copy).items()}
    assert statuses == {GOOD[0]: "failed", GOOD[1]: "warned", CUT: "failed", NOISE: "flagged"}
    assert (copy / "flagged" / GOOD[0]).is_dir() and (copy / GOOD[1]).is_dir()


@pytest.mark.parametrize("flags", (("--space", "mni"), ("--mask", "head")))
def test_one_data_set_is_of_one_kind(copy, source, refuses, flags):
    names = copy, *flags, "choose another --out"
    refuses(prepare.main, "--pairs", source / "one.csv", "--out", copy, *flags, names=names)
    assert (copy / GOOD[0]).is_dir()


def test_a_second_run_leaves_the_tables_of_the_first(copy, source, refuses):
    before = (copy / "pairs.tsv").read_bytes()
    with PreparedFolder(copy).locked():
        for more in ((), ("--dry-run",)):
            refuses(
                prepare.main,
                "--pairs",
                source / "one.csv",
                "--out",
                copy,
                *more,
                names=("another prepare.py",),
            )
    assert (copy / "pairs.tsv").read_bytes() == before


# Interruptions -----------------------------------------------------------------------------------


def test_killed_runs_leave_nothing_half_written_and_are_continued(source, prepared, tmp_path):
    flags = "--pairs", source / "pairs.csv", "--out", tmp_path / "data", "--jobs", 2
    choice, scratch = random.Random(3), tmp_path / "scratch"
    scratch.mkdir()
    environment, silent = os.environ | {"TMPDIR": str(scratch)}, subprocess.DEVNULL
    for latest in (2, 3, 4):
        run = subprocess.Popen(
            command(*flags), cwd=REPOSITORY, stdout=silent, stderr=silent, env=environment
        )
        time.sleep(choice.uniform(0.5, latest))
        run.kill()
        run.wait()
        for image in (tmp_path / "data").rglob("*.nii.gz"):
            assert "working" in image.parts or nib.load(image).get_fdata().shape
    last = call(*flags, TMPDIR=str(scratch))
    assert last.status == 1, last.err
    assert not list(scratch.iterdir())
    assert digests(tmp_path / "data") == digests(prepared[0])
    assert sorted(os.listdir(tmp_path / "data" / ".prepare")) == ["lock", "workers"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cluster_makes_the_same_although_a_worker_dies(
    source, prepared, tmp_path, run_script, monkeypatch
):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cohort, "prepare_subject", unaligned.prepare_subject_or_kill)
    out = tmp_path / "data"
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**how, silence_logs=logging.CRITICAL) as cluster:
        flags = "--pairs", source / "pairs.csv", "--out", out
        status, _, err = run_script(prepare.main, *flags, "--scheduler", cluster.scheduler_address)
    assert (tmp_path / "killed").exists()
    assert status == 1 and err.count("error: ") == 1, err
    assert digests(out) == digests(prepared[0])
    statuses = [
        {name: row["status"] for name, row in rows(root).items()} for root in (out, prepared[0])
    ]
    assert statuses[0] == statuses[1]


def test_termination_ends_all_processes(source, tmp_path):
    flags = "--pairs", source / "pairs.csv", "--out", tmp_path / "data"
    with subprocess.Popen(
        command(*flags), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as run:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        # The one that a subject's folder is locked by is at work.
        wait_until(
            lambda: (tmp_path / "data" / ".prepare" / "working").exists() or run.poll() is not None
        )
        pids = [int(pid) for pid in children.read_text().split()]
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 128 + signal.SIGTERM
        assert b"Traceback" not in run.stderr.read()
    assert pids
    wait_until(lambda: not any(is_alive(pid) for pid in pids), 5)


def test_a_subject_over_its_time_is_stopped(source, tmp_path):
    flags = "--pairs", source / "one.csv", "--out", tmp_path / "data", "--time-limit", 0.01
    run = call(*flags, script=("prepare.py",))
    assert run.status == 2
    assert "stopped after 0.01 minutes" in run.errors[0] and "--time-limit" in run.errors[0]
    assert not list((tmp_path / "data").rglob("*.nii.gz"))


# Layouts, tables, flags --------------------------------------------------------------------------


def test_bids_layout_passes_the_validator(source, tmp_path):
    root = tmp_path / "data"
    run = call("--pairs", source / "one.csv", "--out", root, "--layout", "bids", "--space", "mni")
    assert run.status == 0, run.err
    cohort = find_subjects(root)
    assert [subject.name for subject in cohort.subjects] == [
        "sub-synthetic001"
    ] and cohort.layout == "BIDS"
    assert nib.load(cohort.subjects[0].mri).shape == (182, 218, 182) and not cohort.left_out
    assert rows(root)[GOOD[0]]["scale_x"]
    assert (root / "participants.tsv").read_text().splitlines()[
        1
    ] == "sub-synthetic001\tsynthetic-001"
    validator = shutil.which(
        "bids-validator-deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    answer = subprocess.run([validator, "--format", "json", root], capture_output=True, text=True)
    issues = json.loads(answer.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert answer.returncode == 0


def test_one_folder_holds_one_layout(copy, source, refuses):
    refuses(
        prepare.main,
        "--pairs",
        source / "one.csv",
        "--out",
        copy,
        "--layout",
        "bids",
        names=(copy, "pairs", "--out"),
    )


@pytest.mark.parametrize("labels", [(GOOD[1],), (f"sub-{GOOD[1]}", CUT)])
def test_only_some_participants(source, tmp_path, run_script, labels):
    flags = "--pairs", source / "pairs.csv", "--out", tmp_path / "data", "--dry-run"
    status, _, err = run_script(prepare.main, *flags, "--participant-label", *labels)
    assert status == 0, err
    assert rows(tmp_path / "data", "pairs.tsv").keys() == {GOOD[1], *labels[1:]}


def test_an_unknown_participant_is_refused(source, tmp_path, refuses):
    flags = "--pairs", source / "pairs.csv", "--out", tmp_path / "data"
    labels = "--participant_label", GOOD[0], "sub-99", "98"
    refuses(prepare.main, *flags, *labels, names=("--participant-label", "sub-99, 98"))
    assert not (tmp_path / "data").exists()


def test_what_an_array_of_jobs_made_is_judged_together(source, prepared, tmp_path):
    """Each participant into a folder of its own, all put into one, and the whole run again."""
    for name in (*GOOD, NOISE):
        flags = "--pairs", source / "pairs.csv", "--participant-label", name
        run = call(*flags, "--out", tmp_path / "parts" / name)
        assert run.status in (0, 1), run.err
        left = shutil.ignore_patterns(".prepare", "report.*", "pairs.tsv")
        shutil.copytree(
            tmp_path / "parts" / name, tmp_path / "data", ignore=left, dirs_exist_ok=True
        )
    run = call("--pairs", source / "pairs.csv", "--out", tmp_path / "data")
    assert run.status == 1, run.err
    assert digests(tmp_path / "data") == digests(prepared[0])
    statuses = {name: row["status"] for name, row in rows(tmp_path / "data").items()}
    assert statuses == dict.fromkeys(GOOD, "skipped") | {CUT: "failed", NOISE: "flagged"}


def test_a_dry_run_only_pairs(source, tmp_path, run_script):
    status, out, _ = run_script(
        prepare.main, "--pairs", source / "pairs.csv", "--out", tmp_path / "data", "--dry-run"
    )
    assert status == 0 and all(name in out for name in (*GOOD, CUT, NOISE))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".prepare", "pairs.tsv"]
    assert rows(tmp_path / "data", "pairs.tsv").keys() == {*GOOD, CUT, NOISE}


def test_folders_that_are_not_ours_are_left_alone(source, tmp_path):
    (tmp_path / GOOD[0]).mkdir()
    (tmp_path / GOOD[0] / "raw.dcm").write_text("precious")
    run = call("--pairs", source / "one.csv", "--out", tmp_path)
    assert run.status == 2 and "not made by this program" in run.errors[0]
    assert (tmp_path / GOOD[0] / "raw.dcm").read_text() == "precious"


@pytest.mark.parametrize(
    ("flags", "names"),
    (
        (("--out", "x"), ("--adni, --bids or --pairs", "is missing")),
        (("--adni", "a", "--bids", "b", "--out", "x"), ("--bids", "--adni")),
        (("--bids", "b", "--out", "x", "--ids", "ids.csv"), ("--ids", "--adni")),
        (("--adni", "a", "--out", "x", "--bids-filter", "f"), ("--bids-filter", "--bids")),
        (("--adni", "a", "--out", "x", "--tracer", "PiB"), ("--layout", "FDG, not of PiB")),
        (("--bids", "b", "--out", "x", "--tracer", "PiB"), ("--layout", "FDG, not of PiB")),
        (("--adni", "{source}", "--out", "{source}/new"), ("new", "input folder")),
        (("--adni", "{source}/nothing", "--out", "x"), ("nothing", "no such folder")),
        (("--pairs", "{source}/pairs.csv", "--out", "{source}"), ("lies inside the output",)),
        (
            ("--pairs", "{source}/pairs.csv", "--out", "x", "--template", "t.nii"),
            ("t.nii", "no such file"),
        ),
        (("--pairs", "{source}/pairs.csv", "--out", "x", "--space", "talairach"), ("--space",)),
        (("--pairs", "{source}/pairs.csv", "--out", "x", "--time-limit", "0"), ("--time-limit",)),
    ),
)
def test_flags_that_cannot_be(source, tmp_path, monkeypatch, refuses, flags, names):
    monkeypatch.chdir(tmp_path)
    refuses(prepare.main, *(flag.format(source=source) for flag in flags), names=names)
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_a_table_without_a_usable_line_is_nothing_done(tmp_path, run_script):
    (tmp_path / "pairs.csv").write_text("subject,mri,pet\na,missing.nii,missing.nii\n")
    flags = "--pairs", tmp_path / "pairs.csv", "--out", tmp_path / "data"
    status, _, err = run_script(prepare.main, *flags)
    first, second = err.splitlines()
    assert (
        status == 2
        and first.startswith("error: a: ")
        and "missing.nii: line 2: no such file" in first
    )
    assert second.startswith("error: ") and "no pair" in second and "pairs.tsv" in second
    assert run_script(prepare.main, *flags, "--dry-run")[0] == 1


def test_a_line_that_cannot_be_used_is_an_error_and_a_row(copy, source):
    table = source / "with_missing.csv"
    table.write_text((source / "one.csv").read_text() + f"lost,missing.nii,{GOOD[1]}/pet.nii.gz\n")
    run = call("--pairs", table, "--out", copy)
    assert run.status == 1 and len(run.errors) == 1
    assert run.errors[0].startswith("error: lost: ") and "missing.nii: line 3: " in run.errors[0]
    assert "1 scans left out (1 for faults)" in run.out
    row = rows(copy)["lost"]
    assert row["status"] == "failed" and "missing.nii" in row["message"]
    assert "<b>lost</b>" in (copy / "report.html").read_text()


def test_results_are_not_put_into_a_listed_folder(tmp_path, refuses):
    for name in ("mri", "pet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.dcm").write_bytes(bytes(128) + b"DICM" + name.encode())
    (tmp_path / "pairs.csv").write_text("subject,mri,pet\na,mri,pet\n")
    flags = "--pairs", tmp_path / "pairs.csv", "--out", tmp_path / "mri" / "out"
    refuses(prepare.main, *flags, names=("out", "lies in the input folder"))
    assert not (tmp_path / "mri" / "out").exists()


def test_it_needs_neither_torch_nor_monai():
    modules = "prepare, preparation.find.adni, preparation.find.table, preparation.read.scan, "
    modules += "preparation.align.pair, preparation.cohort, preparation.report"
    heavy = {"torch", "monai", "ants", "matplotlib"}
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr
