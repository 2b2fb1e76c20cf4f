"""Both networks against the arrays of the released code, and on volumes of any size."""

import pytest
import torch

from losses.registration.mind import mind_loss
from losses.registration.prior import SIMILARITY_WEIGHT, variance_term, velocity_prior
from losses.registration.regularisers import bending_loss, diffusion_loss
from losses.registration.similarity import mse_loss, ncc_loss
from metrics.registration import folded_fraction, jacobian_determinant, released_dice
from models.registration import build_registration
from models.registration.transmorph import NETWORKS, TransMorph, TransMorphDiff, window_of
from models.registration.warp import integrate, warp, warp_labels
from tests.helpers.golden import golden_tensors, relative_error
from tests.helpers.transmorph import (
    Kept,
    formula_labels,
    formula_noise,
    formula_pair,
    golden_network,
    strided,
)

# File, window, sides, batch of the standard network as released.
RELEASED = [
    ("transmorph_released_E24_32_batch2", (5, 6, 7), (32, 32, 32), 2),
    ("transmorph_released_E24_32x64x96", (2, 4, 6), (32, 64, 96), 1),
]
DIFF_SIDES, DIFF_WINDOW = (32, 64, 32), (5, 6, 7)
TINY = {"embed_dim": 8, "depths": (1, 1, 2, 1), "heads": (2, 2, 2, 2), "window": (2, 2, 2)}


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def matches(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert relative_error(strided(ours, expected), expected) < tolerance


def released_names(network: TransMorph) -> dict:
    """The golden arrays' names of the modules' outputs."""
    encoder = network.encoder
    first, second = encoder.stages[0], encoder.stages[1]
    return {
        "skip_half": network.skip_half,
        "skip_full": network.skip_full,
        "patch_embed": encoder.embedding,
        "block00": first.blocks[0],
        "block01": first.blocks[1],
        "merge0": first.merging,
        "block11": second.blocks[1],
        **{f"enc{level}": stage for level, stage in enumerate(encoder.stages)},
        **{f"dec{level}": getattr(network, f"up{level}") for level in range(5)},
    }


@pytest.fixture(scope="module", params=RELEASED, ids=lambda case: case[0])
def released_run(request):
    """Golden arrays, images, outputs by name."""
    name, window, sides, batch = request.param
    arrays = golden_tensors(f"transmorph/{name}.npz")
    network = golden_network(window)
    moving, fixed = formula_pair(*sides, batch=batch)
    kept = Kept(**released_names(network))
    with torch.inference_mode():
        warped, flow = network(moving, fixed)
    for level in range(4):
        kept.outputs[f"enc{level}"] = kept.outputs[f"enc{level}"][0]  # beside the next tokens
    kept.outputs["patch_embed"] = kept.outputs["patch_embed"].permute(0, 4, 1, 2, 3)
    return arrays, moving, fixed, kept.outputs | {"flow": flow, "warped": warped}


def test_golden_features_flow_and_warped_image(released_run):
    arrays, _, _, ours = released_run
    for name, output in ours.items():
        assert relative_error(strided(output, arrays[name]), arrays[name]) < 1e-5, name


def test_golden_losses_of_the_networks_output(released_run):
    arrays, _, fixed, ours = released_run
    fixed, warped, flow = (x.double() for x in (fixed, ours["warped"], ours["flow"]))
    matches(mse_loss(warped, fixed), arrays["loss_mse"])
    matches(ncc_loss(warped, fixed), arrays["loss_ncc9"])
    matches(ncc_loss(warped, fixed, 5), arrays["loss_ncc5"])
    matches(mind_loss(warped, fixed), arrays["loss_mind"])
    matches(diffusion_loss(flow), arrays["reg_diffusion_l2"])
    matches(diffusion_loss(flow, "l1"), arrays["reg_diffusion_l1"])
    matches(bending_loss(flow), arrays["reg_disp_bending"])


def test_golden_measures_of_the_networks_output(released_run):
    arrays, moving, fixed, ours = released_run
    flow = ours["flow"]
    determinants, folded = jacobian_determinant(flow), folded_fraction(flow)
    for sample, determinant in enumerate(determinants):
        one_voxel = 1.01 / determinant.numel()
        expected = arrays[f"jac_nonpos_fraction_{sample}"].item()
        assert folded[sample].item() == pytest.approx(expected, abs=one_voxel)
        matches(determinant.mean(), arrays[f"jac_mean_{sample}"], 2e-5)
        matches(determinant.std(correction=0), arrays[f"jac_std_{sample}"], 2e-5)
        matches(determinant.min(), arrays[f"jac_min_{sample}"], 2e-5)
        matches(determinant.max(), arrays[f"jac_max_{sample}"], 2e-5)
    labels, wanted = formula_labels(moving), formula_labels(fixed)
    nearest = warp(labels.float(), flow, "nearest").long()
    results = {"raw": labels, "nearest": nearest, "onehot": warp_labels(labels, flow, 6)}
    for name, warped in results.items():
        counts = warped.flatten().bincount(minlength=6)
        known = arrays["label_counts_moving" if name == "raw" else f"label_counts_{name}"]
        off_by = (counts - known).abs().max()
        assert off_by <= 2, name
        expected = arrays[f"dice_{name}"].item()
        tolerance = 1e-6 if off_by == 0 else 1e-4
        assert released_dice(warped, wanted, 6) == pytest.approx(expected, abs=tolerance), name


@pytest.mark.parametrize(("name", "window", "sides", "batch"), RELEASED)
def test_golden_gradients_in_float64(name, window, sides, batch):
    arrays = golden_tensors(f"transmorph/{name}.npz")
    network = golden_network(window).double()
    moving, fixed = (image.double() for image in formula_pair(*sides, batch=batch))
    warped, flow = network(moving, fixed)
    total = ncc_loss(warped, fixed) + diffusion_loss(flow)
    matches(total, arrays["total_ncc9_plus_diffusion"], 1e-8)
    total.backward()
    stages = network.encoder.stages
    parameters = {
        "transformer.patch_embed.proj.weight": network.encoder.embedding.conv.weight,
        "transformer.layers.0.blocks.1.attn.relative_position_bias_table": stages[0]
        .blocks[1]
        .attention.bias_table,
        "transformer.layers.1.downsample.reduction.weight": stages[1].merging.reduction.weight,
        "transformer.layers.2.blocks.3.mlp.fc1.weight": stages[2].blocks[3].mlp.fc1.weight,
        "up0.conv1.0.weight": network.up0.first[0].weight,
        "up4.conv1.0.weight": network.up4.first[0].weight,
        "c1.0.weight": network.skip_half[0].weight,
        "reg_head.0.weight": network.head.weight,
    }
    known = {key.removeprefix("gradnorm/") for key in arrays if key.startswith("gradnorm/")}
    assert parameters.keys() == known
    for key, parameter in parameters.items():
        matches(parameter.grad.norm(), arrays[f"gradnorm/{key}"], 1e-8)


def test_golden_paper_form_of_a_size_that_needs_padding():
    arrays = golden_tensors("transmorph/transmorph_paper_E24_30x45x50.npz")
    network = golden_network((2, 4, 4), "paper")
    kept = Kept(enc0=network.encoder.stages[0], enc3=network.encoder.stages[3])
    moving, fixed = formula_pair(30, 45, 50)
    with torch.inference_mode():
        warped, flow = network(moving, fixed)
    for name in ("enc0", "enc3"):
        matches(kept.outputs[name][0], arrays[name])
    matches(flow, arrays["flow"])
    matches(warped, arrays["warped"])
    matches(ncc_loss(warped.double(), fixed.double()), arrays["loss_ncc9"])
    matches(diffusion_loss(flow.double()), arrays["reg_diffusion_l2"])
    matches(jacobian_determinant(flow)[0].std(correction=0), arrays["jac_std_0"], 2e-5)
    folded = arrays["jac_nonpos_fraction_0"].item()
    assert folded_fraction(flow).item() == pytest.approx(folded, abs=1.01 / flow[0, 0].numel())


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize("kind", ["eval", "sampled"])
def test_golden_diff(variant, kind):
    arrays = golden_tensors(f"transmorph/transmorph_diff_{variant}_E24_32x64x32.npz")
    network = golden_network(DIFF_WINDOW, variant, diff=True)
    moving, fixed = formula_pair(*DIFF_SIDES)
    noise = None if kind == "eval" else formula_noise(*DIFF_SIDES)
    with torch.inference_mode():
        field = network.field(moving, fixed, noise)
        warped = warp(moving, field.displacement)
    matches(field.mean, arrays["flow_mean"])
    matches(field.integrated, arrays[f"{kind}_integrated"])
    matches(warped, arrays[f"{kind}_warped"])
    if variant == "paper":
        matches(field.displacement, arrays[f"{kind}_displacement"])
    matches(SIMILARITY_WEIGHT * mse_loss(warped, fixed), arrays[f"{kind}_loss_sim"])
    matches(variance_term(field.log_variance), arrays[f"{kind}_kl_sigma_term"])
    matches(velocity_prior(*field[2:], field.integrated, variant), arrays[f"{kind}_kl"])


def test_golden_diff_as_released_in_its_own_units():
    arrays = golden_tensors("transmorph/transmorph_diff_released_E24_32x64x32.npz")
    network = golden_network(DIFF_WINDOW, "released", diff=True)
    kept = Kept(dec3=network.up3)
    with torch.inference_mode():
        field = network.field(*formula_pair(*DIFF_SIDES))
    matches(kept.outputs["dec3"], arrays["dec3"])
    matches(field.log_variance, arrays["log_sigma"])
    last = torch.tensor([side - 1.0 for side in DIFF_SIDES]).view(1, 3, 1, 1, 1)
    normalised = 2 * field.displacement / last
    matches(normalised, arrays["displacement_normalised"])
    axes = [torch.linspace(-1, 1, side) for side in DIFF_SIDES]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    matches(normalised + identity, arrays["deformation_normalised"])
    # [T14] the release measures the folds of the normalised field, whose determinants are near 1
    for name, displacement in (("released", normalised), ("voxel", field.displacement)):
        determinant = jacobian_determinant(displacement)
        assert folded_fraction(displacement).item() == arrays[f"{name}_jac_nonpos_fraction"]
        matches(determinant.mean(), arrays[f"{name}_jac_mean"], 2e-5)
        matches(determinant.std(correction=0), arrays[f"{name}_jac_std"], 2e-5)
        matches(determinant.min(), arrays[f"{name}_jac_min"], 2e-5)
        matches(determinant.max(), arrays[f"{name}_jac_max"], 2e-5)


@pytest.mark.parametrize("kind", ["eval", "sampled"])
def test_golden_folds_of_the_paper_diff(kind):
    arrays = golden_tensors("transmorph/transmorph_diff_paper_E24_32x64x32.npz")
    network = golden_network(DIFF_WINDOW, "paper", diff=True)
    noise = None if kind == "eval" else formula_noise(*DIFF_SIDES)
    with torch.inference_mode():
        displacement = network.field(*formula_pair(*DIFF_SIDES), noise).displacement
    determinant = jacobian_determinant(displacement)
    assert folded_fraction(displacement).item() == arrays[f"{kind}_jac_nonpos_fraction"]
    matches(determinant.std(correction=0), arrays[f"{kind}_jac_std"], 2e-5)
    matches(determinant.min(), arrays[f"{kind}_jac_min"], 2e-5)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (NETWORKS["tiny"], 244_527),
        (NETWORKS["small"], 11_757_195),
        (NETWORKS["standard"], 46_771_251),
        (NETWORKS["large"], 108_343_907),
        ({}, 46_771_251),
    ],
)
def test_parameters_of_the_standard_network(options, parameters):
    with torch.device("meta"):
        network = TransMorph(**options)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_parameters_of_the_diff_network():
    with torch.device("meta"):
        network = TransMorphDiff()
    assert sum(p.numel() for p in network.parameters()) == 46_557_414


