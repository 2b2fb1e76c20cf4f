"""Checkpoints: what is kept when one is replaced or cannot be written, and what comes back."""

import os

import pytest
import torch

from tests.helpers.runs import save_untrained
from training import checkpoint
from utils.errors import InputError


@pytest.fixture
def saved(tmp_path):
    """An own checkpoint of an untrained network, and the network."""
    path = tmp_path / "run" / "last.pt"
    return path, save_untrained(path)


def test_best_stays_when_last_is_replaced(saved):
    path, _ = saved
    best = path.with_name("best.pt")
    checkpoint.keep_as(path, best)
    before = best.read_bytes()
    content = checkpoint.read(path) | {"epoch": 4}
    checkpoint.save(
        path, {key: content[key] for key in content if key not in ("format", "versions")}
    )
    assert best.read_bytes() == before and checkpoint.read(path)["epoch"] == 4


def test_random_states_are_restored():
    states = checkpoint.rng_states()
    drawn = torch.rand(3)
    checkpoint.restore_rng(states)
    assert torch.equal(torch.rand(3), drawn)


def test_a_failing_write_leaves_nothing(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        checkpoint.save(path, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]
