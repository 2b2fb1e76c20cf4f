"""evaluate.py at its boundary: methods and subjects in, scores, tables and pictures out."""

import csv
import importlib
import json
import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib import image as png
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

import evaluate
import metrics
from data.dataset import PairDataset
from data.settings import Preprocessing
from data.subjects import find_subjects
from data.volume import read_pair
from evaluation import scoring
from inference.trained import load_model
from models import build_model
from models.baselines.slicewise import Slicewise
from tests.helpers.launched import torchrun
from tests.helpers.runs import save_small_weights
from training import checkpoint
from training import weights as weights_file
from training.build import build_network
from training.config import TrainConfig

SIZE = 40
NAMES = ("psnr", "ssim", "nmi")
BAD = ("synthetic-003", "maximum")  # where a method is made to fail
TRIVIAL = ("copy-mri", "average", "mix", "mix-9-1", "maximum")
QUICK = ("--size", SIZE, "--metrics", *NAMES)


@pytest.fixture
def run_folder(tmp_path):
    """A run folder with an untrained network of 40^3."""
    return write_checkpoint(tmp_path / "run", 0)


def write_checkpoint(folder, seed):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    config = TrainConfig(embed_dim=24, size=SIZE)
    model = build_network(config)
    state = {
        "config": config.to_dict(),
        "model": model.state_dict(),
        "optimizer": {},
        "rng": checkpoint.rng_states(),
    }
    checkpoint.save(folder / "last.pt", {**state, "epoch": 1, "step": 1, "best": 0.1})
    return folder


@pytest.fixture
def score(run_script, synthetic_cohort, monkeypatch, tmp_path):
    """Function (*flags, data=, out=) -> (status, stdout, stderr) of evaluate.py on the synthetic
    cohort.
    """

    def call(*flags, data=synthetic_cohort, out=tmp_path / "out", pictures=False):
        with monkeypatch.context() as patched:
            if not pictures:  # they take most of the time
                patched.setattr("evaluation.plots.save_box_plots", lambda *_: None)
                patched.setattr("evaluation.plots.save_pages", lambda *_: None)
            return run(*flags, data=data, out=out)

    def run(*flags, data, out):
        return run_script(evaluate.main, "--data", data, "--out", out, *(flags or QUICK))

    return call


@pytest.fixture
def scored_volumes(monkeypatch):
    """A list that grows by one for each volume that is scored."""
    calls, real = [], scoring._scores
    monkeypatch.setattr(scoring, "_scores", lambda *args: calls.append(1) or real(*args))
    return calls


def read_scores(out):
    """{(protocol, method, subject, metric, source): value} of scores.csv."""
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    table = {tuple(row.values())[:-1]: float(row["value"]) for row in rows}
    assert len(table) == len(rows), "a row twice"
    return table


def copy_of(cohort, folder):
    return shutil.copytree(cohort, folder)


def sources(subject):
    """MRI and PET on the network's grid, as training sees them."""
    item = PairDataset([subject], Preprocessing(size=SIZE))[0, 0]
    return item["mri"][0], item["pet"][0]


# Scores ------------------------------------------------------------------------------------------


def test_every_row_has_the_scores_of_its_fusion(score, synthetic_cohort, run_folder, tmp_path):
    status, out, err = score(*QUICK, "--methods", f"dc2fusion={run_folder}")
    assert status == 0, err
    table = read_scores(tmp_path / "out")
    subjects = find_subjects(synthetic_cohort).subjects
    assert {key[2] for key in table} == {subject.name for subject in subjects}
    assert {key[1] for key in table} == {"dc2fusion", *TRIVIAL}
    mri, pet = sources(subjects[0])
    with torch.no_grad():
        network = load_model(run_folder).model(mri[None, None], pet[None, None])[0, 0]
    fusions = {
        "dc2fusion": network,
        "average": (mri + pet) / 2,
        "mix": (2 * mri + pet) / 3,
        "mix-9-1": 0.9 * mri + 0.1 * pet,
        "maximum": torch.maximum(mri, pet),
    }
    for method, fused in fusions.items():
        expected = metrics.score(fused, mri, pet, names=NAMES)
        for name in NAMES:
            for key, source in (
                (name, "mean"),
                (f"{name}_mri", "mri"),
                (f"{name}_pet", "pet"),
                (f"{name}_min", "min"),
            ):
                got = table["volume", method, subjects[0].name, name, source]
                assert got == pytest.approx(expected[key], rel=1e-6), (method, key)
    assert np.isinf(table["volume", "copy-mri", subjects[0].name, "psnr", "mri"])


