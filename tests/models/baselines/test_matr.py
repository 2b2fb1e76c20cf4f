"""MATR against the published network's own numbers, and the layout of its tokens."""

import pytest
import torch

from models.baselines.matr import MATR, TransformerLayer
from models.baselines.weights import load_weights
from tests.helpers.fills import fill
from tests.helpers.golden import golden, golden_tensors

UNUSED = ["patch_embed.norm.weight", "patch_embed.norm.bias"]
UNUSED += [f"basicLayer.blocks.{i}.attn.relative_position_bias_table" for i in range(3)]


def published() -> dict[str, torch.Tensor]:
    return golden_tensors("baselines/matr_weights.npz")


def released(**options) -> MATR:
    network = MATR(**options).eval()
    load_weights(network, golden("baselines/matr_weights.npz"))
    return network


def slices(image: torch.Tensor) -> torch.Tensor:
    return image[None, None]


def close(ours: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.view_as(expected), expected, rtol=0, atol=atol)


def intermediates(network: MATR, pet: torch.Tensor, mri: torch.Tensor) -> dict[str, torch.Tensor]:
    first = network.convInput(torch.stack((pet, mri))[None])
    layer1 = network.conv(first)
    transformed = network.basicLayer(layer1)
    last = network.conv(transformed)
    return {"convInput": first, "layer1": layer1, "transformer1": transformed, "layer1_out": last}


def test_published_keys_are_loaded_or_named_as_unused():
    network = MATR()
    assert load_weights(network, golden("baselines/matr_weights.npz")) == UNUSED
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    assert set(network.state_dict()) - counters == set(published()) - set(UNUSED)


def test_the_index_buffers_of_the_published_file_are_skipped(tmp_path):
    buffer = "basicLayer.blocks.0.attn.relative_position_index"
    torch.save(
        published() | {buffer: torch.zeros(1, 1, dtype=torch.int64)}, tmp_path / "model_10.pth"
    )
    assert load_weights(MATR(), tmp_path / "model_10.pth") == [*UNUSED, buffer]


@torch.no_grad()
@pytest.mark.parametrize("pair", ["petmri", "spectmri"])
def test_released_weights_on_the_published_pairs(pair):
    expected = golden_tensors("baselines/matr_released.npz")
    fused = released()(slices(expected[f"{pair}_in1_mri"]), slices(expected[f"{pair}_in0_nuclear"]))
    close(fused, expected[f"{pair}_net"], 2e-5)
    difference = ((255 * fused.clamp(0, 1)).trunc()[0, 0] - expected[f"{pair}_final"]).abs()
    assert difference.max() <= 1
    assert (difference == 0).float().mean() >= 0.999


@torch.no_grad()
def test_intermediate_maps_with_released_weights():
    expected = golden_tensors("baselines/matr_released_crop.npz")
    network = released()
    pet, mri = expected["in32_pet"], expected["in32_mri"]
    for name, ours in intermediates(network, pet, mri).items():
        close(ours, expected[f"r32_{name}"], 2e-5)
    close(network(slices(mri), slices(pet)), expected["r32_out"], 2e-5)


@torch.no_grad()
def test_width_that_is_no_multiple_of_the_token():
    expected = golden_tensors("baselines/matr_released_crop.npz")
    close(
        released()(slices(expected["in20_mri"]), slices(expected["in20_pet"])),
        expected["out20"],
        2e-5,
    )


@torch.no_grad()
@pytest.mark.parametrize(("rule", "late", "other"), [("A", 1e-5, 1e-5), ("B", 1e-4, 5e-5)])
def test_rule_filled_weights(tmp_path, rule, late, other):
    expected = golden_tensors(f"baselines/matr_rule{rule}.npz")
    torch.save(
        fill(((name, tensor.shape) for name, tensor in published().items()), rule),
        tmp_path / "filled.pth",
    )
    network = MATR().eval()
    load_weights(network, tmp_path / "filled.pth")
    pet, mri = expected["in_pet"], expected["in_mri"]
    ours = intermediates(network, pet, mri) | {"out": network(slices(mri), slices(pet))}
    for name in expected.keys() - {"in_pet", "in_mri"}:
        close(ours[name], expected[name], late if name in ("transformer1", "layer1_out") else other)


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["released", "channels"])
def test_batch_of_any_size_gives_what_its_pictures_give_one_by_one(tokens):
    network = released(tokens=tokens)
    mri, pet = torch.rand(2, 3, 1, 11, 18, generator=torch.Generator().manual_seed(0))
    singly = torch.cat([network(*pair) for pair in zip(mri.split(1), pet.split(1), strict=True)])
    assert singly.shape == mri.shape
    close(network(mri, pet), singly, 1e-6)


@torch.no_grad()
def test_tokens_of_a_large_batch_are_those_of_a_small_one():
    """More tokens than go through the transformers at a time."""
    layer = TransformerLayer("released")
    x = torch.rand(2, 16, 100, 121)
    close(layer(x), torch.cat([layer(picture) for picture in x.split(1)]), 1e-6)


@torch.no_grad()
def test_tokens_are_runs_of_pixels_or_the_channels_of_a_pixel():
    """Changing one value changes the 16 values of its token, no others."""
    for tokens, touched in (
        ("released", [(5, 2, column) for column in range(16, 32)]),
        ("channels", None),
    ):
        layer = TransformerLayer(tokens)
        x = torch.rand(1, 16, 4, 32)
        changed = x.clone()
        changed[0, 5, 2, 20] += 1
        where = (layer(changed) != layer(x))[0].nonzero().tolist()
        expected = touched or [(channel, 2, 20) for channel in range(16)]
        assert where == [list(index) for index in expected]


@torch.no_grad()
def test_query_and_key_have_no_effect():
    network, other = released(), released()
    for block in other.basicLayer.blocks:
        block.attn.qkv.weight[:32].normal_()
        block.attn.qkv.bias[:32].normal_()
    mri, pet = torch.rand(2, 1, 1, 16, 16)
    assert torch.equal(network(mri, pet), other(mri, pet))


@torch.no_grad()
def test_order_of_the_pictures_matters():
    expected = golden_tensors("baselines/matr_released_crop.npz")
    pet, mri = slices(expected["in32_pet"]), slices(expected["in32_mri"])
    network = released()
    assert (network(mri, pet) - network(pet, mri)).abs().mean() > 0.05


@pytest.mark.parametrize("tokens", ["released", "channels"])
def test_every_parameter_learns(tokens):
    torch.manual_seed(0)
    network = MATR(tokens=tokens)
    mri, pet = torch.rand(2, 2, 1, 12, 12)
    (network(mri, pet) - mri).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert network.conv.bn1.num_batches_tracked == 6


def test_unknown_tokens_are_refused():
    with pytest.raises(ValueError, match="'pixels'.*released, channels"):
        MATR(tokens="pixels")
