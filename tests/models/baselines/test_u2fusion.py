"""U2Fusion against the arrays of the published network."""

import pytest
import torch

from models import build_model
from models.baselines.slicewise import slices_of, volume_of
from models.baselines.u2fusion import U2Fusion
from models.baselines.weights import load_weights
from tests.helpers.fills import fill
from tests.helpers.golden import golden, golden_tensors

TOLERANCE = {"rtol": 0, "atol": 5e-6}


@pytest.fixture(scope="module")
def released() -> U2Fusion:
    network = U2Fusion().eval()
    load_weights(network, golden("baselines/u2fusion_weights_encoder.npz"))
    return network


def fuse(network: U2Fusion, mri: torch.Tensor, pet: torch.Tensor) -> torch.Tensor:
    """(H, W) each."""
    with torch.inference_mode():
        return network(mri[None, None], pet[None, None])[0, 0]


def saved(picture: torch.Tensor) -> torch.Tensor:
    """The grey levels that the published script saves of a stretched picture."""
    return (255 * picture.clamp(0, 1) + 0.5).trunc()


@pytest.mark.parametrize("rule", ["A", "B"])
def test_golden_fills(rule):
    arrays = golden_tensors(f"baselines/u2fusion_rule{rule}.npz")
    network = U2Fusion()
    network.load_state_dict(
        fill(((name, tensor.shape) for name, tensor in network.state_dict().items()), rule)
    )
    with torch.inference_mode():
        code = network.encode(arrays["in_mri"][None, None], arrays["in_pet"][None, None])[0]
    torch.testing.assert_close(code, arrays["code"], **TOLERANCE)
    torch.testing.assert_close(
        fuse(network, arrays["in_mri"], arrays["in_pet"]), arrays["out"], **TOLERANCE
    )


@pytest.mark.parametrize("pair", ["med1", "med2"])
def test_golden_released_weights_and_saved_picture(released, pair):
    arrays = golden_tensors("baselines/u2fusion_released.npz")
    mri, pet = arrays[f"{pair}_mri"], arrays[f"{pair}_pet"]
    fused = fuse(released, mri, pet)
    torch.testing.assert_close(fused, arrays[f"{pair}_net"], **TOLERANCE)
    assert torch.equal(saved(fused / fused.max()), arrays[f"{pair}_final"])


def test_golden_studio_range_through_a_volume_with_the_published_stretch():
    arrays = golden_tensors("baselines/u2fusion_released.npz")
    weights = golden("baselines/u2fusion_weights_decoder.npz")
    model = build_model("u2fusion", weights=weights, pet_range="studio", stretch="slice").eval()
    full_range = (255 * arrays["med1_pet"] - 16) / 219
    with torch.inference_mode():
        fused = model(volume_of(arrays["med1_mri"][None, None]), volume_of(full_range[None, None]))
    differs = saved(slices_of(fused).squeeze()) - arrays["med1_final"]
    assert differs.abs().max() <= 1
    assert differs.count_nonzero() <= 0.001 * differs.numel()


def test_golden_luma_of_a_colour_pair(released):
    arrays = golden_tensors("baselines/u2fusion_colour.npz")
    luma = arrays["pet_rgb"] / 255 @ torch.tensor([0.299, 0.587, 0.114])
    fused = fuse(released, arrays["mri"], luma)
    torch.testing.assert_close(fused, arrays["net"], **TOLERANCE)


def test_released_network_gives_grey_for_black(released):
    black = torch.zeros(16, 16)
    assert fuse(released, black, black).mean().item() == pytest.approx(0.068, abs=1e-3)


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (13, 7)])
def test_any_size_and_batch(released, shape):
    mri, pet = torch.rand(2, 3, 1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = released(mri, pet)
    assert together.shape == mri.shape
    for fused, m, p in zip(together, mri, pet, strict=True):
        torch.testing.assert_close(fused[0], fuse(released, m[0], p[0]), **TOLERANCE)


def test_pet_is_the_first_channel(released):
    mri, pet = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(fuse(released, mri, pet), fuse(released, pet, mri), atol=1e-3)


def test_every_parameter_gets_a_gradient():
    network = U2Fusion()
    network(*torch.rand(2, 2, 1, 8, 8)).square().sum().backward()
    assert [
        name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_size_and_initial_values_are_the_published_ones():
    network = U2Fusion()
    assert sum(p.numel() for p in network.parameters()) == 659_217
    weights = network.decoder.conv2_1.weight
    assert weights.abs().max() <= 0.1  # TensorFlow's truncated normal ends at two deviations
    assert weights.std().item() == pytest.approx(0.05 * 0.88, rel=0.05)
    assert not network.encoder.conv1_1.bias.any()


def test_unknown_pet_range_is_refused():
    with pytest.raises(ValueError, match="choose from full, studio"):
        U2Fusion(pet_range="limited")
