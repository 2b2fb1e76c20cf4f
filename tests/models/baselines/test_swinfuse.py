"""SwinFuse against the arrays of the published code, and its behaviour on pictures of any size."""

import numpy as np
import pytest
import torch

from models import build_model
from models.baselines.slicewise import slices_of, volume_of
from models.baselines.swinfuse import RULES, SwinFuse, activities, from_windows, to_windows
from models.baselines.weights import load_weights
from tests.helpers.fills import fill
from tests.helpers.golden import golden_tensors


def published_names():
    """Names and shapes of the published state dict for pictures of 14 x 14, in order."""
    yield from {"patch_embed.proj.weight": (96, 1, 1, 1), "patch_embed.proj.bias": (96,)}.items()
    yield from {"patch_embed.norm.weight": (96,), "patch_embed.norm.bias": (96,)}.items()
    for stage, heads in ((1, 1), (2, 2), (3, 4)):
        for block in range(6):
            inside = {"attn_mask": (4, 49, 49)} if block % 2 else {}
            inside |= {"norm1.weight": (96,), "norm1.bias": (96,)}
            inside |= {
                "attn.relative_position_bias_table": (169, heads),
                "attn.relative_position_index": (49, 49),
            }
            inside |= {"attn.qkv.weight": (288, 96), "attn.qkv.bias": (288,)}
            inside |= {"attn.proj.weight": (96, 96), "attn.proj.bias": (96,)}
            inside |= {"norm2.weight": (96,), "norm2.bias": (96,)}
            inside |= {"mlp.fc1.weight": (384, 96), "mlp.fc1.bias": (384,)}
            inside |= {"mlp.fc2.weight": (96, 384), "mlp.fc2.bias": (96,)}
            yield from (
                (f"EN{stage}_0.blocks.{block}.{name}", shape) for name, shape in inside.items()
            )
    yield from {
        "norm.weight": (96,),
        "norm.bias": (96,),
        "norm_up.weight": (192,),
        "norm_up.bias": (192,),
    }.items()
    yield from {"conv.weight": (1, 96, 1, 1), "conv.bias": (1,), "prelu.weight": (1,)}.items()


@pytest.fixture(scope="module")
def published_files(tmp_path_factory):
    """Files as the authors' `torch.save(model.state_dict())` writes them, by fill rule."""
    files = {}
    for rule in "AB":
        state = fill(published_names(), rule)
        for name, shape in published_names():
            if name.endswith("attn_mask"):
                state[name] = torch.full(shape, -100.0)
            elif name.endswith("relative_position_index"):
                state[name] = torch.zeros(shape, dtype=torch.int64)
        files[rule] = tmp_path_factory.mktemp("swinfuse") / f"rule_{rule}.model"
        torch.save(state, files[rule])
    return files


@pytest.fixture
def golden_network(published_files):
    """Function (rule of the weights, options) -> the network in evaluation mode."""

    def build(weights: str, **options) -> SwinFuse:
        network = SwinFuse(**options).eval()
        load_weights(network, published_files[weights])
        return network

    return build


def picture(array: torch.Tensor) -> torch.Tensor:
    return array[None, None]


