"""Turning a checkpoint into weights to give away."""

import functools
import json
from dataclasses import replace

import pytest
import torch

from inference import ship
from inference.trained import load_model
from tests.helpers.runs import save_untrained
from training import checkpoint
from training.config import TrainConfig

MADE_PAIR = functools.cache(ship.made_pair)


@pytest.fixture(autouse=True)
def made_once(monkeypatch):
    """The made pair is the same each time."""
    monkeypatch.setattr(ship, "made_pair", MADE_PAIR)


@pytest.fixture
def run(tmp_path):
    """Folder of a run with an untrained network."""
    save_untrained(tmp_path / "run" / "last.pt", balance="any")
    return tmp_path / "run"


def ship_it(run_script, run, *flags):
    """Ship a run into a folder `weights` beside it; (output, record)."""
    folder = run.parent / "weights"
    status, out, err = run_script(ship.main, run, "--out", folder, "--commit", "abc", *flags)
    assert status == 0, err
    return out, json.loads((folder / "dc2fusion.json").read_text())


def test_shipped_weights_fuse_as_the_json_says(run_script, run):
    out, record = ship_it(run_script, run)
    trained = load_model(run.parent / "weights" / "dc2fusion.safetensors")
    assert record["sha256"] in out and record["about"]["commit"] == "abc"
    scores = ship.made_scores(trained, ship.made_pair())
    assert scores == pytest.approx(record["expected"]["scores"], abs=1e-6)
    full = ship.made_scores(load_model(run), ship.made_pair())
    assert full != scores and full == pytest.approx(scores, abs=1e-2)
    assert 0 < record["rounding"] < 1e-2


def test_real_pairs_are_compared_too(run_script, run, synthetic_cohort):
    out, _ = ship_it(run_script, run, "--data", synthetic_cohort)
    assert all(f"(synthetic-00{number})" in out for number in (1, 2, 3))


def test_places_on_the_machine_are_left_out(run_script, run):
    content = checkpoint.read(run / "last.pt")
    content["config"] |= {"data": "/secret/place", "labels": "/secret/too", "out": "/secret/run"}
    torch.save(content, run / "last.pt")
    ship_it(run_script, run)
    for file in (run.parent / "weights").iterdir():
        assert b"secret" not in file.read_bytes()


def test_a_model_card_gets_the_values(run_script, run):
    card = run.parent / "weights" / "MODEL_CARD.md"
    card.parent.mkdir()
    card.write_text("before {} old {} after".format(*ship.VALUES))
    _, record = ship_it(run_script, run)
    text = card.read_text()
    assert text.startswith("before") and text.endswith("after") and "old" not in text
    assert record["sha256"] in text and ship.card_values(record) in text
    _, again = ship_it(run_script, run)
    assert card.read_text() == text and again == record


def test_a_card_without_a_place_for_values_is_refused(refuses, run):
    card = run.parent / "weights" / "MODEL_CARD.md"
    card.parent.mkdir()
    card.write_text("nothing")
    flags = (run, "--out", card.parent, "--commit", "abc")
    refuses(ship.main, *flags, names=("MODEL_CARD.md", "written by inference.ship"))


def test_weights_beyond_16_bits_are_refused(refuses, run):
    content = checkpoint.read(run / "last.pt")
    content["model"]["head.to_maps.bias"].fill_(1e5)
    torch.save(content, run / "last.pt")
    flags = (run, "--out", run.parent / "weights", "--commit", "abc")
    refuses(ship.main, *flags, names=("last.pt", "head.to_maps.bias", "16 bits"))
    assert not (run.parent / "weights").exists()


def test_the_command_of_a_configuration():
    given = {"network": "compact", "synthesis": "labels", "labels": "/somewhere", "balance": "any"}
    given |= {"lr": 3e-4, "amp": True, "name": "mine"}
    command = ship.command_of(ship.public(TrainConfig.of(given)))
    wanted = "--synthesis labels --labels FOLDER --network compact --balance any --lr 0.0003 --amp"
    assert command == f"python train_diff.py {wanted} --name mine"


def test_a_training_from_the_weights_takes_their_network():
    network = {"embed_dim": 96, "depths": (2, 2), "head": "bands", "switched": ("R10",)}
    given = {"init": "weights", "objective": "salient-composite", "balance": "any", "ema": 0.998}
    config = replace(TrainConfig.of({**given, "fusion": "average", "size": 48}), **network)
    command = ship.command_of(ship.public(config))
    assert command == "python train_diff.py --size 48 --init weights --ema 0.998"
