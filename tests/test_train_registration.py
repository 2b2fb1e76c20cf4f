"""train_diff.py --model transmorph: heads onto a template or each other, by the one trainer."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import infer_sigleImage
import train_diff
from data.phantom.cohort import subject_seed, write_image
from data.phantom.head import make_subject
from data.subjects import PUBLISHED_LABELS, PUBLISHED_MRI, published_file
from tests.helpers.runs import table, weights
from training import checkpoint
from training.build import build_network
from training.config import TrainConfig
from training.hyperparameters import PUBLISHED, REGISTRATION
from training.trainer import learning_rate

MODELS = [name for name, method in PUBLISHED.items() if method.kind == REGISTRATION]
QUICK = ("--network", "tiny", "--size", 32, "--workers", 0, "--cache", "memory", "--lr", "1e-3")
SUBJECTS = ("--onto", "subjects")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Root of four coarse heads without PETs, with labels; and lists of two and two."""
    root = tmp_path_factory.mktemp("heads")
    names = [f"head-{number}" for number in range(4)]
    for number, name in enumerate(names):
        head = make_subject(subject_seed(1, number), 8.0)
        for ending, values in ((PUBLISHED_MRI, head.mri), (PUBLISHED_LABELS, head.labels)):
            write_image(published_file(root / "data", name, ending), values, head.affine)
    for title, chosen in (("train", names[:2]), ("validation", names[2:])):
        (root / f"{title}.txt").write_text("\n".join(chosen))
    return root


@pytest.fixture
def register(run_script, labelled, tmp_path):
    """Function (model, *flags, name) -> run folder, of a quick training that must succeed."""

    def call(model, *flags, name="run"):
        lists = ("--train-list", labelled / "train.txt", "--val-list", labelled / "validation.txt")
        data = () if "--synthesis" in flags else ("--data", labelled / "data", *lists)
        flags = ("--model", model, *data, "--out", tmp_path, "--name", name, *QUICK, *flags)
        status, _, err = run_script(train_diff.main, *flags)
        assert status == 0, err
        return tmp_path / name

    return call


@pytest.mark.parametrize("model", MODELS)
def test_a_registration_learns_and_a_resumed_run_equals_an_uninterrupted_one(
    register, run_script, model
):
    flags = (*SUBJECTS, "--similarity", "ncc", "--dice-weight", 1, "--best-by", "dice")
    whole = register(model, *flags, "--val-every", 2, "--epochs", 2, name="whole")
    first, last = (float(row["loss/total"]) for row in table(whole / "losses.csv"))
    assert last < first
    scores = {(row["method"], row["score"]) for row in table(whole / "scores.csv")}
    after = {(model, name) for name in ("dice", "similarity", "folded", "sdlogj", "moved")}
    assert scores == after | {("before", "dice"), ("before", "similarity")}
    # The schedule knows the number of epochs, but the first epoch's rate does not.
    stopped = register(model, *flags, "--epochs", 1, name="stopped")
    status, _, err = run_script(train_diff.main, "--resume", stopped, "--epochs", 2)
    assert status == 0, err
    assert torch.equal(weights(stopped / "last.pt"), weights(whole / "last.pt"))
    events = EventAccumulator(str(whole / "log" / model)).Reload()
    assert events.Tags()["images"][0].startswith("registration/")
    page = (whole / "report.html").read_text()
    assert "Dice" in page and "moving head in red" in page and "--warp" in page
    assert len(list((whole / "pictures").glob("*/epoch-000002.png"))) == 2
    assert checkpoint.read_own(stopped / "best.pt")[1].model == model


def test_onto_a_template_of_a_file_and_programs_that_fuse_refuse_it(
    register, labelled, refuses, synthetic_cohort
):
    template = published_file(labelled / "data", "head-0", PUBLISHED_MRI)
    folder = register("transmorph", "--template", template, "--epochs", 1)
    assert {row["score"] for row in table(folder / "scores.csv")} >= {"similarity", "folded"}
    pair = [
        published_file(synthetic_cohort, "synthetic-001", e) for e in (PUBLISHED_MRI, "_FDG_MNI152")
    ]
    flags = ("--checkpoint", folder, "--mri", pair[0], "--pet", pair[1])
    refuses(infer_sigleImage.main, *flags, names=("best.pt", "registers"))
    flags = ("--data", synthetic_cohort, "--methods", f"mine={folder}")
    refuses(evaluate.main, *flags, names=("best.pt", "registers"))


