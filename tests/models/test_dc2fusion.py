"""The network: golden arrays of the released code, any size, what makes training valid."""

import pytest
import torch

from models import build_model, model_names
from models.dc2fusion import NETWORKS
from models.released import load_released
from models.variants import DIFFERENCES, without_gate
from tests.helpers.golden import golden_tensors, relative_error, rule_filled_released_state

BLOCK_TOLERANCE = 1e-5
TOLERANCE = 2e-5
FLOAT64_TOLERANCE = 1e-6  # against float64 stored as float32


def golden_model(variant: str) -> torch.nn.Module:
    switched = without_gate(variant)  # the golden arrays are of networks without it
    model = build_model("dc2fusion", embed_dim=24, variant=variant, switched=switched).eval()
    load_released(model, rule_filled_released_state())
    return model


def random_pair(*size: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mri, pet = torch.rand(2, batch, 1, *size, generator=generator)
    return mri, pet


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("released", "dc2fusion_released_E24_32.npz"),
        ("released", "dc2fusion_released_E24_64.npz"),
        ("released", "dc2fusion_released_E24_batch2_40x52x36.npz"),
        ("paper", "dc2fusion_paper_E24_batch2_40x52x36.npz"),
    ],
)
@torch.no_grad()
def test_output_matches_golden(variant, name):
    expected = golden_tensors(name)
    model = golden_model(variant)
    maps = model.stream_maps(expected["mri"], expected["pet"])
    assert relative_error(maps, expected["stream_maps"]) < BLOCK_TOLERANCE
    fused = model(expected["mri"], expected["pet"])
    assert relative_error(fused, expected["fused"]) < BLOCK_TOLERANCE


def collect(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What the golden file holds of a network's inside, from the first call of each module."""
    seen = {}

    def keep(name, module, place=lambda output: output):
        def hook(_module, _inputs, output):
            seen.setdefault(name, place(output))

        module.register_forward_hook(hook)

    def keep_streams(name, stage):
        keep(f"{name}_mri", stage, lambda output: output[0])
        keep(f"{name}_pet", stage, lambda output: output[1])

    def keep_calls(names, module):
        outputs = iter(names)
        module.register_forward_hook(lambda _m, _i, output: seen.update({next(outputs): output}))

    def first(tokens):
        return tokens.movedim(-1, 1)

    keep_calls(["patch_embed_mri", "patch_embed_pet"], model.patch_embedding)
    block = model.encoder[0][0]
    keep_calls(["block00_mri", "block00_pet"], block)
    keep("block00_offset_raw_mri", block.relationship.to_offset, first)
    keep("block00_blend_conv_mri", block.blend.blend_activation)
    keep(
        "block00_channel_gate_logits_mri",
        block.blend.channel_gate,
        lambda o: o[..., None, None, None],
    )
    keep("block00_spatial_gate_logits_mri", block.blend.spatial_gate, first)
    for level, stage in enumerate(model.encoder):
        keep_streams(f"enc{level}", stage)
    for level, expanding in enumerate(model.expanding):
        keep_calls([f"dec{level}_mri", f"dec{level}_pet"], expanding)
    keep_streams("dec3", model.decoder[3])
    return seen


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("released", "dc2fusion_released_E24_32.npz"),
        ("paper", "dc2fusion_paper_E24_batch2_40x52x36.npz"),
    ],
)
@torch.no_grad()
def test_inner_features_match_golden(variant, name):
    expected = golden_tensors(name)
    model = golden_model(variant)
    seen = collect(model)
    model(expected["mri"], expected["pet"])
    seen = {k: v.movedim(-1, 1) if k.startswith("patch_embed") else v for k, v in seen.items()}
    inner = [key for key in expected if key.startswith(("patch", "block", "enc", "dec"))]
    assert inner
    for key in inner:
        tolerance = BLOCK_TOLERANCE if key.startswith("block") else TOLERANCE
        assert seen[key].shape == expected[key].shape, key
        assert relative_error(seen[key], expected[key]) < tolerance, key


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("released", "dc2fusion_released_E24_formula_32.npz"),
        ("released", "dc2fusion_released_E24_formula_batch2_20x26x18.npz"),
        ("paper", "dc2fusion_paper_E24_formula_batch2_20x26x18.npz"),
    ],
)
@torch.no_grad()
def test_formula_inputs_match_golden_in_float64(variant, name):
    expected = {key: value.double() for key, value in golden_tensors(name).items()}
    model = golden_model(variant).double()
    maps = model.stream_maps(expected["mri"], expected["pet"])
    seen = collect(model)
    fused = model(expected["mri"], expected["pet"])
    seen |= {"stream_maps": maps, "fused": fused}
    for key in expected.keys() - {"mri", "pet", "loss_lncc", "loss_ssim", "loss_l1"}:
        ours = seen[key].movedim(-1, 1) if key.startswith("patch_embed") else seen[key]
        assert ours.shape == expected[key].shape, key
        assert relative_error(ours, expected[key]) < FLOAT64_TOLERANCE, key


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("size", [(16, 16, 16), (33, 18, 70), (41, 64, 5)])
@torch.no_grad()
def test_any_size_keeps_its_shape(variant, size):
    model = build_model("dc2fusion", embed_dim=24, variant=variant).eval()
    fused = model(*random_pair(*size))
    assert fused.shape == (1, 1, *size)
    assert fused.isfinite().all()


