"""train_diff.py at its boundary: flags in, a run folder out."""

import json
import math
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_diff
from data.dataset import PairDataset
from data.settings import Preprocessing
from data.subjects import find_subjects
from inference.trained import load_model
from losses import OBJECTIVES
from metrics import score as score_volume
from tests.helpers import workers
from tests.helpers.launched import torchrun
from tests.helpers.runs import QUICK, SMALL_NETWORK, table, weights
from training import checkpoint, start
from training.config import TrainConfig
from training.datasets import build_datasets
from training.devices.distributed import launch
from training.runlog import start_run_folder
from training.trainer import REFERENCES, Trainer, learning_rate
from training.trainer import train as train_in_process
from utils.locks import alone_in


def test_a_run_leaves_everything_that_is_promised(train, synthetic_cohort):
    folder = train("--epochs", 2)
    config = json.loads((folder / "config.json").read_text())
    assert config["embed_dim"] == 24 and config["data"] == str(synthetic_cohort)
    names = [(folder / f"{part}.txt").read_text().split() for part in ("train", "validation")]
    assert sorted(sum(names, [])) == ["synthetic-001", "synthetic-002", "synthetic-003"]
    assert [len(part) for part in names] == [2, 1]

    losses = table(folder / "losses.csv")
    assert [row["epoch"] for row in losses] == ["1", "2"]
    scores = table(folder / "scores.csv")
    seen = {(row["epoch"], row["method"], row["score"]) for row in scores}
    for epoch in "12":
        for method in ("dc2fusion", "average", "copy-mri"):
            for score in ("psnr", "ssim", "nmi"):
                assert {(epoch, method, f"{score}_mri"), (epoch, method, f"{score}_pet")} <= seen
    copy = {row["score"]: float(row["mean"]) for row in scores if row["method"] == "copy-mri"}
    assert (
        copy["ssim_mri"] == pytest.approx(1)
        and copy["psnr_mri"] == math.inf
        and copy["ssim_pet"] < 0.9
    )


def test_tensorboard_holds_terms_by_source_and_reference_lines(train):
    folder = train("--epochs", 1)

    def tags(run, kind):
        events = EventAccumulator(str(folder / "log" / run))
        events.Reload()
        return set(events.Tags()[kind])

    scalars = tags("training", "scalars")
    for term in OBJECTIVES["ssim-gradient-intensity"]:
        assert {f"loss/{term}/mri", f"loss/{term}/pet"} <= scalars
    assert {
        "loss/total",
        "learning rate",
        "gradient norm",
        "time/step seconds",
        "memory/peak GiB",
    } <= scalars
    assert any(tag.startswith("fusion/synthetic-00") for tag in tags("dc2fusion", "images"))
    for method in ("dc2fusion", "average", "copy-mri"):
        assert "validation/ssim_pet" in tags(method, "scalars")


def test_the_same_seed_trains_the_same_network_and_another_one_another(train):
    first = weights(train("--epochs", 1, name="first") / "last.pt")
    assert torch.equal(first, weights(train("--epochs", 1, name="again") / "last.pt"))
    assert not torch.equal(
        first, weights(train("--epochs", 1, "--seed", 5, name="other") / "last.pt")
    )