@pytest.mark.parametrize("kind", [TransMorph, TransMorphDiff])
def test_untrained_networks_move_nothing(kind):
    torch.manual_seed(0)
    network = kind(**TINY).eval()
    moving, fixed = random(2, 1, 32, 32, 32)[:, None].unbind()
    with torch.inference_mode():
        warped, displacement = network(moving, fixed)
    assert displacement.abs().max() < 5e-3
    assert torch.allclose(warped, moving, atol=5e-3)


def test_the_released_diff_starts_with_a_shift():
    torch.manual_seed(0)
    assert TransMorphDiff(**TINY, variant="released").mean_head.bias.abs().min() > 1e-4
    assert not TransMorphDiff(**TINY).mean_head.bias.any()


@pytest.mark.parametrize("kind", [TransMorph, TransMorphDiff])
def test_every_parameter_gets_a_gradient(kind):
    torch.manual_seed(0)
    network = kind(**TINY, drop_path=0.0).train()
    moving, fixed = random(2, 1, 64, 32, 32)[:, None].unbind()
    warped, displacement = network(moving, fixed)
    (ncc_loss(warped, fixed) + diffusion_loss(displacement)).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("kind", [TransMorph, TransMorphDiff])
def test_any_size_is_padded_at_its_ends_and_cropped(kind):
    torch.manual_seed(0)
    paper = kind(**TINY).eval()
    released = kind(**TINY).eval()
    released.load_state_dict(paper.state_dict())
    for network in (paper, released):
        torch.nn.init.normal_(network.up3.second[0].weight, std=0.1)
    released.load_state_dict(paper.state_dict())
    moving, fixed = random(2, 1, 20, 33, 32)[:, None].unbind()
    padded = [torch.nn.functional.pad(image, (0, 0, 0, 31, 0, 12)) for image in (moving, fixed)]
    with torch.inference_mode():
        warped, displacement = paper(moving, fixed)
        whole = released.displacement(*padded)
    assert warped.shape == moving.shape
    assert torch.equal(displacement, whole[..., :20, :33, :32])
    assert torch.equal(warped, warp(moving, displacement))