@torch.no_grad()
def test_paper_result_depends_neither_on_the_batch_nor_on_its_order():
    torch.manual_seed(0)
    model = build_model("dc2fusion", embed_dim=24, init="default").eval()
    mri, pet = random_pair(36, 40, 33, batch=2)
    together = model(mri, pet)
    alone = torch.cat([model(mri[i : i + 1], pet[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(together, alone, atol=1e-5)


@torch.no_grad()
def test_released_result_depends_on_the_batch():
    torch.manual_seed(0)
    model = build_model("dc2fusion", embed_dim=24, variant="released").eval()
    mri, pet = random_pair(36, 40, 33, batch=2)
    assert not torch.allclose(model(mri, pet)[:1], model(mri[:1], pet[:1]), rtol=0.1)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    # No block dropped by chance.
    model = build_model("dc2fusion", embed_dim=24, init="default").eval()
    model(*random_pair(48, 33, 40)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(("name", "count"), [("paper", 93_248_954), ("compact", 4_653_218)])
def test_parameter_count_of_the_named_networks(name, count):
    with torch.device("meta"):
        model = build_model("dc2fusion", **NETWORKS[name])
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("depths", [(1,), (2, 1), (1, 1, 2), (1, 2, 1, 1)])
@pytest.mark.parametrize("size", [(16, 16, 16), (33, 18, 37), (7, 41, 5)])
def test_one_to_four_levels_take_any_size_and_train(depths, size):
    torch.manual_seed(0)
    model = build_model("dc2fusion", embed_dim=24, depths=depths, init="default")
    assert [len(stage) for stage in model.encoder] == list(depths)
    assert [len(stage) for stage in model.decoder] == list(reversed(depths))
    fused = model(*random_pair(*size, batch=2))
    assert fused.shape == (2, 1, *size)
    fused.square().mean().backward()
    without = [name for name, p in model.eval().named_parameters() if p.grad is None]
    assert without == []
    assert fused.isfinite().all()


def test_stochastic_depth_rises_over_all_blocks_of_the_encoder():
    model = build_model("dc2fusion", embed_dim=24, depths=(2, 3))
    rates = [block.drop_path.drop_prob for stage in model.encoder for block in stage]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    single = build_model("dc2fusion", embed_dim=24, depths=(1,))
    assert single.encoder[0][0].drop_path.drop_prob == 0


@pytest.mark.parametrize("difference", DIFFERENCES)
@torch.no_grad()
def test_each_difference_is_switched_alone(difference):
    def fuse(*switched):
        torch.manual_seed(0)
        options = {"embed_dim": 24, "init": "default", "switched": switched}
        model = build_model("dc2fusion", **options).eval()
        return model(*random_pair(34, 34, 34))

    plain, switched = fuse(), fuse(difference)
    assert relative_error(switched, plain) > 1e-4


@torch.no_grad()
def test_all_differences_together_are_the_other_variant():
    options = {"embed_dim": 24, "init": "default"}
    models = [
        build_model("dc2fusion", variant="paper", switched=tuple(DIFFERENCES), **options).eval(),
        build_model("dc2fusion", variant="released", **options).eval(),
    ]
    models[1].load_state_dict(models[0].state_dict())
    pair = random_pair(34, 34, 34)
    assert torch.equal(models[0](*pair), models[1](*pair))


def test_training_refuses_a_volume_with_one_token_at_the_bottom():
    model = build_model("dc2fusion", embed_dim=24)
    with pytest.raises(ValueError, match=r"\(32, 32, 17\).*BatchNorm"):
        model(*random_pair(32, 32, 17))
    model(*random_pair(32, 32, 17, batch=2))
    model(*random_pair(32, 33, 17))


def test_fewer_levels_train_on_smaller_volumes():
    model = build_model("dc2fusion", embed_dim=24, depths=(1, 1))
    model(*random_pair(9, 8, 8))
    with pytest.raises(ValueError, match=r"\(8, 8, 8\).*a side above 8 voxels"):
        model(*random_pair(8, 8, 8))


def test_bfloat16_autocast_is_close_to_float32():
    torch.manual_seed(0)
    model = build_model("dc2fusion", embed_dim=24, init="default")
    pair = random_pair(40, 40, 40)
    model.eval()
    exact = model(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(*pair)
    rounded.float().square().mean().backward()
    assert relative_error(rounded, exact) < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 40}, "multiple of 24, received 40"),
        ({"variant": "papr"}, "papr.*paper, released"),
        ({"fusion": "l2"}, "l2.*l1-norm"),
        ({"switched": ("R7",)}, "R7.*R1"),
        ({"init": "zero"}, "zero.*identity, default"),
        ({"depths": ()}, r"one to 4 positive .* received \(\)"),
        ({"depths": (2, 0)}, r"received \(2, 0\)"),
        ({"depths": (1, 1, 1, 1, 1)}, r"received \(1, 1, 1, 1, 1\)"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_model("dc2fusion", **options)


def test_unknown_model_is_named():
    with pytest.raises(ValueError, match="dc3fusion.*dc2fusion"):
        build_model("dc3fusion")
    assert "dc2fusion" in model_names()


def test_inputs_of_different_shapes_are_refused():
    model = build_model("dc2fusion", embed_dim=24)
    with pytest.raises(ValueError, match=r"\(1, 1, 40, 40, 40\) and \(1, 1, 40, 40, 36\)"):
        model(random_pair(40, 40, 40)[0], random_pair(40, 40, 36)[0])