@pytest.mark.parametrize("grid", scoring.GRIDS)
def test_the_published_protocol_is_scored_beside_it_on_its_own_grid(
    score, synthetic_cohort, monkeypatch, tmp_path, grid
):
    monkeypatch.setattr(scoring, "PUBLISHED_SIZE", SIZE)
    monkeypatch.setattr(importlib.import_module("metrics.score"), "PUBLISHED_SLICE", SIZE // 2)
    status, _, err = score(*QUICK, "--grid", grid)
    assert status == 0, err
    table = read_scores(tmp_path / "out")
    subject = find_subjects(synthetic_cohort).subjects[1]
    mri, pet = (volume[:, :, SIZE // 2].double() for volume in sources(subject))
    error = ((mri - (mri + pet) / 2) ** 2).mean()
    got = table["published", "average", subject.name, "psnr", "mri"]
    assert got == pytest.approx(-10 * torch.log10(error).item(), abs=1e-4)
    assert ("volume", "average", subject.name, "psnr", "mri") in table
    assert "## Protocol: published" in (tmp_path / "out" / "table.md").read_text()


def test_another_size_leaves_the_published_protocol_out_and_says_so(score, tmp_path):
    status, _, err = score(*QUICK)
    assert status == 0 and "published protocol needs 128" in err
    assert {key[0] for key in read_scores(tmp_path / "out")} == {"volume"}


def test_doubts_about_a_pair_are_kept_and_shown_again(score, synthetic_cohort, tmp_path):
    data = copy_of(synthetic_cohort, tmp_path / "data")
    file = data / "synthetic-002" / "synthetic-002_FDG_MNI152.nii.gz"
    image = nib.load(file)
    shifted = np.roll(np.asarray(image.dataobj), 3, axis=1)  # 18 mm to the front
    nib.save(nib.Nifti1Image(shifted, image.affine), file)
    _, out, err = score(data=data)
    (doubt,) = json.loads((tmp_path / "out" / "doubts.json").read_text())["synthetic-002"]
    assert "to the back" in doubt and err.count(f"notice: synthetic-002: {doubt}") == 1
    for said in (out, score(data=data)[1]):  # the second time nothing is read
        assert f"synthetic-002  {doubt}" in said
        assert "nothing speaks against 2 of 3 pairs" in said


def test_a_copy_of_the_mri_does_not_win_the_score_that_chooses_the_checkpoint(score, tmp_path):
    score(*QUICK)
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    start = lines.index("### The score that chooses best.pt")
    cells = [line.split("|") for line in lines[start + 4 : start + 9]]
    chosen = {row[1].strip(): float(row[2]) for row in cells}
    assert chosen.keys() == {"copy of the MRI", "average", "mix 2:1", "mix 0.9/0.1", "maximum"}
    assert chosen["copy of the MRI"] < chosen["average"]
    ssim = next(line for line in lines if line.startswith("| copy of the MRI ‡"))
    assert "**" not in ssim and "<u>" not in ssim


@pytest.mark.parametrize("codes", ["LAS", "PSR"])
def test_stored_orientation_does_not_change_a_score(score, synthetic_cohort, tmp_path, codes):
    data = copy_of(synthetic_cohort, tmp_path / "data")
    for path in data.rglob("*.nii.gz"):
        image = nib.load(path)
        change = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
        nib.save(image.as_reoriented(change), path)
    flags = (
        "--size",
        SIZE,
        "--metrics",
        "psnr",
        "ssim",
        "nmi",
        "qabf",
    )  # in 3-D and on axial slices
    score(*flags)
    score(*flags, data=data, out=tmp_path / "turned")
    upright, turned = read_scores(tmp_path / "out"), read_scores(tmp_path / "turned")
    assert upright.keys() == turned.keys()
    assert turned == pytest.approx(upright, abs=1e-6)


def test_scores_without_a_value_are_counted(score, tmp_path):
    """A window of VIF does not fit into 40 voxels: NaN in every row, said with its number."""
    status, _, err = score(
        "--size", SIZE, "--metrics", "vif", "--no-trivial", "--methods", "average"
    )
    assert status == 0, err
    text = (tmp_path / "out" / "table.md").read_text()
    assert "– (n=0)" in text and "VIF (3 of 3)" in text


def test_the_page_on_the_protocol_defines_every_metric():
    text = (Path(evaluate.__file__).parent / "docs" / "reproduce.md").read_text()
    defined = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert set(metrics.METRICS) <= set(defined)


# Methods that it is compared with ----------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    """Function (method) -> a file of its weights as its authors would publish them, untrained."""

    def write(name):
        torch.manual_seed(0)
        torch.save(build_model(name).method.state_dict(), tmp_path / f"{name}.pth")
        return tmp_path / f"{name}.pth"

    return write


@pytest.fixture
def one_subject(tmp_path):
    """A list of one subject."""
    (tmp_path / "one.txt").write_text("synthetic-002\n")
    return ("--list", tmp_path / "one.txt")


def test_comparison_methods_are_rows_like_any_other(
    score, synthetic_cohort, weights, one_subject, run_folder, tmp_path
):
    own = write_matr_run(run_folder, tmp_path / "matr-run")
    flags = ("--methods", "laplacian", f"matr={weights('matr')}", f"trained={own}")
    status, out, err = score(
        *QUICK, *one_subject, *flags, "--weights", f"matr:tokens=channels={weights('matr')}"
    )
    assert status == 0, err
    assert "matr: " in out and "published weights of matr, on axial slices" in out
    table = read_scores(tmp_path / "out")
    mri, pet = (
        volume[None, None] for volume in sources(find_subjects(synthetic_cohort).subjects[1])
    )
    released = build_model("matr", weights=weights("matr")).eval()
    repaired = build_model("matr", weights=weights("matr"), tokens="channels").eval()
    models = {"laplacian": build_model("laplacian"), "matr": released, "matr-channels": repaired}
    models["trained"] = load_model(own).model
    assert {key[1] for key in table} == {*models, *TRIVIAL}
    for label, model in models.items():
        with torch.no_grad():
            expected = metrics.score(model(mri, pet)[0, 0], mri[0, 0], pet[0, 0], names=NAMES)
        for name in NAMES:
            got = table["volume", label, "synthetic-002", name, "mean"]
            assert got == pytest.approx(expected[name], rel=1e-5), (label, name)
    assert "| Laplacian pyramid |" in (tmp_path / "out" / "table.md").read_text()


def write_matr_run(dc2fusion_run, folder):
    """A run folder of MATR, trained on coronal slices as it says."""
    torch.manual_seed(1)
    config = TrainConfig.of({"model": "matr", "size": SIZE, "plane": "coronal"})
    state = build_network(config).state_dict()
    content = checkpoint.read(dc2fusion_run / "last.pt") | {
        "config": config.to_dict(),
        "model": state,
    }
    folder.mkdir()
    torch.save(content, folder / "best.pt")
    return folder


def test_a_2d_method_runs_once_for_both_protocols(
    score, weights, one_subject, monkeypatch, tmp_path
):
    monkeypatch.setattr(scoring, "PUBLISHED_SIZE", SIZE)
    monkeypatch.setattr(importlib.import_module("metrics.score"), "PUBLISHED_SLICE", SIZE // 2)
    calls, real = [], Slicewise.forward
    monkeypatch.setattr(Slicewise, "forward", lambda *args: calls.append(1) or real(*args))
    flags = ("--no-trivial", "--weights", f"matr={weights('matr')}")
    status, _, err = score(*QUICK, *one_subject, *flags)
    assert status == 0, err
    assert {key[0] for key in read_scores(tmp_path / "out")} == {"published", "volume"}
    assert len(calls) == 1


def test_another_reading_of_published_weights_is_scored_again(
    score, weights, one_subject, scored_volumes
):
    path = weights("matr")

    def scored_anew(*flags):
        del scored_volumes[:]
        status, _, err = score(*QUICK, *one_subject, "--no-trivial", *flags)
        assert status == 0, err
        return bool(scored_volumes), "notice: matr: its files are not those" in err

    assert scored_anew("--weights", f"matr={path}") == (True, False)
    assert scored_anew("--methods", f"matr={path}") == (False, False)
    assert scored_anew("--methods", f"matr={path}", "--plane", "sagittal") == (True, True)
    os.utime(path, (1, 1))
    assert scored_anew("--methods", f"matr={path}", "--plane", "sagittal") == (True, True)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--methods", "matr"), ("--methods", "matr needs a checkpoint")),
        (("--methods", "laplacian=w.pth"), ("--methods", "laplacian takes no file")),
        (("--methods", "matr=nowhere.pth"), ("nowhere.pth", "No such file")),
        (("--methods", "matr=dc2fusion"), ("--methods", "is no matr, it is dc2fusion")),
        (("--methods", "mine=matr.pth"), ("matr.pth", "--weights METHOD=FILE")),
        (("--methods", "matr=matr.pth", "--weights", "matr=matr.pth"), ("matr twice",)),
        (("--weights", "matr"), ("--weights", "METHOD=FILE")),
        (
            ("--weights", "dc2fusion=matr.pth"),
            ("--weights", "'dc2fusion'", "swinfuse, u2fusion, dilran, matr"),
        ),
        (("--weights", "matr:patch=7=matr.pth"), ("--weights", "'patch'", "tokens")),
        (("--weights", "matr:tokens=all=matr.pth"), ("--weights", "'all'", "channels")),
        (("--weights", "dilran=matr.pth"), ("matr.pth", "DILRAN")),
        (("--weights", "matr=dc2fusion"), ("dc2fusion", "--methods LABEL=CHECKPOINT")),
        (("--weights", "matr=matr.pth", "--plane", "oblique"), ("--plane", "oblique")),
        (("--methods", "laplacian", "--plane", "coronal"), ("--plane", "published weights")),
    ],
)
def test_bad_names_and_files_of_methods_are_refused(
    refuses, synthetic_cohort, run_folder, weights, tmp_path, monkeypatch, flags, names
):
    monkeypatch.chdir(tmp_path)
    weights("matr")
    run_folder.rename(tmp_path / "dc2fusion")
    refuses(
        evaluate.main,
        "--data",
        synthetic_cohort,
        "--size",
        SIZE,
        "--out",
        "out",
        *flags,
        names=names,
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def one_thread():
    """As torchrun's processes have: sums of several threads end in other digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_processes_write_the_tables_of_one(score, synthetic_cohort, tmp_path, one_thread):
    flags = (*QUICK, "--methods", "laplacian", "--lesions")
    assert score(*flags)[0] == 0
    status, out, err = torchrun(
        "evaluate.py", "--data", synthetic_cohort, "--out", "shared", *flags, folder=tmp_path
    )
    assert status == 0, err
    assert out.count("3 subjects of 3 participants") == 1
    for name in ("scores.csv", "scores.json", "table.md", "statistics.csv", "lesions.csv"):
        texts = [(tmp_path / folder / name).read_text() for folder in ("out", "shared")]
        assert texts[0] == texts[1], name
    assert not list((tmp_path / "shared").glob("*-1.*"))


# Results of other programs -----------------------------------------------------------------------


@pytest.fixture
def fused_elsewhere(synthetic_cohort, tmp_path):
    """A folder with the average of each pair on its MRI's own grid, stored as LAS."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for subject in find_subjects(synthetic_cohort).subjects:
        settings = scoring.Settings(size=SIZE)
        mri, pet = scoring.Case(subject, settings).sources("native")
        image = nib.Nifti1Image(
            ((mri + pet) / 2).numpy(), read_pair(subject.mri, subject.pet)[0].affine
        )
        flip = nib.orientations.axcodes2ornt("LAS")
        change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), flip)
        nib.save(image.as_reoriented(change), folder / f"{subject.name}_fused.nii.gz")
    return folder


def test_volumes_fused_elsewhere_score_like_the_same_fusion_here(score, fused_elsewhere, tmp_path):
    status, _, err = score(
        *QUICK, "--grid", "native", "--fused", f"mine={fused_elsewhere}", out=tmp_path / "native"
    )
    assert status == 0, err
    table = read_scores(tmp_path / "native")
    for key, value in table.items():
        if key[1] == "mine":
            assert value == pytest.approx(
                table[(key[0], "average", *key[2:])], rel=1e-5, abs=1e-6
            ), key
    status, _, err = score(*QUICK, "--fused", f"mine={fused_elsewhere}", out=tmp_path / "network")
    assert status == 0, err
    table = read_scores(tmp_path / "network")
    ssim = [
        (v, table[(k[0], "average", *k[2:])])
        for k, v in table.items()
        if k[1] == "mine" and k[3] == "ssim"
    ]
    assert ssim and all(mine == pytest.approx(average, abs=0.005) for mine, average in ssim)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path, image: path.unlink(), "no volume of synthetic-002"),
        (
            lambda path, image: shutil.copy(path, path.with_name("synthetic-002-b.nii.gz")),
            "2 volumes of synthetic-002",
        ),
        (lambda path, image: save(path, image.get_fdata()[:-1], image.affine), "its MRI has"),
        (
            lambda path, image: save(path, image.get_fdata(), image.affine + moved(3)),
            "mm from the grid of its MRI",
        ),
        (
            lambda path, image: save(path, image.get_fdata() * 255, image.affine),
            "scale of the sources",
        ),
        (
            lambda path, image: save(path, with_noise(image.get_fdata() * 255), image.affine),
            "pass --fused-range LOW HIGH",
        ),
        (
            lambda path, image: save(path, 2 * image.get_fdata() - 1, image.affine),
            "its values run from -1 to",
        ),
        (
            lambda path, image: save(path, image.get_fdata() / 255, image.affine),
            "scale of the sources",
        ),
        (
            lambda path, image: path.write_bytes(path.read_bytes()[:200]),
            "synthetic-002_fused.nii.gz",
        ),
    ],
    ids=["missing", "twice", "shape", "moved", "0..255", "noisy", "-1..1", "dark", "truncated"],
)
def test_one_bad_volume_leaves_its_subject_out(score, fused_elsewhere, tmp_path, damage, problem):
    path = fused_elsewhere / "synthetic-002_fused.nii.gz"
    damage(path, nib.load(path))
    status, out, err = score(*QUICK, "--fused", f"mine={fused_elsewhere}")
    assert status == 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "synthetic-002" in errors[0] and problem in errors[0]
    assert "1 of 3 subjects were left out: synthetic-002" in err
    text = (tmp_path / "out" / "table.md").read_text()
    assert "n = 2 participants" in text and "| mine |" in text