@pytest.mark.parametrize("kind", [TransMorph, TransMorphDiff])
def test_the_released_form_refuses_other_sizes(kind):
    network = kind(**TINY, variant="released")
    with pytest.raises(ValueError, match=r"multiples of 32, received \(32, 33, 32\)"):
        network(torch.zeros(1, 1, 32, 33, 32), torch.zeros(1, 1, 32, 33, 32))


def test_images_of_two_sizes_or_of_several_channels_are_refused():
    network = TransMorph(**TINY)
    with pytest.raises(ValueError, match=r"received \(1, 1, 32, 32, 32\) and \(1, 1, 32, 32, 31\)"):
        network(torch.zeros(1, 1, 32, 32, 32), torch.zeros(1, 1, 32, 32, 31))
    with pytest.raises(ValueError, match=r"received \(1, 2, 32, 32, 32\)"):
        network(torch.zeros(1, 2, 32, 32, 32), torch.zeros(1, 2, 32, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"variant": "mine"}, "unknown variant 'mine'"), ({"depths": (2, 2)}, "4 depths and heads")],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TransMorph(**(TINY | options))


def test_noise_is_drawn_in_training_only_and_as_wide_as_its_variance():
    torch.manual_seed(0)
    network = TransMorphDiff(**TINY, drop_path=0.0).train()
    torch.nn.init.constant_(network.log_variance_head.bias, -2.0)
    moving, fixed = random(2, 1, 32, 32, 32)[:, None].unbind()
    with torch.no_grad():
        first, second = network.field(moving, fixed), network.field(moving, fixed)
        assert torch.equal(first.mean, second.mean)
        assert not torch.equal(first.integrated, second.integrated)
        one = network.field(moving, fixed, torch.ones_like(first.mean))
        expected = integrate(first.mean + torch.exp(torch.tensor(-1.0)))
        assert torch.allclose(one.integrated, expected, atol=1e-5)
        network.eval()
        assert torch.equal(
            network.field(moving, fixed).integrated, network.field(moving, fixed).integrated
        )


