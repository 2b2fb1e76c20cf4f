"""train_diff.py --model: the 2-D methods through the same trainer, on slices."""

import pytest
import torch

import train_diff
from data.subjects import find_subjects
from losses.baselines.vgg import Vgg16
from tests.helpers.runs import table, weights
from training import checkpoint
from training.config import TrainConfig
from training.datasets import build_datasets
from training.devices.distributed import Process
from training.trainer import build_trainer, learning_rate


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "lr"),
    [
        ("swinfuse", 50, 4, 1e-5),
        ("u2fusion", 3, 18, 1e-4),
        ("dilran", 100, 4, 1e-4),
        ("matr", 10, 64, 1e-3),
    ],
)
def test_published_defaults_of_the_2d_methods(name, epochs, batch_size, lr):
    config = TrainConfig.of({"model": name})
    assert (config.epochs, config.batch_size, config.lr) == (epochs, batch_size, lr)
    assert {learning_rate(config, epoch) for epoch in range(epochs)} == {lr}
    assert TrainConfig.of({"model": name, "lr": 0.5}).lr == 0.5


# Learning rates at which a handful of steps is enough to see the loss fall.
@pytest.mark.parametrize(
    ("name", "lr"), [("swinfuse", 1e-3), ("u2fusion", 1e-4), ("dilran", 1e-3), ("matr", 1e-3)]
)
def test_a_2d_method_learns_and_a_resumed_run_equals_an_uninterrupted_one(
    train, run_script, name, lr
):
    flags = ("--model", name, "--lr", lr, "--val-every", 2)
    whole = train(*flags, "--epochs", 2, name="whole")
    first, last = (float(row["loss/total"]) for row in table(whole / "losses.csv"))
    assert last < first
    assert {row["method"] for row in table(whole / "scores.csv")} == {name, "average", "copy-mri"}
    stopped = train(*flags, "--epochs", 1, name="stopped")
    status, out, err = run_script(train_diff.main, "--resume", stopped, "--epochs", 2)
    assert status == 0, err
    assert torch.equal(weights(stopped / "last.pt"), weights(whole / "last.pt"))
    assert err.count("--vgg") == (name in ("u2fusion", "dilran"))


@pytest.mark.parametrize(("name", "lr"), [("dilran", 1e-3), ("matr", 1e-3)])
def test_a_trained_2d_method_beats_its_untrained_self_on_a_held_out_subject(
    synthetic_cohort, tmp_path, name, lr
):
    subjects = find_subjects(synthetic_cohort).subjects
    options = {
        "model": name,
        "lr": lr,
        "size": 24,
        "batch_size": 8,
        "workers": 0,
        "cache": "memory",
    }
    config = TrainConfig.of(options | {"out": str(tmp_path)})
    torch.manual_seed(0)
    trainer = build_trainer(
        Process(0, 1, torch.device("cpu")),
        config,
        build_datasets(config, subjects[:2], subjects[2:]),
    )
    untrained = trainer.validate()
    for epoch in range(4):
        trainer.train_epoch(epoch)
    trained = trainer.validate()
    for source in ("mri", "pet"):
        assert trained[f"ssim_{source}"][0] > untrained[f"ssim_{source}"][0] + 0.02, source


def test_vgg_has_a_part_in_the_loss_where_its_weights_are_given(train, tmp_path):
    torch.manual_seed(0)
    torch.save(Vgg16(batch_norm=True).state_dict(), tmp_path / "vgg.pth")
    folder = train(
        "--model", "dilran", "--vgg", tmp_path / "vgg.pth", "--epochs", 1, "--plane", "sagittal"
    )
    row = {name: float(value) for name, value in table(folder / "losses.csv")[0].items()}
    expected = row["loss/mse"] + 0.2 * row["loss/sobel"] + 0.2 * row["loss/perceptual"]
    assert row["loss/total"] == pytest.approx(expected, rel=1e-4) and row["loss/perceptual"] > 0
    assert not any("vgg" in key for key in checkpoint.read(folder / "last.pt")["model"])


def test_weights_are_limited_after_a_step_where_that_was_published(synthetic_cohort, tmp_path):
    subjects = find_subjects(synthetic_cohort).subjects
    options = {
        "model": "u2fusion",
        "size": 16,
        "batch_size": 2,
        "workers": 0,
        "cache": "memory",
        "out": str(tmp_path),
    }
    config = TrainConfig.of(options)
    datasets = build_datasets(config, subjects[:1], subjects[1:2])
    trainer = build_trainer(Process(0, 1, torch.device("cpu")), config, datasets)
    bias = trainer.model.method.decoder.conv2_4.bias
    with torch.no_grad():
        bias.fill_(1000)
    trainer.train_step(next(iter(trainer.loader)))
    assert bias.item() == 50
    group = trainer.optimizers[0].param_groups[0]
    assert (group["alpha"], group["momentum"], group["lr"]) == (0.6, 0.15, 1e-4)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--model", "fusiongan"), ("--model", "fusiongan", "matr")),
        (("--model", "matr", "--alpha1", 2), ("--alpha1", "matr")),
        (("--model", "dilran", "--embed-dim", 24), ("--embed-dim", "dilran")),
        (("--model", "swinfuse", "--variant", "paper"), ("--variant", "swinfuse")),
        (("--model", "u2fusion", "--switch", "R4"), ("--switch", "u2fusion")),
        (("--model", "matr", "--compile"), ("--compile", "matr")),
        (("--model", "matr", "--vgg", "vgg.pth"), ("--vgg", "matr")),
        (("--model", "matr", "--cache", "none"), ("--cache", "disk")),
        (("--model", "dilran", "--vgg", "nowhere.pth"), ("nowhere.pth", "No such file")),
        (("--model", "dilran", "--vgg", __file__), (__file__, "state dict")),
        (("--plane", "coronal"), ("--plane", "dc2fusion")),
        (("--vgg", "vgg.pth"), ("--vgg", "dc2fusion")),
    ],
)
def test_flags_that_mean_nothing_to_the_model_or_cannot_be_followed(
    refuses, tmp_path, monkeypatch, flags, names
):
    monkeypatch.chdir(tmp_path)
    refuses(train_diff.main, *flags, names=names)
    assert list(tmp_path.iterdir()) == []


def test_resuming_with_a_flag_that_means_nothing_to_the_model(refuses, train):
    folder = train("--model", "matr", "--epochs", 1)
    for flag, value in (("--compile", ()), ("--embed-dim", (24,)), ("--vgg", ("vgg.pth",))):
        refuses(train_diff.main, "--resume", folder, flag, *value, names=(flag, "matr"))