def with_noise(array):
    """Noise of the air that hides the scale from the median: most voxels lie in (0, 1]."""
    noise = np.random.default_rng(0).uniform(0.01, 0.9, array.shape)
    noisy = np.where(array > 0, array, noise)
    assert 0 < np.median(noisy[noisy > 0]) <= 1
    return noisy


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1)])
def test_volumes_on_another_scale_that_is_named(score, fused_elsewhere, tmp_path, low, high):
    flags = *QUICK, "--no-trivial", "--fused", f"mine={fused_elsewhere}"
    status, _, err = score(*flags, out=tmp_path / "unit")
    assert status == 0, err
    for path in fused_elsewhere.iterdir():
        image = nib.load(path)
        save(path, image.get_fdata() * (high - low) + low, image.affine)
    status, _, err = score(*flags, "--fused-range", low, high, out=tmp_path / "other")
    assert status == 0, err
    expected = read_scores(tmp_path / "unit")
    for key, value in read_scores(tmp_path / "other").items():
        assert value == pytest.approx(expected[key], rel=1e-4), key
    status, _, err = score(*flags, "--fused-range", low, 10 * high, out=tmp_path / "other")
    assert "notice: mine: its files are not those" in err  # another reading is scored again


def test_a_method_that_fails_in_any_way_leaves_the_others_going(score, monkeypatch, tmp_path):
    real = scoring.Case.fuse

    def fuse(self, method, grids, device):
        if (self.name, method.label) == BAD:
            raise RuntimeError("out of memory\nsecond line")
        return real(self, method, grids, device)

    monkeypatch.setattr(scoring.Case, "fuse", fuse)
    status, _, err = score(*QUICK)
    assert status == 2 and "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: synthetic-003: maximum: RuntimeError out of memory (test_eval")
    assert "n = 2 participants" in (tmp_path / "out" / "table.md").read_text()