def test_the_inverse_leads_back():
    torch.manual_seed(0)
    network = TransMorphDiff(**TINY).eval()
    moving, fixed = random(2, 1, 32, 32, 32)[:, None].unbind()
    with torch.no_grad():
        network.mean_head.bias.copy_(torch.tensor([0.5, -0.25, 0.125]))
        forth, back = network.displacement(moving, fixed), network.inverse(moving, fixed)
    inner = (..., *(slice(8, -8),) * 3)
    half_grid = torch.tensor([1.0, -0.5, 0.25]).view(1, 3, 1, 1, 1)  # full-grid voxels: twice
    assert torch.allclose(forth[inner], half_grid.expand_as(forth)[inner], atol=2e-3)
    assert torch.allclose(back[inner], -forth[inner], atol=2e-3)
    with pytest.raises(ValueError, match="only variant='paper'"):
        TransMorphDiff(**TINY, variant="released").inverse(moving, fixed)


def test_the_symmetric_form_leaves_an_image_where_it_is_and_goes_both_ways():
    torch.manual_seed(0)
    network = build_registration("transmorph-diff", (32, 32, 32), "tiny", symmetric=True).eval()
    torch.nn.init.normal_(network.mean_head.weight, std=0.3)
    moving, fixed = random(2, 1, 32, 32, 32)[:, None].unbind()
    with torch.no_grad():
        forth = network.displacement(moving, fixed)
        back = network.displacement(fixed, moving)
        inverse = network.inverse(moving, fixed)
        itself = network.displacement(moving, moving)
    assert forth.abs().max() > 0.1
    torch.testing.assert_close(back, inverse, rtol=0, atol=1e-5)
    assert itself.abs().max() < 1e-5
    with pytest.raises(ValueError, match="no symmetric form"):
        build_registration("transmorph", (32, 32, 32), "tiny", symmetric=True)


@pytest.mark.parametrize("kind", [TransMorph, TransMorphDiff])
def test_displacements_are_predicted_outside_autocast(kind):
    network = kind(**TINY).eval()
    moving, fixed = random(2, 1, 32, 32, 32)[:, None].unbind()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        warped, displacement = network(moving, fixed)
    assert displacement.dtype == warped.dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((160, 192, 224), (5, 6, 7)),
        ((96, 128, 96), (3, 4, 3)),
        ((128, 128, 128), (4, 4, 4)),
        ((32, 33, 65), (2, 2, 3)),
        ((64, 60, 20), (2, 2, 2)),
    ],
)
def test_window_by_the_published_rule(size, window):
    assert window_of(size) == window