@pytest.mark.parametrize(
    "more", [(), ("--ema", 0.9), ("--optimizer", "muon")], ids=["plain", "mean", "muon"]
)
def test_a_resumed_run_equals_an_uninterrupted_one(train, run_script, monkeypatch, more):
    more = ("--workers", 1, *more)  # starting one must not shift what is drawn afterwards
    whole = train("--epochs", 3, *more, name="whole")

    original = Trainer.train_epoch

    def interrupted(self, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch)

    monkeypatch.setattr(Trainer, "train_epoch", interrupted)
    with pytest.raises(AssertionError, match="interrupted"):
        train("--epochs", 3, *more, name="stopped")
    monkeypatch.undo()
    stopped = whole.with_name("stopped")
    assert checkpoint.read(stopped / "last.pt")["epoch"] == 2
    status, _, err = run_script(train_diff.main, "--resume", stopped)
    assert status == 0, err
    ours, expected = (checkpoint.read(folder / "last.pt") for folder in (stopped, whole))
    assert torch.equal(weights(stopped / "last.pt"), weights(whole / "last.pt"))
    for state, reference in zip(moments(ours), moments(expected), strict=True):
        assert all(torch.equal(state[key], reference[key]) for key in reference)
    assert (ours["epoch"], ours["step"], ours["best"]) == (
        expected["epoch"],
        expected["step"],
        expected["best"],
    )
    assert (stopped / "scores.csv").read_text() == (whole / "scores.csv").read_text()
    events = [
        EventAccumulator(str(folder / "log" / "training")).Reload() for folder in (stopped, whole)
    ]
    curves = [[(e.step, e.value) for e in run.Scalars("loss/total")] for run in events]
    assert curves[0] == curves[1] and len(curves[0]) == 6


def moments(content):
    """What the optimisers of a checkpoint keep of each parameter."""
    states = content["optimizer"]
    states = states if isinstance(states, list) else [states]
    return [kept for state in states for kept in state["state"].values()]


def test_resuming_a_finished_run_says_so_and_more_epochs_train_on(train, run_script):
    folder = train("--epochs", 1)
    status, out, _ = run_script(train_diff.main, "--resume", folder)
    assert status == 0 and "all 1 epochs" in out
    status, _, err = run_script(train_diff.main, "--resume", folder, "--epochs", 2)
    assert status == 0, err
    assert checkpoint.read(folder / "last.pt")["epoch"] == 2


def test_best_is_chosen_by_the_smaller_mean_ssim(train):
    folder = train("--epochs", 4)
    rows = [row for row in table(folder / "scores.csv") if row["method"] == "dc2fusion"]
    smaller = {
        epoch: min(
            float(r["mean"])
            for r in rows
            if r["epoch"] == epoch and r["score"] in ("ssim_mri", "ssim_pet")
        )
        for epoch in "1234"
    }
    best = checkpoint.read(folder / "best.pt")
    assert best["best"] == pytest.approx(max(smaller.values()), rel=1e-4)
    assert str(best["epoch"]) == max(smaller, key=smaller.get)


def test_best_can_be_chosen_by_the_released_score(train, synthetic_cohort, monkeypatch):
    monkeypatch.setattr(
        sys.modules["metrics.score"], "PUBLISHED_SLICE", 34
    )  # the middle of this small volume
    folder = train("--epochs", 1, "--size", 68, "--best-by", "released")
    released = {
        row["method"]: float(row["mean"])
        for row in table(folder / "scores.csv")
        if row["score"] == "released"
    }
    assert checkpoint.read(folder / "best.pt")["best"] == pytest.approx(
        released["dc2fusion"], rel=1e-4
    )
    assert released["copy-mri"] == math.inf  # a copy wins it, which is why it is not the default
    held_out = (folder / "validation.txt").read_text().split()
    subjects = [s for s in find_subjects(synthetic_cohort).subjects if s.name in held_out]
    item = PairDataset(subjects, Preprocessing(size=68))[0, 0]
    mri, pet = item["mri"][0], item["pet"][0]
    terms = score_volume((mri + pet) / 2, mri, pet, protocol="published")
    expected = 0.1 * terms["psnr"] + terms["ssim"] + terms["nmi"] + terms["mi"] + terms["fsim"]
    assert released["average"] == pytest.approx(expected, rel=1e-4)


def test_loss_weights_and_objective_reach_the_loss(train):
    folder = train(
        "--epochs", 1, "--objective", "lncc-ssim-l1", "--alpha1", 0, "--beta2", 3, "--gamma2", 0.5
    )
    row = table(folder / "losses.csv")[0]
    terms = {name: float(value) for name, value in row.items()}
    expected = terms["loss/lncc/pet"] + 2 * terms["loss/ssim/mri"] + 3 * terms["loss/ssim/pet"]
    expected += 2 * terms["loss/l1/mri"] + 0.5 * terms["loss/l1/pet"]
    assert terms["loss/total"] == pytest.approx(expected, rel=1e-4)