def test_scores_without_a_value_are_said_once(score, synthetic_cohort, one_subject):
    """MS-SSIM's four scales need 88 voxels."""
    status, _, err = score("--size", SIZE, "--metrics", "ms_ssim", "psnr")
    assert status == 0, err
    said = [line for line in err.splitlines() if "no value (nan)" in line]
    assert len(said) == 1 and "ms_ssim" in said[0] and "Warning" not in err


def save(path, array, affine):
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)


def moved(mm):
    shift = np.zeros((4, 4))
    shift[2, 3] = mm
    return shift


# Going on ----------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_stopped(score, scored_volumes, monkeypatch, tmp_path):
    score(*QUICK, out=tmp_path / "whole")
    whole = len(scored_volumes)
    assert whole == 3 * len(TRIVIAL)
    real = scoring.Case

    def second_time_ctrl_c(subject, settings):
        if subject.name == "synthetic-002":
            raise KeyboardInterrupt
        return real(subject, settings)

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "Case", second_time_ctrl_c)
        status, _, err = score(*QUICK)
    assert status == 130 and "Traceback" not in err
    assert {key[2] for key in read_scores(tmp_path / "out")} == {"synthetic-001"}
    del scored_volumes[:]
    status, out, _ = score(*QUICK)
    assert status == 0 and len(scored_volumes) == whole - len(TRIVIAL)
    assert "5 of 15 volumes are scored already" in out
    assert (tmp_path / "out" / "scores.csv").read_text() == (
        tmp_path / "whole" / "scores.csv"
    ).read_text()
    assert (tmp_path / "out" / "table.md").read_text() == (
        tmp_path / "whole" / "table.md"
    ).read_text()
    assert not [p.name for p in (tmp_path / "out").rglob(".*")], "half-written files left behind"


