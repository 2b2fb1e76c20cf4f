"""train_diff.py on pairs that are drawn, for one balance or for any."""

import pytest
import torch

import infer_sigleImage
import train_diff
from inference.trained import load_model
from tests.helpers.runs import save_small_weights, table, weights
from training import weights as shipped

QUICK = ("--synthesis", "labels", "--drawn", 3, "--size", 20, "--embed-dim", 24, "--depths", 1, 1)
QUICK += ("--workers", 0, "--epochs", 2)


@pytest.fixture
def draw_and_train(run_script, label_maps, tmp_path):
    """Function (*flags, name) -> run folder, of a quick training that must succeed."""

    def call(*flags, name="run"):
        place = ("--out", tmp_path, "--name", name, "--labels", label_maps)
        status, _, err = run_script(train_diff.main, *place, *QUICK, *flags)
        assert status == 0, err
        return tmp_path / name

    return call


@pytest.fixture(scope="module")
def turning(label_maps, tmp_path_factory):
    """A run for any balance; read only."""
    out = tmp_path_factory.mktemp("turning")
    flags = ("--out", out, "--name", "run", "--labels", label_maps, *QUICK, "--balance", "any")
    train_diff.main([str(flag) for flag in flags])
    return out / "run"


def test_it_trains_without_any_data(draw_and_train):
    folder = draw_and_train()
    losses = [float(row["loss/total"]) for row in table(folder / "losses.csv")]
    assert len(losses) == 2
    assert (folder / "train.txt").read_text().strip() == ""
    assert table(folder / "scores.csv")[0]["n"] != "0"


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(draw_and_train, run_script, turning):
    part = draw_and_train("--balance", "any", "--epochs", 1, name="part")
    status, _, err = run_script(train_diff.main, "--resume", part, "--epochs", 2)
    assert status == 0, err
    # the schedule of the learning rate knows the number of epochs, the first epoch's rate does not
    assert torch.equal(weights(turning / "last.pt"), weights(part / "last.pt"))


def test_a_network_for_any_balance_turns(turning):
    model = load_model(turning).model
    generator = torch.Generator().manual_seed(0)
    mri, pet = torch.rand(2, 1, 1, 16, 16, 16, generator=generator)
    with torch.no_grad():
        towards_pet, towards_mri = model(mri, pet, 0.1), model(mri, pet, 0.9)
        assert not torch.equal(towards_pet, towards_mri)
        model.default_balance = 0.9
        assert torch.equal(model(mri, pet), towards_mri)


def test_the_knob_is_a_flag(
    draw_and_train, turning, run_script, refuses, synthetic_cohort, tmp_path
):
    files = [
        synthetic_cohort / "synthetic-001" / f"synthetic-001_{kind}_MNI152.nii.gz"
        for kind in ("mri", "FDG")
    ]
    pair = (
        "--mri",
        files[0],
        "--pet",
        files[1],
        "--checkpoint",
        turning,
        "--resolution",
        "published",
    )
    fused = []
    for balance in (0.2, 0.8):
        output = tmp_path / f"{balance}.nii.gz"
        flags = (*pair, "--balance", balance, "--output", output)
        status, _, err = run_script(infer_sigleImage.main, *flags)
        assert status == 0, err
        fused.append(output.read_bytes())
    assert fused[0] != fused[1]
    fixed = draw_and_train(name="fixed")
    flags = (*pair[:4], "--checkpoint", fixed, "--balance", 0.5)
    refuses(infer_sigleImage.main, *flags, names=("--balance", "one balance"))
    refuses(infer_sigleImage.main, *pair, "--balance", 1.5, names=("--balance", "0 to 1"))


def test_refining_follows_the_balance(turning):
    trained = load_model(turning)
    assert trained.objective == "ssim-gradient-intensity:1.5:1.5"
    assert trained.turned_to(2 / 3).objective == "ssim-gradient-intensity:2:1"


def test_real_and_drawn_pairs_are_mixed(draw_and_train, synthetic_cohort):
    folder = draw_and_train("--data", synthetic_cohort, "--cache", "memory", "--size", 36)
    assert len((folder / "train.txt").read_text().split()) == 2
    assert table(folder / "scores.csv")[0]["n"] == "1"


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--synthesis", "labels"), ("--labels", "is missing")),
        (("--synthesis", "both"), ("--labels", "is missing")),
        (("--balance", "any", "--beta2", 3), ("--beta2", "--balance any")),
        (("--model", "matr", "--synthesis", "heads"), ("--synthesis", "matr")),
        (("--synthesis", "labels", "--labels", "none"), ("none", "no such folder")),
    ],
)
def test_what_does_not_go_together_is_refused(refuses, tmp_path, flags, names):
    refuses(train_diff.main, "--out", tmp_path, *flags, names=names)


def test_a_training_goes_on_from_the_weights_of_the_code(
    draw_and_train, run_script, refuses, tmp_path, monkeypatch
):
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "weights" / "dc2fusion.safetensors")
    save_small_weights(shipped.SHIPPED, objective="salient-additive")
    run = draw_and_train("--init", "weights", "--lr", "1e-9")
    given = load_model(shipped.SHIPPED).model.state_dict()
    trained = load_model(run)
    assert trained.objective == "salient-additive:1.5:1.5"
    for name, parameter in trained.model.named_parameters():
        torch.testing.assert_close(parameter, given[name], atol=1e-6, rtol=0)

    shipped.SHIPPED.unlink()  # a run that has begun needs it no more
    status, _, err = run_script(train_diff.main, "--resume", run, "--epochs", 3)
    assert status == 0, err
    refuses(train_diff.main, "--init", "weights", names=("dc2fusion.safetensors", "no such file"))


def test_another_network_than_the_weights_is_refused(refuses, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "dc2fusion.safetensors")
    save_small_weights(shipped.SHIPPED)
    flags = ("--init", "weights", "--embed-dim", 48)
    refuses(train_diff.main, *flags, names=("--embed-dim", "48", "24"))
    refuses(train_diff.main, "--init", "weights", "--alpha1", 2, names=("--alpha1", "any balance"))
