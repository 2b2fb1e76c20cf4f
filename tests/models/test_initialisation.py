"""The identity initialisation: the network starts as its fusion layer's reading of the inputs."""

import pytest
import torch

from data.phantom.head import make_subject
from losses import build_objective
from models import build_model
from models.fusion_layer import fusion_strategy, gate
from models.initialisation import basis_channels, patch_basis
from tests.helpers.golden import relative_error


def synthetic_pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A synthetic head of 8 mm voxels, (1, 1, D, H, W) in [0, 1], odd sides."""
    head = make_subject(seed, 8)
    volumes = (torch.from_numpy(array.astype("float32")) for array in (head.mri, head.pet))
    mri, pet = (volume[None, None, ..., :-1, :] / volume.max() for volume in volumes)
    return mri, pet


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return synthetic_pair(3407)


def network(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("dc2fusion", **{"embed_dim": 96, "depths": (1, 1), **options}).eval()


def test_basis_is_orthonormal_and_begins_with_the_lowest_frequencies():
    basis = patch_basis().flatten(1)
    assert torch.allclose(basis @ basis.T, torch.eye(64, dtype=torch.float64))
    assert torch.allclose(basis[0], torch.full((64,), 1 / 8, dtype=torch.float64))
    # The second to fourth are half a wave along one axis: constant along the other two.
    for function, axis in zip(patch_basis()[1:4], (2, 1, 0), strict=True):
        assert function.std(dim=axis).min() > 0.05
        assert all(function.std(dim=other).max() < 1e-12 for other in {0, 1, 2} - {axis})


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 0.04),
        ({"depths": (1,)}, 0.05),
        ({"depths": (2, 1, 1, 1)}, 0.04),
        ({"embed_dim": 72}, 0.05),
        ({"embed_dim": 144, "depths": (1,)}, 0.05),
    ],
)
def test_stream_maps_start_as_the_inputs(pair, options, tolerance):
    maps = network(**options).stream_maps(*pair)
    assert relative_error(maps, torch.cat(pair, dim=1)) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("embed_dim", [24, 48])
def test_narrow_networks_start_with_the_low_frequencies(pair, embed_dim):
    """With the mean of each patch at least: nearer to the inputs than the patches' means are."""
    maps = network(embed_dim=embed_dim).stream_maps(*pair)
    inputs = torch.cat(pair, dim=1)
    blocks = torch.nn.functional.avg_pool3d(inputs, 4, ceil_mode=True, count_include_pad=False)
    sides = inputs.shape[2:]
    for axis in (2, 3, 4):
        blocks = blocks.repeat_interleave(4, dim=axis)
    coarse = blocks[:, :, : sides[0], : sides[1], : sides[2]]
    assert basis_channels(embed_dim) == embed_dim - 2
    assert relative_error(maps, inputs) < 0.8 * relative_error(coarse, inputs)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["l1-norm", "average", "fer", "softmax-nuclear", "addition"])
def test_fused_volume_starts_as_the_fusion_layer_of_the_inputs(pair, fusion):
    fused = network(fusion=fusion)(*pair)
    assert relative_error(fused, fusion_strategy(fusion)(*pair) * gate(*pair)) < 0.05


@torch.no_grad()
def test_starts_better_than_the_average(pair):
    """The L1-norm weights lean to the MRI, as the objective does."""
    objective = build_objective("ssim-gradient-intensity")
    losses = {
        "identity": objective(network()(*pair), *pair)[0],
        "narrow": objective(network(embed_dim=24)(*pair), *pair)[0],
        "average": objective((pair[0] + pair[1]) / 2, *pair)[0],
        "default": objective(network(init="default")(*pair), *pair)[0],
    }
    assert losses["identity"] < 0.95 * losses["average"]
    assert losses["average"] < losses["default"]
    assert losses["narrow"] < losses["default"]


@torch.no_grad()
def test_start_in_bfloat16(pair):
    """Its large tokens lose no more than others would: relative to what they hold."""
    model = network()
    exact = model.stream_maps(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.stream_maps(*pair)
    assert relative_error(rounded.float(), exact) < 0.01


@pytest.mark.parametrize("embed_dim", [24, 96])
def test_first_steps_do_not_unlearn_it(pair, embed_dim):
    """At the published rate without a warm-up, where Adam's first step moves all weights by it."""
    model, objective = network(embed_dim=embed_dim), build_objective("ssim-gradient-intensity")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    unseen = synthetic_pair(1)
    losses = []
    for _ in range(4):
        with torch.no_grad():
            losses.append(objective(model.eval()(*unseen), *unseen)[0].item())
        optimizer.zero_grad()
        objective(model.train()(*pair), *pair)[0].backward()
        optimizer.step()
    assert max(losses[1:]) < 1.02 * losses[0]
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_background_is_dark_where_both_sources_are(pair):
    fused = network(init="default")(*pair)
    dark = torch.maximum(*pair) == 0
    assert dark.float().mean() > 0.2
    assert not fused[dark].any()
    assert network(init="default", switched=("R10",))(*pair)[dark].any()


@pytest.mark.parametrize("depths", [(1,), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize("embed_dim", [24, 96])
def test_every_parameter_learns_after_the_first_steps(pair, embed_dim, depths):
    """What stands before a layer of zeros waits for that layer's first step, level by level."""
    model = network(embed_dim=embed_dim, depths=depths)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(1 + 2 * len(depths)):
        optimizer.zero_grad()
        model(*pair).square().mean().backward()
        optimizer.step()
    without = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert without == []


def test_released_variant_keeps_its_own():
    torch.manual_seed(0)
    released = build_model("dc2fusion", embed_dim=24, depths=(1,), variant="released")
    default = network(embed_dim=24, depths=(1,), variant="released", init="default")
    paper = network(embed_dim=24, depths=(1,))
    merge = "encoder.0.0.blend.merge.weight"
    assert torch.equal(released.state_dict()[merge], default.state_dict()[merge])
    assert not paper.state_dict()[merge].any()


@torch.no_grad()
def test_checkpoints_load_over_it(pair):
    """It changes how parameters start, not which there are."""
    trained, fresh = network(init="default"), network()
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(*pair), trained(*pair))
