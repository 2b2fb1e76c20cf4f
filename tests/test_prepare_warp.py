"""prepare.py --warp: a learned field behind the affine transform, used, judged, kept and resumed.

The alignment's stand-in is as in `tests.test_prepare`; the network's process is the real one.
"""

import json
import os
import random
import shutil
import subprocess
import time

import nibabel as nib
import numpy as np
import pytest

import prepare
from data.displacement import read_displacement, sample_through
from data.grids import Image
from data.phantom.cohort import write_cohort
from data.template_space import FIELD_OF_VIEW
from data.volume import read_volume
from tests.helpers.golden import ROOT as REPOSITORY
from tests.helpers.runs import save_shifting
from tests.helpers.unaligned import MNI_MM, mni_grid
from tests.test_prepare import call, command, digests, rows, write_table

NAME = "synthetic-001"
SMALL, LARGE = (0.02, -0.03, 0.01), (4.0, 0.0, 0.0)  # voxels of 7 mm
pytest.importorskip("nilearn")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """A coarse output grid, which takes a third of the time."""
    monkeypatch.setenv(MNI_MM, "4")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """One coarse pair, and two networks: one that hardly moves it, one that moves it far."""
    root = tmp_path_factory.mktemp("source")
    write_cohort(root / "cohort", subjects=1, voxel_mm=4)
    (root / NAME).mkdir()
    for kind, file in (("mri", "mri"), ("FDG", "pet")):
        original = root / "cohort" / NAME / f"{NAME}_{kind}_MNI152.nii.gz"
        shutil.copy(original, root / NAME / f"{file}.nii.gz")
    write_table(root / "pairs.csv", [NAME])
    for name, shift in (("good", SMALL), ("bad", LARGE)):
        (root / name).mkdir()
        save_shifting(root / name / "best.pt", shift)
    return root


@pytest.fixture
def flags(source, tmp_path):
    return "--pairs", source / "pairs.csv", "--out", tmp_path / "data", "--space", "mni"


def test_both_images_go_through_the_field_which_is_kept(source, flags, tmp_path):
    run = call(*flags, "--warp", source / "good")
    assert run.status == 0, run.err
    folder = tmp_path / "data" / NAME
    field = read_displacement(folder / f"{NAME}_warp_MNI152.nii.gz")
    shift_mm = np.array(SMALL) * FIELD_OF_VIEW / 32
    assert field.vectors[16, 16, 16] == pytest.approx(shift_mm, rel=1e-5)
    for kind, file in (("mri", "mri"), ("pet", "FDG")):
        scan = read_volume(source / NAME / f"{kind}.nii.gz")
        made = read_volume(folder / f"{NAME}_{file}_MNI152.nii.gz")
        whole = Image(scan.array, scan.affine)
        expected = sample_through(whole, *mni_grid(), field)
        assert np.abs(made.array - np.maximum(expected, 0)).max() < 1e-4 * expected.max()
    record = json.loads((folder / f"{NAME}.json").read_text())
    assert record["outputs"]["field"]["shape"] == [32, 32, 32, 1, 3] and len(record["warp"]) == 64
    row = rows(tmp_path / "data")[NAME]
    length = np.linalg.norm(shift_mm)
    assert float(row["warp_max_mm"]) == pytest.approx(length, rel=1e-4)
    assert float(row["warp_folded"]) == 0
    page = (tmp_path / "data" / "report.html").read_text()
    assert f"qc/{NAME}_warp.png" in page and (tmp_path / "data/qc" / f"{NAME}_warp.png").is_file()

    before = digests(tmp_path / "data")
    again = call(*flags, "--warp", source / "good" / "best.pt")
    assert rows(tmp_path / "data")[NAME]["status"] == "skipped", again.err
    for other in ((), ("--warp", source / "bad")):
        refused = call(*flags, *other)
        assert refused.status == 2 and "--warp" in refused.err
    assert digests(tmp_path / "data") == before


def test_a_field_that_fits_worse_is_flagged_and_the_affine_result_kept_apart(
    source, flags, tmp_path
):
    run = call(*flags, "--warp", source / "bad")
    assert run.status == 1 and "fits worse" in run.err
    assert "the affine result was kept" in rows(tmp_path / "data")[NAME]["flags"]
    plain = tmp_path / "plain"
    call(*flags[:3], plain, *flags[4:])
    for file in ("mri", "FDG"):
        name = f"{NAME}/{NAME}_{file}_MNI152.nii.gz"
        flagged = tmp_path / "data" / "flagged" / name
        assert flagged.read_bytes() == (plain / name).read_bytes()
    assert (tmp_path / "data" / "flagged" / NAME / f"{NAME}_warp_MNI152.nii.gz").is_file()


def test_a_killed_run_is_continued_with_the_same_bytes(source, flags, tmp_path):
    whole = tmp_path / "whole"
    warp = "--warp", source / "good"
    call(*flags[:3], whole, *flags[4:], *warp)
    choice, silent = random.Random(1), subprocess.DEVNULL
    for _ in range(2):
        run = subprocess.Popen(command(*flags, *warp), cwd=REPOSITORY, stdout=silent, stderr=silent)
        time.sleep(choice.uniform(3, 8))
        run.kill()
        run.wait()
    last = call(*flags, *warp)
    assert last.status == 0, last.err
    assert digests(tmp_path / "data") == digests(whole)
    assert sorted(os.listdir(tmp_path / "data" / ".prepare")) == ["lock", "workers"]


def test_bids_has_the_field_beside_the_mri(source, flags, tmp_path):
    run = call(*flags, "--warp", source / "good", "--layout", "bids")
    assert run.status == 0, run.err
    (field,) = (tmp_path / "data").rglob("*_xfm.nii.gz")
    assert field.name == ("sub-synthetic001_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.nii.gz")
    assert nib.load(field).shape == (32, 32, 32, 1, 3)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (("--warp", "{source}/good", "--space", "mri"), ("--warp", "--space mni")),
        (("--warp-python", "python"), ("--warp-python", "--warp")),
        (("--warp", "{source}/none"), ("none", "no such checkpoint")),
        (("--warp", "{source}/pairs.csv"), ("--warp", "not a checkpoint")),
        (("--warp", "{source}/good", "--warp-python", "no-such-python"), ("no-such-python",)),
    ],
)
def test_networks_that_cannot_be_used_are_refused_before_any_work(
    source, flags, tmp_path, refuses, more, names
):
    more = (part.format(source=source) for part in more)
    refuses(prepare.main, *flags, *more, names=names)
    assert not (tmp_path / "data" / NAME).exists()
