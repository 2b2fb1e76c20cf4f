"""Loading released TransMorph checkpoints: every key accounted for."""

import pytest
import torch

from models.registration.released import is_released, load_released
from models.registration.transmorph import TransMorph, TransMorphDiff
from tests.helpers.transmorph import OPTIONS, position_rows, released_state

WINDOW = (2, 3, 2)


def build(diff: bool = False, window: tuple[int, int, int] = WINDOW) -> torch.nn.Module:
    return (TransMorphDiff if diff else TransMorph)(**OPTIONS, window=window)


@pytest.mark.parametrize("diff", [None, "released"])
def test_every_tensor_is_loaded_but_what_is_computed_here(diff):
    model, state = build(bool(diff)), released_state(WINDOW, diff)
    skipped = load_released(model, state)
    assert sum(key.endswith("relative_position_index") for key in skipped) == 10
    assert set(skipped) == {
        key for key in state if key.endswith("_index") or key == "spatial_trans.grid"
    }
    loaded = sum(tensor.double().sum().item() for tensor in model.state_dict().values())
    given = sum(state[key].double().sum().item() for key in state if key not in skipped)
    assert loaded == pytest.approx(given, rel=1e-9)
    assert len(model.state_dict()) == len(state) - len(skipped)


@pytest.mark.parametrize(
    "key",
    [
        "transformer.layers.0.blocks.9.norm1.weight",
        "transformer.layers.0.blocks.9.attn.relative_position_index",
        "flow_mean.weight",
        "something",
    ],
)
def test_a_key_too_many_is_refused(key):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"does not know: {key}"):
        load_released(model, released_state(WINDOW) | {key: torch.ones(24)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_key_too_few_is_refused():
    state = released_state(WINDOW)
    del state["transformer.norm2.bias"]
    with pytest.raises(ValueError, match=r"lacks 1 of 155 tensors, first encoder\.stages\.2\.norm"):
        load_released(build(), state)


def test_another_shape_and_what_is_no_tensor_are_refused():
    with pytest.raises(ValueError, match=r"bias_table has shape .* another embed_dim, window"):
        load_released(build(window=(2, 2, 2)), _without_positions(released_state(WINDOW)))
    with pytest.raises(ValueError, match="holds a int, no tensor"):
        load_released(build(), released_state(WINDOW) | {"c1.0.weight": 3})


def test_another_order_of_the_windows_sides_is_refused():
    state = released_state(WINDOW)  # as large as those of (3, 2, 2)
    with pytest.raises(ValueError, match="relative_position_index is that of another window"):
        load_released(build(window=(3, 2, 2)), state)
    assert not torch.equal(position_rows(WINDOW), position_rows((3, 2, 2)))


def test_own_checkpoints_are_told_from_released_ones():
    assert is_released(released_state(WINDOW))
    assert not is_released(build().state_dict())


def _without_positions(state: dict) -> dict:
    return {key: value for key, value in state.items() if not key.endswith("_index")}