def test_a_new_method_is_added_and_overwrite_scores_anew(score, scored_volumes):
    score(*QUICK, "--no-trivial", "--methods", "average")
    del scored_volumes[:]
    score(*QUICK, "--no-trivial", "--methods", "average", "maximum")
    assert len(scored_volumes) == 3
    score(*QUICK, "--no-trivial", "--methods", "average", "maximum", "--overwrite")
    assert len(scored_volumes) == 3 + 6


def test_the_weights_of_the_code_are_rows_at_several_balances(
    score, one_subject, scored_volumes, monkeypatch, tmp_path
):
    monkeypatch.setattr(weights_file, "SHIPPED", tmp_path / "dc2fusion.safetensors")
    save_small_weights(weights_file.SHIPPED)
    flags = (*QUICK, *one_subject, "--no-trivial", "--methods", "dc2fusion", "laplacian")

    def scores(*more):
        del scored_volumes[:]
        status, _, err = score(*flags, *more)
        assert status == 0, err
        table = read_scores(tmp_path / "out")
        return {key[1]: value for key, value in table.items() if key[3:] == ("psnr", "mri")}

    own = scores()["dc2fusion"]
    assert len(scored_volumes) == 2 and scores()["dc2fusion"] == own and not scored_volumes
    assert scores("--balance", 0.4)["dc2fusion"] == own  # their own
    found = scores("--balance", 0.1, 0.4, 0.9)
    assert found["dc2fusion-0.4"] == own
    assert len({found[f"dc2fusion-{t}"] for t in (0.1, 0.4, 0.9)}) == 3
    assert scores("--balance", 0.9)["dc2fusion"] == found["dc2fusion-0.9"]
    refined = scores("--refine", 2)["dc2fusion"]
    assert len(scored_volumes) == 1 and refined != own  # the other method has no objective
    save_small_weights(weights_file.SHIPPED, refine=2)
    assert scores()["dc2fusion"] == refined
    assert scores("--refine", 0)["dc2fusion"] == own