def test_on_label_maps_by_synthesis(register, label_maps):
    flags = ("--synthesis", "labels", "--labels", label_maps, "--drawn", 2, "--epochs", 1)
    folder = register("transmorph-diff", *flags, "--voxel-mm", 6)
    config = checkpoint.read_own(folder / "last.pt")[1]
    assert (config.similarity, config.dice_weight, config.best_by) == ("none", 1.0, "dice")
    assert {"dice", "folded"} <= {row["score"] for row in table(folder / "scores.csv")}


def test_published_defaults():
    config = TrainConfig.of({"model": "transmorph"})
    assert (config.epochs, config.batch_size, config.lr) == (500, 1, 1e-4)
    assert (config.similarity, config.similarity_weight) == ("ncc", 1.0)
    assert (config.regulariser, config.regulariser_weight) == ("diffusion", 1.0)
    assert learning_rate(config, 250) == round(1e-4 * 0.5**0.9, 8)
    config = TrainConfig.of({"model": "transmorph-diff"})
    assert (config.similarity, config.similarity_weight) == ("mse", 1e4)
    assert config.regulariser == "prior"
    assert TrainConfig.from_dict(config.to_dict()) == config
    with torch.device("meta"):
        network = build_network(TrainConfig.of({"model": "transmorph", "size": 224}))
    assert network.window == (7, 7, 7)
    rows = 10 * (13**3 - 9 * 11 * 13)  # of the position tables, against windows of (5, 6, 7)
    heads = np.repeat((4, 4, 8, 8), (2, 2, 4, 2)).sum() / 10
    total = sum(p.numel() for p in network.parameters())
    assert total == 46_771_251 + rows * heads


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--model", "transmorph", "--alpha1", 2), ("--alpha1", "transmorph")),
        (("--model", "transmorph", "--tracer", "FDG"), ("--tracer", "transmorph")),
        (("--model", "transmorph", "--switch", "R1"), ("--switch", "transmorph")),
        (("--model", "transmorph", "--compile"), ("--compile", "transmorph")),
        (("--similarity", "ncc"), ("--similarity", "dc2fusion")),
        (("--onto", "subjects"), ("--onto", "dc2fusion")),
        (("--network", "small"), ("--network", "dc2fusion")),
        (("--best-by", "dice"), ("--best-by", "dice")),
        (("--model", "transmorph", "--best-by", "ssim-min"), ("--best-by", "ssim-min")),
        (("--model", "transmorph", "--network", "compact"), ("--network", "compact")),
        (("--model", "transmorph", "--embed-dim", 30), ("--embed-dim", "30")),
        (("--model", "transmorph", "--depths", 2, 2), ("--depths", "2 stages")),
        (("--model", "transmorph", "--regulariser", "prior"), ("--regulariser", "velocity")),
        (("--model", "transmorph", "--similarity", "none"), ("--similarity", "--dice-weight")),
        (("--model", "transmorph", "--dice-weight", 1), ("--dice-weight", "template")),
        (("--model", "transmorph", "--best-by", "dice"), ("--best-by", "template")),
        (("--model", "transmorph", *SUBJECTS, "--template", "x"), ("--template", "--onto")),
        (("--model", "transmorph", "--template", "none.nii"), ("none.nii", "no such file")),
        (
            ("--model", "transmorph", "--data", ".", "--synthesis", "heads"),
            ("--synthesis", "--data"),
        ),
    ],
)
def test_flags_that_make_no_sense_are_refused(refuses, synthetic_cohort, tmp_path, flags, names):
    given = () if "--data" in flags else ("--data", synthetic_cohort)
    refuses(train_diff.main, *given, "--out", tmp_path, *flags, names=names)


def test_labels_that_are_asked_for_must_be_there(refuses, synthetic_cohort, tmp_path):
    lists = []
    for title, names in (("a", (1, 2)), ("b", (3,))):
        file = tmp_path / f"{title}.txt"
        file.write_text("\n".join(f"synthetic-{number:03d}" for number in names))
        lists.append(file)
    flags = ("--model", "transmorph", "--data", synthetic_cohort, *QUICK, *SUBJECTS)
    lists = ("--train-list", lists[0], "--val-list", lists[1])
    refuses(train_diff.main, *flags, *lists, names=("--onto", "two"))
    flags += ("--train-list", tmp_path / "a.txt", "--val-list", tmp_path / "c.txt")
    (tmp_path / "a.txt").write_text("synthetic-001")
    (tmp_path / "c.txt").write_text("synthetic-002\nsynthetic-003")
    refuses(train_diff.main, *flags, names=("--onto", "two"))