def random_picture(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def features(network: SwinFuse, image: torch.Tensor) -> torch.Tensor:
    return from_windows(network.encode(image), *image.shape[-2:])


def assert_close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours.detach().squeeze(), expected.squeeze(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("weights", ["A", "B"])
@pytest.mark.parametrize("gradients", [True, False])  # training and inference take different ways
def test_golden_released_network(golden_network, weights, gradients):
    arrays = golden_tensors(f"baselines/swinfuse_rule{weights}.npz")
    mri, pet = picture(arrays["in_mri"]), picture(arrays["in_pet"])
    network = golden_network(weights)
    with torch.set_grad_enabled(gradients):
        f_pet, f_mri = (features(network, image) for image in (pet, mri))
        fused = network(mri, pet)
        assert_close(f_pet, arrays["enc_pet"], 2e-5)
        assert_close(f_mri, arrays["enc_mri"], 2e-5)
        assert_close(2 * fused - 1, arrays["fused_tanh"], 1e-5)
        assert_close(fused, arrays.get("fused01", arrays["fused_tanh"] / 2 + 0.5), 1e-5)
        assert_close(network.reconstruct(pet), arrays["recon_pet_tanh"], 1e-5)


@pytest.mark.parametrize("weights", ["A", "B"])
@pytest.mark.parametrize("rule", ["l2", "linf"])
def test_golden_other_rules(golden_network, weights, rule):
    arrays = golden_tensors(f"baselines/swinfuse_rule{weights}.npz")
    network = golden_network(weights, rule={"l2": "l2_mean", "linf": "linf"}[rule])
    fused = network(picture(arrays["in_mri"]), picture(arrays["in_pet"]))
    assert_close(2 * fused - 1, arrays[f"fused_tanh_{rule}"], 1e-5)


def test_golden_fused_features(golden_network):
    arrays = golden_tensors("baselines/swinfuse_ruleB.npz")
    f1, f2 = (to_windows(picture(arrays[name]).squeeze(0)) for name in ("enc_pet", "enc_mri"))
    everywhere = torch.ones(f1.shape[1:3], dtype=torch.bool)
    assert_close(
        from_windows(golden_network("B").fuse(f1, f2, everywhere), 14, 14),
        arrays["fused_feat"],
        2e-5,
    )


@pytest.mark.parametrize("weights", ["A", "B"])
@pytest.mark.parametrize("gradients", [True, False])
def test_golden_all_six_blocks_with_shifted_windows(golden_network, weights, gradients):
    arrays = golden_tensors(f"baselines/swinfuse_rule{weights}.npz")
    mri, pet = picture(arrays["in_mri"]), picture(arrays["in_pet"])
    network = golden_network(weights, blocks_per_stage=6)
    with torch.set_grad_enabled(gradients):
        assert_close(2 * network(mri, pet) - 1, arrays["fused_tanh_allblocks"], 1e-5)
        if weights == "B":
            assert_close(features(network, pet), arrays["enc_pet_allblocks"], 2e-5)


@pytest.fixture(scope="module")
def golden_slice(published_files):
    """The stored slice through the published procedure: arrays; fused, without and with stretch."""
    arrays = golden_tensors("baselines/swinfuse_pipeline256_ruleB.npz")
    mri, pet = (volume_of(picture(arrays[name])) for name in ("in_mri", "in_pet"))
    model = build_model("swinfuse", weights=published_files["B"], tiles="released").eval()
    with torch.inference_mode():
        fused = model(mri, pet)
        model.stretch = "slice"
        return arrays, slices_of(fused).squeeze(), slices_of(model(mri, pet)).squeeze()


def test_golden_tiles_of_a_whole_slice(golden_slice):
    arrays, fused, _ = golden_slice
    assert_close(255 * fused, arrays["stitched"], 2e-2)


def test_golden_saved_picture(golden_slice):
    arrays, _, stretched = golden_slice
    saved = (255 * stretched).trunc()
    assert (saved - arrays["final"]).abs().max() <= 1
    assert (saved == arrays["final"]).float().mean() >= 0.998


def test_published_file_is_accounted_for(published_files):
    skipped = load_weights(SwinFuse(), published_files["B"])
    names = [name for name, _ in published_names()]
    never_run = [name for name in names if name.startswith("EN") and ".blocks.0." not in name]
    computed = [
        name for name in names if name.split(".")[-1] in ("attn_mask", "relative_position_index")
    ]
    assert set(skipped) == {*never_run, *computed, "norm_up.weight", "norm_up.bias", "prelu.weight"}
    skipped = load_weights(SwinFuse(blocks_per_stage=6), published_files["B"])
    assert set(skipped) == {*computed, "norm_up.weight", "norm_up.bias", "prelu.weight"}


def test_released_file_does_not_fit_six_blocks_without_their_tensors(published_files, tmp_path):
    state = torch.load(published_files["B"], weights_only=True)
    short = {name: tensor for name, tensor in state.items() if "EN2_0.blocks.4." not in name}
    torch.save(short, tmp_path / "short.model")
    load_weights(SwinFuse(), tmp_path / "short.model")
    with pytest.raises(
        ValueError,
        match=r"lacks 13 of the \d+ tensors of SwinFuse: EN2_0\.blocks\.4\.norm1\.weight",
    ):
        load_weights(SwinFuse(blocks_per_stage=6), tmp_path / "short.model")


def test_released_encoder_sees_single_windows_and_the_repaired_one_does_not(golden_network):
    first = random_picture(1, 1, 21, 21)
    second = first.clone()
    second[..., 7, 7] = 1 - second[..., 7, 7]  # the upper left corner of the window in the middle

    def changed(network: SwinFuse) -> torch.Tensor:
        difference = (features(network, first) - features(network, second)).abs().amax(dim=(0, 1))
        return difference.view(3, 7, 3, 7).amax(dim=(1, 3)) > 1e-6

    centre_alone = torch.zeros(3, 3, dtype=torch.bool)
    centre_alone[1, 1] = True
    assert torch.equal(changed(golden_network("B")), centre_alone)
    assert changed(golden_network("B", blocks_per_stage=6))[:2, :2].all()


@pytest.mark.parametrize("rule", RULES)
def test_activities_follow_their_formulas_and_leave_padding_out_of_the_channels(rule):
    maps = torch.randn(2, 96, 14, 21, generator=torch.Generator().manual_seed(1))
    h, w = 10, 17
    inside = torch.zeros(1, 1, 14, 21, dtype=torch.bool)
    inside[..., :h, :w] = True
    channels, pixels = activities(to_windows(maps), to_windows(inside)[0, :, :, 0], rule)
    pixels = from_windows(pixels, 14, 21)[:, 0, :h, :w].numpy()
    area = maps[..., :h, :w].double().numpy()
    if rule == "l1_mean":
        expected = np.abs(area).mean(axis=(2, 3)), np.abs(area).mean(axis=1)
    elif rule == "l2_mean":
        expected = (
            np.linalg.norm(area.reshape(2, 96, -1), axis=2) / (h * w),
            np.linalg.norm(area, axis=1) / 96,
        )
    else:
        expected = area.max(axis=(2, 3)), area.max(axis=1) / 96
    np.testing.assert_allclose(channels.squeeze(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(pixels, expected[1], rtol=1e-5)


@pytest.mark.parametrize("blocks", [1, 6])
def test_pictures_of_any_size_and_the_batch_they_are_in_do_not_matter(golden_network, blocks):
    network = golden_network("B", blocks_per_stage=blocks)
    mri, pet = random_picture(2, 3, 1, 10, 17)
    mri[0, :, 7:] = 0
    with torch.inference_mode():
        together = network(mri, pet)
        alone = torch.cat([network(*pair) for pair in zip(mri.split(1), pet.split(1), strict=True)])
    assert together.shape == mri.shape
    assert_close(together, alone, 1e-5)
    assert_close(network(mri, pet), together.clone(), 1e-5)  # with gradients
    assert_close(network(pet, mri), together.clone(), 1e-5)  # symmetric


def test_tiles_of_the_nominal_size_are_the_native_network(golden_network):
    mri, pet = random_picture(2, 1, 1, 224, 224)
    mri[..., 70:], pet[..., :140, :] = 0, 0
    with torch.inference_mode():
        native, released = (
            golden_network("B", tiles=tiles)(mri, pet) for tiles in ("native", "released")
        )
    assert_close(native, released, 1e-6)


def test_stochastic_depth_ramps_over_declared_blocks_and_drops_whole_pictures():
    for blocks in (1, 6):
        network = SwinFuse(blocks_per_stage=blocks)
        rates = [
            [block.drop_path.drop_prob for block in stage.blocks]
            for stage in network.children()
            if hasattr(stage, "blocks")
        ]
        assert np.allclose(rates, np.linspace(0, 0.2, 18).reshape(3, 6)[:, :blocks])

    torch.manual_seed(0)
    network = SwinFuse().train()
    image = random_picture(1, 1, 7, 7).repeat(400, 1, 2, 1)
    with torch.no_grad():
        tokens = network.encode(image)
        assert torch.allclose(
            tokens[:, 0], tokens[:, 1], atol=1e-5
        )  # both windows of a picture fare alike
        outcomes = tokens[:, 0, 0].round(decimals=4).unique(dim=0)
        assert len(outcomes) > 4  # two stages of two branches each, kept or dropped
        network.eval()
        assert torch.equal(network(image, image), network(image, image))


def test_every_parameter_gets_a_gradient():
    network = SwinFuse(blocks_per_stage=6).eval()
    network.reconstruct(random_picture(2, 1, 14, 14)).square().sum().backward()
    assert [
        name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_sizes_and_initial_values_are_the_published_ones():
    network = SwinFuse(blocks_per_stage=6)
    unused = 2 * 192 + 1  # norm_up and prelu, which this network does without
    assert sum(p.numel() for p in network.parameters()) == 2_021_276 - unused
    assert sum(p.numel() for p in SwinFuse().parameters()) == 337_376
    table = network.EN3_0.blocks[0].attn.relative_position_bias_table
    for values in (
        network.EN1_0.blocks[0].attn.qkv.weight,
        network.EN2_0.blocks[5].mlp.fc2.weight,
        table,
    ):
        assert values.std().item() == pytest.approx(0.02, rel=0.1)
    assert not network.EN1_0.blocks[0].attn.qkv.bias.any()


@pytest.mark.parametrize(
    "options", [{"blocks_per_stage": 3}, {"rule": "mean"}, {"tiles": "overlapping"}]
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="received 3|unknown"):
        SwinFuse(**options)