def test_a_changed_checkpoint_is_scored_again_with_a_notice(
    score, run_folder, scored_volumes, tmp_path
):
    flags = (*QUICK, "--methods", f"dc2fusion={run_folder}")
    score(*flags)
    before = read_scores(tmp_path / "out")
    write_checkpoint(run_folder, 1)
    del scored_volumes[:]
    status, _, err = score(*flags)
    assert status == 0 and len(scored_volumes) == 3
    assert "notice: dc2fusion: its files are not those of the scores of 3 subjects" in err
    after = read_scores(tmp_path / "out")
    changed = {key[1] for key in before if before[key] != after[key] and not np.isnan(before[key])}
    assert changed == {"dc2fusion"} and before.keys() == after.keys()


def test_a_changed_subject_is_scored_again(score, synthetic_cohort, scored_volumes, tmp_path):
    data = copy_of(synthetic_cohort, tmp_path / "data")
    score(*QUICK, data=data)
    pet = find_subjects(data).subjects[2].pet
    os.utime(pet, (1, 1))
    del scored_volumes[:]
    score(*QUICK, data=data)
    assert len(scored_volumes) == len(TRIVIAL)


def test_scores_of_other_settings_are_not_mixed(score, refuses, synthetic_cohort, tmp_path):
    score(*QUICK)
    kept = (tmp_path / "out" / "scores.csv").read_text()
    base = ("--data", synthetic_cohort, "--out", tmp_path / "out")
    refuses(
        evaluate.main,
        *base,
        "--size",
        48,
        "--metrics",
        *NAMES,
        names=(tmp_path / "out", "size 40, not 48"),
    )
    refuses(evaluate.main, *base, *QUICK, "--mask", "head", names=("mask none, not head",))
    refuses(
        evaluate.main,
        *base,
        "--size",
        SIZE,
        "--metrics",
        "cc",
        names=("metrics psnr ssim nmi, not cc",),
    )
    assert (tmp_path / "out" / "scores.csv").read_text() == kept
    (tmp_path / "out" / "scores.json").write_text("{}")
    refuses(evaluate.main, *base, *QUICK, names=("scores.json", "--overwrite"))
    status, _, _ = score("--size", 48, "--metrics", *NAMES, "--overwrite")
    assert status == 0
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["settings"]["size"] == 48


# Bad input ---------------------------------------------------------------------------------------


def test_one_bad_subject_is_left_out(score, synthetic_cohort, tmp_path):
    data = copy_of(synthetic_cohort, tmp_path / "data")
    mri = find_subjects(data).subjects[0].mri
    mri.write_bytes(mri.read_bytes()[:1000])
    status, _, err = score(*QUICK, data=data)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and errors[0].startswith("error: synthetic-001: ")
    assert {key[2] for key in read_scores(tmp_path / "out")} == {"synthetic-002", "synthetic-003"}
    assert "n = 2 participants" in (tmp_path / "out" / "table.md").read_text()


def test_a_method_that_fails_on_one_subject_leaves_it_out_of_every_row(
    score, monkeypatch, tmp_path
):
    real = scoring.Case.fuse

    def nan_once(self, method, grids, device):
        fused = real(self, method, grids, device)
        return (
            {g: v * float("nan") for g, v in fused.items()}
            if (self.name, method.label) == BAD
            else fused
        )

    monkeypatch.setattr(scoring.Case, "fuse", nan_once)
    status, _, err = score(*QUICK)
    assert status == 2
    assert "error: synthetic-003: maximum: fused" in err and "NaN" in err
    assert "n = 2 participants" in (tmp_path / "out" / "table.md").read_text()


def test_a_list_chooses_the_subjects(score, tmp_path):
    (tmp_path / "test.txt").write_text("synthetic-003\nsynthetic-001\n")
    status, _, _ = score(*QUICK, "--list", tmp_path / "test.txt")
    assert status == 0
    assert {key[2] for key in read_scores(tmp_path / "out")} == {"synthetic-001", "synthetic-003"}


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--methods", "laplacian", "--balance", 0.3), ("--balance", "trained for any")),
        (("--methods", "laplacian", "--balance", 0.3, 1.3), ("--balance", "0 to 1")),
        (("--methods", "swinfuze"), ("--methods", "swinfuze", "average")),
        (("--methods", "average=run"), ("--methods", "average")),
        (("--methods", "MRI=run"), ("--methods", "MRI")),
        (("--methods", "a/b=run"), ("--methods", "a/b")),
        (("--methods", "mine=nowhere"), ("nowhere", "no such checkpoint")),
        (("--methods", "average", "average"), ("average", "twice")),
        (("--fused", "mine"), ("--fused", "LABEL=FOLDER")),
        (("--fused-range", "0", "255"), ("--fused-range", "that of --fused")),
        (("--fused", "mine=.", "--fused-range", "1", "1"), ("--fused-range", "no range")),
        (("--fused", "mine=nowhere"), ("nowhere", "no such folder")),
        (("--fused", "mine=."), ("no volume of any of the 3 subjects",)),
        (("--fused", "average=."), ("--fused", "average")),
        (("--metrics", "psnr", "lpips"), ("--metrics", "lpips", "ssim")),
        (("--protocol", "published"), ("--size", "128")),
        (("--protocol", "both"), ("--size", "128")),
        (("--no-trivial",), ("--no-trivial",)),
        (("--mask", "brain"), ("--mask",)),
        (("--list", "nowhere.txt"), ("nowhere.txt",)),
    ],
)
def test_bad_flags_are_refused_before_any_work(
    refuses, synthetic_cohort, tmp_path, monkeypatch, flags, names
):
    monkeypatch.chdir(tmp_path)
    refuses(
        evaluate.main,
        "--data",
        synthetic_cohort,
        "--size",
        SIZE,
        "--out",
        "out",
        *flags,
        names=names,
    )
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(refuses, synthetic_cohort, tmp_path):
    (tmp_path / "out").touch()
    refuses(
        evaluate.main,
        "--data",
        synthetic_cohort,
        *QUICK,
        "--out",
        tmp_path / "out",
        names=("is a file",),
    )


