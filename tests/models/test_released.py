"""Checkpoints of the released code: loaded, named as skipped, or refused."""

import pytest
import torch

from models import build_model
from models.released import is_released, load_released
from tests.helpers.golden import rule_filled_released_state


def test_skipped_keys_are_named():
    model = build_model("dc2fusion", embed_dim=24, variant="released")
    skipped = load_released(model, rule_filled_released_state())
    assert len(skipped) == 50
    assert sum(".cross_attn.proj." in key for key in skipped) == 48
    assert "swin.concat_back_dim.0.weight" in skipped


def test_every_other_tensor_is_loaded():
    model = build_model("dc2fusion", embed_dim=24)
    state = rule_filled_released_state()
    skipped = load_released(model, state)
    loaded = sum(tensor.sum().item() for tensor in model.state_dict().values())
    given = sum(tensor.sum().item() for key, tensor in state.items() if key not in skipped)
    assert loaded == pytest.approx(given, rel=1e-6)


def test_a_key_too_many_is_refused():
    model = build_model("dc2fusion", embed_dim=24)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {
        **rule_filled_released_state(),
        "swin.layers.0.blocks.9.norm1.weight": torch.ones(24),
    }
    with pytest.raises(ValueError, match=r"swin\.layers\.0\.blocks\.9\.norm1\.weight"):
        load_released(model, state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_key_too_few_is_refused():
    state = dict(rule_filled_released_state())
    del state["swin.norm2.bias"]
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ tensors, first head\.norm\.bias"):
        load_released(build_model("dc2fusion", embed_dim=24), state)


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="embed_dim"):
        load_released(build_model("dc2fusion", embed_dim=48), rule_filled_released_state())


def test_own_checkpoints_are_told_from_released_ones():
    assert is_released(rule_filled_released_state())
    assert not is_released(build_model("dc2fusion", embed_dim=24).state_dict())
