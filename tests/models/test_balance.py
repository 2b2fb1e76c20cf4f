"""One network for all balances: it starts as the one without, and learns to turn the knob."""

import pytest
import torch
from torch.nn import functional as F

from models import build_model
from models.balance import NEUTRAL, Balance, shares, weights

SIDE = 12


def volumes(batch=1):
    """Smooth ones: E = 24 cannot carry every voxel of noise."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2 * batch, 1, 4, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, (SIDE,) * 3, mode="trilinear", align_corners=True)
    return smooth.view(2, batch, 1, SIDE, SIDE, SIDE)


def build(balanced, **options):
    torch.manual_seed(0)
    return build_model("dc2fusion", embed_dim=24, depths=(1, 1), balanced=balanced, **options)


def test_it_starts_as_the_network_without_it():
    plain, balanced = (build(flag, init="default").eval() for flag in (False, True))
    balanced.load_state_dict(plain.state_dict(), strict=False)
    mri, pet = volumes()
    with torch.no_grad():
        expected = plain(mri, pet)
        for t in (0.0, 0.3, 1.0):
            assert torch.allclose(balanced(mri, pet, t), expected, atol=1e-6)


def test_the_identity_is_in_proportion_to_the_shares():
    plain, balanced = (build(flag, init="identity").eval() for flag in (False, True))
    balanced.load_state_dict(plain.state_dict(), strict=False)
    mri, pet = volumes()
    with torch.no_grad():
        expected = plain.stream_maps(mri, pet)
        assert torch.allclose(balanced.stream_maps(mri, pet, NEUTRAL), expected, atol=1e-5)
        turned = balanced.stream_maps(mri, pet, 0.7)
    for stream, share in enumerate((1.4, 0.6)):
        ratio = (turned[:, stream] / expected[:, stream]).median().item()
        assert ratio == pytest.approx(share, rel=0.05)


def test_without_it_a_network_has_no_such_parameters():
    assert not any(name.startswith("balance") for name in build(False).state_dict())
    assert any(name.startswith("balance") for name in build(True).state_dict())


def test_it_learns_to_turn():
    """Asked for the MRI at t = 1 and the PET at t = 0, it comes nearer to each."""
    model = build(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    mri, pet = volumes()

    def errors():
        model.eval()
        with torch.no_grad():
            wanted = {1.0: mri, 0.0: pet}
            return [(model(mri, pet, t) - w).square().mean().item() for t, w in wanted.items()]

    before = errors()
    for step in range(60):
        model.train()
        t = float(step % 2)
        loss = (model(mri, pet, t) - (t * mri + (1 - t) * pet)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = errors()
    assert all(new < 0.5 * old for new, old in zip(after, before, strict=True)), (before, after)


def test_each_sample_has_its_own():
    model = build(True).eval()
    for place in model.balance.places:
        torch.nn.init.normal_(place.weight, std=0.2)
    mri, pet = volumes(batch=2)
    # the fusion layer's weights are each sample's own, so samples do not see each other
    with torch.no_grad():
        both = model(mri, pet, torch.tensor([0.2, 0.9]))
        for sample, t in enumerate((0.2, 0.9)):
            alone = model(mri[sample : sample + 1], pet[sample : sample + 1], t)
            assert torch.allclose(both[sample : sample + 1], alone, atol=1e-5)
        assert not torch.allclose(both, model(mri, pet, NEUTRAL), atol=1e-3)


def test_streams_swap_with_their_shares():
    balance = Balance([6])
    torch.nn.init.normal_(balance.places[0].weight)
    tokens = torch.rand(1, 2, 2, 2, 6)
    mri, pet = shares(0.3, tokens)
    pet_first, _ = shares(0.7, tokens)
    assert torch.allclose(pet, pet_first)
    assert torch.allclose(balance(tokens, pet, 0), balance(tokens, pet_first, 0))
    assert not torch.allclose(balance(tokens, mri, 0), balance(tokens, pet, 0))


@pytest.mark.parametrize("balance", [-0.1, 1.1, float("nan"), torch.tensor([0.5, 0.5])])
def test_what_is_no_balance_is_refused(balance):
    with pytest.raises(ValueError):
        shares(balance, torch.zeros(1, 3))


def test_weights_of_the_published_command():
    assert weights(2 / 3) == pytest.approx((2, 1))