# Pictures ----------------------------------------------------------------------------------------


def test_pictures_show_every_subject_and_method_in_one_window(score, synthetic_cohort, tmp_path):
    flags = ("--size", SIZE, "--metrics", "psnr")
    score(
        *flags, "--no-trivial", "--methods", "average"
    )  # a page has what earlier runs scored, too
    status, _, err = score(*flags, pictures=True)
    assert status == 0, err
    out = tmp_path / "out"
    boxes = sorted(path.name for path in (out / "boxplots").iterdir())
    assert boxes == ["volume_clipped.png", "volume_psnr.png", "volume_psnr_pooled.png"]
    page = png.imread(out / "pictures-01.png")
    assert min(page.shape[:2]) > 800
    assert not list(out.glob("pictures-02.png"))
    subject = find_subjects(synthetic_cohort).subjects[0]
    with np.load(out / "slices" / f"{subject.name}.npz") as planes:
        mri, pet = planes["axial/MRI"].astype(float), planes["axial/PET"].astype(float)
        assert {key.split("/")[1] for key in planes if "/" in key} == {"MRI", "PET", *TRIVIAL}
        assert planes["axial/average"] == pytest.approx((mri + pet) / 2, abs=1)
        assert planes["axial/maximum"] == pytest.approx(np.maximum(mri, pet), abs=1)


# Lesions and optima ------------------------------------------------------------------------------


def transfers_of(out):
    """{(method, part): transfer} of one subject."""
    table = read_scores(out)
    assert len({key[2] for key in table}) == 1
    return {(key[1], key[4]): value for key, value in table.items() if key[3] == "transfer"}


@pytest.mark.parametrize("grid", ["network", "native"])
def test_a_page_shows_every_method_and_its_scores(score, synthetic_cohort, tmp_path, grid):
    flags = (*QUICK, "--methods", "laplacian", "--page", "--grid", grid)
    status, _, err = score(*flags)
    assert status == 0, err
    table = read_scores(tmp_path / "out")
    for subject in find_subjects(synthetic_cohort).subjects:
        text = (tmp_path / "out" / "pages" / f"{subject.name}.html").read_text("utf-8")
        about = json.loads(re.search(r'id="about">(.*?)</script>', text)[1])
        titles = [layer["name"] for layer in about["fused"]]
        assert titles[:3] == ["Laplacian pyramid", "copy of the MRI", "average"]
        assert [row[0] for row in about["scores"][1:]] == titles
        parts = [table["volume", "average", subject.name, "ssim", s] for s in ("mri", "pet")]
        assert about["scores"][3][2] == "{:.3f} / {:.3f}".format(*parts)
        mri = nib.as_closest_canonical(nib.load(subject.mri))
        if grid == "native":
            start = mri.affine @ [*about["start"], 1]
            np.testing.assert_allclose(np.array(about["affine"])[:, 3], start, atol=1e-4)
        assert about["mri"]["window"][1] == pytest.approx(mri.get_fdata().max(), rel=0.2)


