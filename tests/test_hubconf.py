"""hubconf.py, by torch.hub as from elsewhere."""

import pytest
import torch

import hubconf
from losses import build_objective
from models.balance import weights
from tests.helpers.golden import ROOT
from tests.helpers.runs import save_small_weights


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Small weights in the place of those that come with the code; their network."""
    monkeypatch.setattr(hubconf, "SHIPPED", tmp_path / "dc2fusion.safetensors")
    return save_small_weights(hubconf.SHIPPED).eval()


def pair():
    return torch.rand(2, 1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_network_without_weights_by_torch_hub():
    options = {"embed_dim": 24, "depths": (1, 1)}
    model = torch.hub.load(str(ROOT), "dc2fusion", source="local", pretrained=False, **options)
    assert not model.training and model(*pair()).shape == (1, 1, 16, 16, 16)


@torch.no_grad()
def test_the_weights_that_come_with_the_code_and_their_balance(shipped):
    model = hubconf.dc2fusion()
    torch.testing.assert_close(model(*pair()), shipped(*pair(), 0.4), atol=1e-2, rtol=0)
    turned = hubconf.dc2fusion(balance=0.9)
    assert torch.equal(turned(*pair()), model(*pair(), 0.9))
    assert not torch.equal(turned(*pair()), model(*pair()))


def test_steps_follow_the_network_for_its_objective_at_the_balance(shipped):
    mri, pet = pair()
    network, refined = hubconf.dc2fusion(balance=0.9), hubconf.dc2fusion(balance=0.9, refine=3)
    objective = build_objective("ssim-gradient-intensity", *[weights(0.9)] * 3)
    with torch.no_grad():
        start = network(mri, pet).clamp(0, 1)
    found = refined(mri, pet)
    assert not refined.training and 0 <= found.min() and found.max() <= 1
    assert objective(found, mri, pet)[0] < objective(start, mri, pet)[0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"embed_dim": 48}, "embed_dim"),
        ({"balance": 1.5}, "0 to 1"),
        ({"pretrained": False, "balance": 0.5}, "pretrained"),
        ({"pretrained": False, "refine": 3}, "pretrained"),
        ({"pretrained": False, "embed_dim": 25}, "multiple of 24"),
    ],
)
def test_options_that_do_not_go_together(shipped, options, match):
    with pytest.raises(ValueError, match=match):
        hubconf.dc2fusion(**options)