def test_options_reach_the_network(train):
    folder = train(
        "--epochs",
        1,
        "--variant",
        "released",
        "--switch",
        "R5",
        "R4",
        "--amp",
        "--batch-size",
        2,
        "--val-every",
        9,
    )
    config = checkpoint.read_own(folder / "best.pt")[1]
    assert config.recipe == "released" and config.switched == ("R5", "R4")
    model = load_model(folder).model
    assert model.variant.scrambled_partner and not model.variant.linear_attention


def test_published_lists_choose_the_subjects(train, synthetic_cohort, tmp_path):
    (tmp_path / "train.csv").write_text("synthetic-003,synthetic-001,")
    (tmp_path / "val.txt").write_text("synthetic-002\n")
    lists = ("--train-list", tmp_path / "train.csv", "--val-list", tmp_path / "val.txt")
    folder = train("--epochs", 1, *lists)
    assert (folder / "train.txt").read_text().split() == ["synthetic-003", "synthetic-001"]
    assert (folder / "validation.txt").read_text().split() == ["synthetic-002"]


def test_the_published_command_runs_on_the_synthetic_cohort(run_script, tmp_path, monkeypatch):
    """Its flags as published, made small by further ones; the cohort is made on the way.

    All other runs of these tests are of two stages, this one of the published four.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "SYNTHETIC_SUBJECTS", 2)
    published = "--alpha1 2 --alpha2 1 --beta1 2 --beta2 1 --gamma1 2 --gamma2 1 --gpus 0".split()
    quick = *QUICK, "--depths", *TrainConfig().depths, "--epochs", 1
    status, out, err = run_script(train_diff.main, *published, *quick, "--name", "published")
    assert status == 0, err
    assert "synthetic" in err
    if not torch.cuda.is_available():
        assert "make demo" in err
    assert (tmp_path / "result" / "published" / "best.pt").is_file()


def test_published_defaults():
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.lr, config.seed) == (500, 1, 1e-4, 3407)
    assert (config.size, config.embed_dim, config.variant) == (128, 96, "paper")
    assert config.weights == ((2, 1), (2, 1), (2, 1))
    rates = [learning_rate(config, epoch) for epoch in (0, 250, 499)]
    assert rates == [1e-4, round(1e-4 * 0.5**0.9, 8), round(1e-4 * (1 / 500) ** 0.9, 8)]


@pytest.fixture
def two_processes(synthetic_cohort, tmp_path):
    """Function (**options) -> a configuration and data sets of two training and two validation
    pairs, for `launch`.
    """

    def prepare(**options):
        subjects = find_subjects(synthetic_cohort).subjects
        options |= {"epochs": 1, "workers": 0, "gpus": (0, 1), "out": str(tmp_path), "name": "two"}
        config = TrainConfig.of(options)
        parts = subjects[:2], subjects[1:]
        start_run_folder(config, parts)
        return config, build_datasets(config, *parts)

    return prepare


SMALL = SMALL_NETWORK | {"size": 36, "cache": "none"}
SMALL_2D = {"model": "matr", "size": 16, "batch_size": 64, "cache": "memory"}


@pytest.mark.parametrize("options", [SMALL, SMALL_2D], ids=["dc2fusion", "matr"])
def test_two_processes_train_one_network(two_processes, tmp_path, options):
    """Data-parallel on two CPU processes: each sees its share, weights and statistics end the same
    in both.
    """
    launch(
        workers.train_and_compare,
        [torch.device("cpu")] * 2,
        *two_processes(**options),
        tmp_path / "checksums.json",
    )
    content = checkpoint.read(tmp_path / "two" / "last.pt")
    assert content["step"] == 1 and len(content["rng"]) == 2
    rows = [
        row for row in table(tmp_path / "two" / "scores.csv") if row["method"] not in REFERENCES
    ]
    assert {row["n"] for row in rows} == {"2"}
    first, second = json.loads((tmp_path / "checksums.json").read_text())
    assert first == pytest.approx(second, rel=1e-12)


def test_torchrun_trains_the_run_that_gpus_train(
    two_processes, synthetic_cohort, tmp_path, quick_processes
):
    """One writer, everything said once, and the same numbers whoever starts the processes."""
    names = [subject.name for subject in find_subjects(synthetic_cohort).subjects]
    for name, listed in (("train", names[:2]), ("val", names[2:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(listed))
    flags = ("--data", synthetic_cohort, "--size", 36, "--embed-dim", 24)
    flags += ("--depths", 1, 1, "--cache", "none")
    flags += ("--train-list", "train.txt", "--val-list", "val.txt", "--workers", 0, "--epochs", 1)
    flags += ("--out", "result", "--name", "launched", "--sync-batchnorm")
    status, out, err = torchrun("train_diff.py", *flags, folder=tmp_path, restarts=1)
    assert status == 0, err
    assert out.count("done: ") == out.count("writing to ") == 1
    assert err.count("no GPU") == 1
    launched = tmp_path / "result" / "launched"
    content = checkpoint.read(launched / "last.pt")
    assert content["step"] == 1 and len(content["rng"]) == 2

    config, (train, _) = two_processes(**SMALL, sync_batchnorm=True)
    held_out = PairDataset(find_subjects(synthetic_cohort).subjects[2:], config.preprocessing)
    launch(train_in_process, [torch.device("cpu")] * 2, config, (train, held_out))
    assert torch.equal(weights(launched / "last.pt"), weights(tmp_path / "two" / "last.pt"))
    assert (launched / "scores.csv").read_text() == (tmp_path / "two" / "scores.csv").read_text()


def test_torchrun_cannot_start_a_run_again_that_has_no_name(monkeypatch, refuses):
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place["MASTER_PORT"] = str(free.getsockname()[1])
    monkeypatch.setattr("utils.errors._may_say", None)  # which the group changes
    for name, value in (place | {"TORCHELASTIC_MAX_RESTARTS": "3"}).items():
        monkeypatch.setenv(name, value)
    refuses(train_diff.main, names=("--name", "--max-restarts"))


def test_a_loss_that_is_not_finite_in_one_process_is_said_once_and_stops_all(two_processes, capfd):
    with pytest.raises(SystemExit) as ended:
        launch(workers.diverge_in_the_second, [torch.device("cpu")] * 2, *two_processes(**SMALL))
    assert ended.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "step 1 (synthetic-00" in errors[0] and "loss/total = nan" in errors[0]


class TestBadInput:
    @pytest.fixture(autouse=True)
    def in_an_empty_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("flags", "names"),
        [
            (("--alpha1", "-1"), ("--alpha1", "-1")),
            (("--beta2", "nan"), ("--beta2", "nan")),
            (
                sum(((f"--{n}{i}", 0) for n in ("alpha", "beta", "gamma") for i in (1, 2)), ()),
                ("all six",),
            ),
            (("--size", 8), ("--size", "16")),
            (("--size", 64, "--best-by", "released"), ("--best-by", "slice 64")),
            (("--embed-dim", 50), ("--embed-dim", "50", "multiple of 24")),
            (("--switch", "R7"), ("--switch", "R7", "R1")),
            (("--fusion", "l9"), ("--fusion", "l9", "l1-norm")),
            (("--objective", "dice"), ("--objective", "dice", "lncc-ssim-l1")),
            (("--variant", "best"), ("--variant", "best")),
            (("--epochs", 0), ("--epochs", "0")),
            (("--name", "a/b"), ("--name", "a/b")),
            (("--train-list", "x.txt"), ("--train-list", "--val-list")),
            (("--data", "nowhere"), ("nowhere",)),
            (("--resume", "nowhere"), ("nowhere",)),
            (("--gpus", "zero"), ("--gpus", "zero")),
            (("--seed", 10**20), ("--seed",)),
        ],
    )
    def test_flags(self, refuses, tmp_path, flags, names):
        refuses(train_diff.main, *flags, names=names)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_a_size_that_leaves_one_token_for_a_batch_of_one(
        self, refuses, synthetic_cohort, tmp_path, batch_size
    ):
        """Three training pairs in batches of two leave one over."""
        names = ["synthetic-001", "synthetic-002"] if batch_size == 1 else ["synthetic-001"]
        (tmp_path / "t.txt").write_text("\n".join(names))
        (tmp_path / "v.txt").write_text("synthetic-003")
        flags = (
            "--data",
            synthetic_cohort,
            "--train-list",
            "t.txt",
            "--val-list",
            "v.txt",
            "--batch-size",
            batch_size,
        )
        refuses(
            train_diff.main, *flags, "--size", 32, names=("--size", "BatchNorm", "--batch-size")
        )

    def test_empty_list(self, refuses, synthetic_cohort, tmp_path):
        (tmp_path / "empty.txt").write_text("\n# nobody\n")
        (tmp_path / "val.txt").write_text("synthetic-001\n")
        flags = ("--data", synthetic_cohort, "--train-list", "empty.txt", "--val-list", "val.txt")
        refuses(train_diff.main, *flags, names=("empty.txt",))

    def test_a_list_with_a_path_in_it(self, refuses, synthetic_cohort, tmp_path):
        (tmp_path / "t.txt").write_text("../synthetic-002\n")
        (tmp_path / "v.txt").write_text("synthetic-001\n")
        flags = ("--data", synthetic_cohort, "--train-list", "t.txt", "--val-list", "v.txt")
        refuses(train_diff.main, *flags, names=("t.txt", "../synthetic-002"))

    def test_a_broken_volume_stops_before_anything_is_written(
        self, refuses, synthetic_cohort, tmp_path
    ):
        data = shutil.copytree(synthetic_cohort, tmp_path / "data")
        broken = data / "synthetic-002" / "synthetic-002_FDG_MNI152.nii.gz"
        broken.write_bytes(broken.read_bytes()[:2000])
        refuses(train_diff.main, "--data", data, *QUICK, "--name", "run", names=(broken.name,))
        assert not (tmp_path / "result" / "run").exists()

    def test_a_subject_with_one_modality_is_left_out_and_said(
        self, run_script, synthetic_cohort, tmp_path
    ):
        data = shutil.copytree(synthetic_cohort, tmp_path / "data")
        (data / "synthetic-002" / "synthetic-002_FDG_MNI152.nii.gz").unlink()
        status, out, _ = run_script(
            train_diff.main, "--data", data, *QUICK, "--epochs", 1, "--name", "run"
        )
        assert status == 0
        assert "1 subject left out" in out and "synthetic-002" in out

    def test_a_run_is_never_written_over(self, refuses, synthetic_cohort, tmp_path):
        (tmp_path / "result" / "mine").mkdir(parents=True)
        (tmp_path / "result" / "mine" / "best.pt").write_text("precious")
        refuses(
            train_diff.main, "--data", synthetic_cohort, "--name", "mine", names=("--name", "mine")
        )
        assert (tmp_path / "result" / "mine" / "best.pt").read_text() == "precious"

    @pytest.mark.parametrize("resumed", [False, True])
    def test_a_run_that_is_at_work_is_left_alone(
        self, refuses, synthetic_cohort, tmp_path, resumed
    ):
        folder = tmp_path / "result" / "mine"
        flags = ("--data", synthetic_cohort, "--out", tmp_path / "result", "--name", "mine")
        with alone_in(folder, "wait"):
            flags = ("--resume", folder) if resumed else (*flags, *QUICK)
            refuses(train_diff.main, *flags, names=("mine", "another program is at work"))
            assert [path.name for path in folder.iterdir()] == [".lock"]

    def test_a_run_that_ended_before_its_first_epoch_starts_afresh(self, train, tmp_path):
        folder = tmp_path / "result" / "run"
        (folder / "log" / "training").mkdir(parents=True)
        (folder / "log" / "training" / "events.out.old").write_text("curves of the attempt")
        (folder / "config.json").write_text("{}")
        assert train("--epochs", 1) == folder
        assert (folder / "last.pt").is_file() and not (
            folder / "log" / "training" / "events.out.old"
        ).exists()

    def test_the_same_command_resumes_again_and_again(
        self, train, run_script, synthetic_cohort, tmp_path, monkeypatch
    ):
        (tmp_path / "t.txt").write_text("synthetic-001\nsynthetic-003\n")
        (tmp_path / "v.txt").write_text("synthetic-002\n")
        lists = ("--train-list", "t.txt", "--val-list", "v.txt")
        folder = train("--epochs", 1, *lists)
        for epochs in (2, 3):
            status, _, err = run_script(
                train_diff.main, "--resume", folder, *lists, "--epochs", epochs
            )
            assert status == 0, err
            assert json.loads((folder / "config.json").read_text())["epochs"] == epochs
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        status, _, err = run_script(train_diff.main, "--resume", folder, "--epochs", 4)
        assert status == 0, err

    def test_a_cache_that_cannot_be_written_is_named_as_such(
        self, refuses, synthetic_cohort, tmp_path
    ):
        (tmp_path / "result").write_text("a file in the place of the folder")
        refuses(
            train_diff.main,
            "--data",
            synthetic_cohort,
            "--size",
            36,
            names=("cache", "--cache memory"),
        )

    def test_resuming_with_a_flag_that_makes_another_run(self, refuses, train):
        folder = train("--epochs", 1)
        refuses(train_diff.main, "--resume", folder, "--lr", 0.5, names=("--lr", "0.5"))
        refuses(
            train_diff.main,
            "--resume",
            folder,
            "--model",
            "matr",
            names=("--model", "matr", "dc2fusion"),
        )
        refuses(
            train_diff.main, "--resume", folder, "--plane", "axial", names=("--plane", "dc2fusion")
        )

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.gpu
    def test_a_device_that_is_not_there(self, refuses, synthetic_cohort):
        refuses(train_diff.main, "--data", synthetic_cohort, "--gpus", 99, names=("--gpus", "99"))

    def test_a_device_that_is_not_there_while_others_are(
        self, refuses, synthetic_cohort, monkeypatch
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        refuses(
            train_diff.main,
            "--data",
            synthetic_cohort,
            "--gpus",
            "1,7",
            names=("--gpus", "7", "0, 1"),
        )


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    train, monkeypatch, refuses, tmp_path
):
    folder = train("--epochs", 1)
    good = (folder / "last.pt").read_bytes()
    original = torch.optim.Adam.step

    def poisoned(self, *args, **kwargs):
        original(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][-1].fill_(np.inf)

    monkeypatch.setattr(torch.optim.Adam, "step", poisoned)
    names = ("epoch 2", "step 4", "synthetic-00", "loss/ssim/mri", "last.pt")
    refuses(train_diff.main, "--resume", folder, "--epochs", 3, names=names)
    assert (folder / "last.pt").read_bytes() == good


def test_a_network_that_gives_nan_in_validation_stops_before_it_is_saved(
    train, monkeypatch, refuses
):
    folder = train("--epochs", 1)
    good = (folder / "last.pt").read_bytes()

    monkeypatch.setattr(Trainer, "_run", lambda self, mri, pet: mri / 0)
    refuses(
        train_diff.main,
        "--resume",
        folder,
        "--epochs",
        2,
        names=("epoch 2", "synthetic-00", "NaN", "last.pt"),
    )
    assert (folder / "last.pt").read_bytes() == good