def test_lesion_transfer_of_every_method_that_can_be_run(
    score, one_subject, run_folder, tmp_path, refuses, synthetic_cohort
):
    flags = (*QUICK, *one_subject, "--lesions", "--methods", "laplacian", f"net={run_folder}")
    status, out, err = score(*flags)
    assert status == 0, err
    found = transfers_of(tmp_path / "out")
    shares = {"copy-mri": (1, 0), "average": (0.5, 0.5), "mix": (2 / 3, 1 / 3)}
    for method, (mri, pet) in shares.items():
        assert found[method, "mri"] == pytest.approx(mri, abs=1e-5)
        assert found[method, "pet"] == pytest.approx(pet, abs=1e-5)
        assert found[method, "min"] == pytest.approx(min(mri, pet), abs=1e-5)
        assert found[method, "mean"] == pytest.approx(0.5, abs=1e-5)
    assert 0.5 < found["laplacian", "min"] < 1
    assert ("net", "min") in found
    text = (tmp_path / "out" / "table.md").read_text()
    section = text[text.index("### Lesion transfer") :].splitlines()[2]
    assert section == "| Method | Transfer MRI ↑ | Transfer PET ↑ | Transfer min ↑ |"
    with open(tmp_path / "out" / "lesions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "average"]
    assert {(row["source"], row["draw"]) for row in rows} == {
        (source, str(draw)) for source in ("mri", "pet") for draw in range(3)
    }
    assert "| average | 0.50±0.00 | 0.50±0.00 |" in (tmp_path / "out" / "lesions.md").read_text()
    assert png.imread(tmp_path / "out" / "lesions.png").shape[0] > 500
    other = ("--data", synthetic_cohort, "--out", tmp_path / "out", *QUICK)
    refuses(evaluate.main, *other, names=("lesions", "--out"))


def test_more_kinds_of_lesions(score, one_subject, tmp_path):
    flags = ("--no-trivial", "--methods", "maximum", "--lesions", "full")
    status, _, err = score(*QUICK, *one_subject, *flags)
    assert status == 0, err
    header = (tmp_path / "out" / "lesions.md").read_text().splitlines()[4]
    assert "| mri r5 -0.35 | pet r10 -0.35 | mri r4 -0.35 | mri r4 +0.35 |" in header
    with open(tmp_path / "out" / "lesions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 12 * 3


def fuse_elsewhere(mri_file, pet_file, case, path):
    """Another program's volume: 0.7 MRI + 0.3 PET, on the scale of the untouched sources."""
    fused = 0
    for key, share, file in (("mri", 0.7, mri_file), ("pet", 0.3, pet_file)):
        image = nib.load(file)
        low = float(case.prepared[key].min())
        fused = fused + share * (image.get_fdata() - low) / case.scale(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(fused.astype(np.float32), image.affine), path)


def test_lesions_for_another_program(score, synthetic_cohort, one_subject, tmp_path):
    exported, fused = tmp_path / "exported", tmp_path / "fused"
    status, out, err = score(*QUICK, *one_subject, "--export-lesions", exported)
    assert status == 0, err
    assert "6 pairs" in out and not (tmp_path / "out").exists()
    listed = json.loads((exported / "lesions.json").read_text())["pairs"]
    pairs = find_subjects(exported).subjects
    assert sorted(pair.name for pair in pairs) == sorted(entry["name"] for entry in listed)

    subject = next(s for s in find_subjects(synthetic_cohort).subjects if "002" in s.name)
    case = scoring.Case(subject, scoring.Settings(size=SIZE))
    fuse_elsewhere(subject.mri, subject.pet, case, fused / f"{subject.name}_fused.nii.gz")
    flags = (*QUICK, *one_subject, "--lesions", "--fused", f"mine={fused}")
    status, _, err = score(*flags)
    assert status == 0, err
    found = transfers_of(tmp_path / "out")
    assert np.isnan(found["mine", "pet"]) and found["average", "pet"] == pytest.approx(0.5)
    assert "– (n=0)" in (tmp_path / "out" / "table.md").read_text()

    for pair in pairs:
        fuse_elsewhere(pair.mri, pair.pet, case, fused / "lesions" / f"{pair.name}.nii.gz")
    status, _, err = score(*flags, "--overwrite")
    assert status == 0, err
    found = transfers_of(tmp_path / "out")
    assert found["mine", "mri"] == pytest.approx(0.7, abs=1e-4)
    assert found["mine", "pet"] == pytest.approx(0.3, abs=1e-4)

    (fused / "lesions" / f"{pairs[0].name}.nii.gz").unlink()
    status, _, err = score(*flags, "--overwrite")
    assert status == 2 and f"no volume of {pairs[0].name}" in err


def test_the_optimum_of_an_objective_is_a_method(score, one_subject, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.optimum.Optimum.__init__.__defaults__", (30,))
    methods = ("optimum", "optimum:salient-additive:1:1")
    flags = ("--size", SIZE, "--metrics", "ssim", *one_subject, "--methods", *methods)
    status, _, err = score(*flags)
    assert status == 0, err
    table = read_scores(tmp_path / "out")
    ssim = {key[1]: value for key, value in table.items() if key[3:] == ("ssim", "mri")}
    assert ssim["optimum"] > 0.9 > ssim["optimum-salient-additive-1-1"] > ssim["average"]


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--methods", "optimum:dice"), ("--methods", "dice", "salient-additive")),
        (("--methods", "optimum:salient-additive:1"), ("--methods", "NAME:MRI:PET")),
        (("--methods", "optimum=run"), ("--methods", "takes no file")),
        (("--lesions", "big"), ("--lesions", "standard")),
    ],
)
def test_wrong_optima_and_lesions_are_refused(refuses, synthetic_cohort, tmp_path, flags, names):
    where = ("--data", synthetic_cohort, "--out", tmp_path / "out", *QUICK)
    refuses(evaluate.main, *where, *flags, names=names)
