"""The weights that come with the code: read as published, and what they must give."""

import pytest
import torch

from benchmarks.balances import network_pair
from data.subjects import find_subjects
from inference import ship
from inference.optimum import FROM_NETWORK, excess, parse_objective, refine
from inference.trained import load_model
from tests.helpers.golden import ROOT, shared_file
from training import weights

TOLERANCE = 1e-3  # what the order of sums on another processor may change, with room to spare


@pytest.fixture(scope="module")
def record():
    return weights.read(weights.SHIPPED).record


def test_they_lie_in_the_repository_and_are_small(record):
    assert weights.SHIPPED.parent == ROOT / "weights"
    assert weights.SHIPPED.stat().st_size == record["bytes"] < 25e6
    for name in ("LICENSE", "NOTICE", "README.md"):
        assert (ROOT / "weights" / name).is_file()
    assert record["about"]["license"] == "MIT"


def test_they_give_the_scores_of_the_record(record):
    pair = record["expected"]["pair"]
    assert pair["generator_version"] == ship.VERSION
    made = ship.made_pair(pair["seed"], pair["voxel_mm"])
    scores = ship.made_scores(load_model(weights.SHIPPED), made)
    assert scores == pytest.approx(record["expected"]["scores"], abs=TOLERANCE)


@pytest.mark.parametrize("balance", [0.25, 0.5, 0.75])
def test_their_steps_bring_the_template_near_its_optimum(balance):
    found = find_subjects(shared_file("data", "pairs", "template").parent).subjects
    (template,) = [subject for subject in found if subject.name == "template"]
    pair = network_pair(template, 64)
    trained = load_model(weights.SHIPPED).turned_to(balance)
    objective, sources = parse_objective(trained.objective, "x"), (pair.mri, pair.pet)
    with torch.no_grad():
        fused = pair.fuse(trained)
    average = (pair.mri + pair.pet) / 2
    written = refine(fused, *sources, objective, trained.refine, FROM_NETWORK)
    best = refine(average, *sources, objective, 60)
    losses = [float(objective(volume, *sources)[0]) for volume in (fused, written, best, average)]
    alone, as_written = (excess(loss, *losses[2:]) for loss in losses[:2])
    assert as_written < 0.03 and as_written < 0.6 * alone < 0.05


def test_they_fuse_at_any_balance(record):
    trained = load_model(weights.SHIPPED)
    assert trained.turns and 0 <= record["about"]["balance"] <= 1
    mri, pet = torch.rand(2, 1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        to_mri, to_pet = (trained.model(mri, pet, share).clamp(0, 1) for share in (0.8, 0.2))
    assert ((to_mri - mri) ** 2).mean() < ((to_pet - mri) ** 2).mean()
    assert ((to_pet - pet) ** 2).mean() < ((to_mri - pet) ** 2).mean()


def test_the_model_card_is_about_this_file(record):
    card = (ROOT / "weights" / ship.CARD).read_text(encoding="utf-8")
    assert ship.card_values(record) in card
    assert card.startswith("---\nlicense: mit\n")


def test_nothing_of_the_machine_that_trained_them_is_in_it(record):
    config = record["about"]["config"]
    assert not any(config[name] for name in ("data", "labels", "train_list", "val_list", "vgg"))
    assert config["out"] == "result"
