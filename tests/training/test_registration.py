"""Validation of a registration: what is scored before and after, of fields that are known."""

import numpy as np
import pytest
import torch

from losses.registration.similarity import ncc_loss
from models.registration.warp import warp
from training.registration import BEFORE, validate_registration
from training.validation import BEST_BY, NETWORK, PICTURED_SUBJECTS, summarise

CPU = torch.device("cpu")
SHIFT = 2


class Shifted:
    """A data set of one head and the same head moved by two voxels."""

    labelled = True

    def __init__(self, number=3):
        generator = torch.Generator().manual_seed(0)
        self.heads = torch.zeros(number, 1, 16, 16, 16)
        self.heads[:, :, 4:12, 4:12, 4:12] = torch.rand(number, 1, 8, 8, 8, generator=generator)

    def __len__(self):
        return len(self.heads)

    def __getitem__(self, key):
        moving = self.heads[key[1]]
        fixed = moving.roll(-SHIFT, dims=1)
        items = {"moving": moving, "fixed": fixed}
        # Labels of FreeSurfer's kind: large numbers with gaps.
        labels = {f"{name}_labels": (image > 0.5) * 2035.0 for name, image in items.items()}
        return items | labels | {"name": f"head {key[1]}", "index": key[1]}


def mover(shift):
    def register(moving, fixed):
        displacement = torch.zeros(1, 3, *moving.shape[2:])
        displacement[:, 0] = shift
        return warp(moving, displacement), displacement

    return register


def test_a_perfect_registration_has_perfect_scores():
    pairs = Shifted()
    found = validate_registration(mover(SHIFT), pairs, range(3), CPU)
    scores = summarise(found.rows)
    after, before = scores[NETWORK], scores[BEFORE]
    assert after["dice"][0] == 1 and before["dice"][0] < 0.6
    item = pairs[0, 0]
    expected = -ncc_loss(item["moving"][None], item["fixed"][None]).item()
    assert dict(found.rows[1:2])[BEFORE]["similarity"] == expected
    assert after["similarity"][0] > before["similarity"][0]
    assert after["folded"] == (0, 0, 3) and after["sdlogj"][0] < 0.2
    assert after["moved"][0] == SHIFT
    assert "folded" not in before
    assert BEST_BY["dice"](after) == 1
    assert BEST_BY["similarity"](after) == after["similarity"][0]


def test_only_the_asked_for_are_scored_and_only_the_first_are_shown():
    pairs = Shifted()
    found = validate_registration(mover(0), pairs, [2, 0, 1], CPU)
    assert [example.subject for example in found.examples] == ["head 0", "head 1"]
    assert len(found.examples) == PICTURED_SUBJECTS and len(found.rows) == 6
    example = found.examples[0]
    assert (example.moving == pairs[0, 0]["moving"][0].numpy()).all()
    strip = example.strip()
    assert strip.shape == (16, 32, 3) and np.array_equal(strip[:, :16], strip[:, 16:])
    assert len(example.figure("title").axes) == 12


def test_a_field_that_is_not_finite_ends_it_and_is_named():
    found = validate_registration(mover(float("nan")), Shifted(), range(3), CPU)
    assert found.not_finite == "head 0" and not found.rows


@pytest.mark.parametrize("moved", [True, False])
def test_without_labels_there_is_no_dice(moved):
    class Unlabelled(Shifted):
        def __getitem__(self, key):
            item = super().__getitem__(key)
            return {name: item[name] for name in ("moving", "fixed", "name", "index")}

    found = validate_registration(mover(SHIFT * moved), Unlabelled(1), [0], CPU)
    assert all("dice" not in row for _, row in found.rows)
