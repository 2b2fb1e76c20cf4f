"""Clipping in the network: values of `clamp`, and gradients that lead back into the range."""

import pytest
import torch

from models import build_model
from models.clip import clip_to_unit

PLACES = (-0.5, 0.0, 0.3, 1.0, 1.5)


@pytest.mark.parametrize(
    ("upstream", "passes"),
    [(1.0, (False, True, True, True, True)), (-1.0, (True, True, True, True, False))],
    ids=["darker", "brighter"],
)
def test_what_leads_back_in_passes(upstream, passes):
    volume = torch.tensor(PLACES, dtype=torch.float64, requires_grad=True)
    clipped = clip_to_unit(volume)
    assert clipped.tolist() == [0.0, 0.0, 0.3, 1.0, 1.0]
    clipped.backward(torch.full_like(clipped, upstream))
    assert volume.grad.tolist() == [upstream if passed else 0.0 for passed in passes]


def test_descent_ends_where_projected_descent_does():
    wanted = torch.tensor([-0.4, 0.2, 0.9, 1.7])
    volume = torch.tensor([0.5, 1.8, -0.6, 0.5], requires_grad=True)
    optimizer = torch.optim.SGD([volume], lr=0.1)
    for _ in range(200):
        loss = (clip_to_unit(volume) - wanted).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(clip_to_unit(volume), wanted.clamp(0, 1), rtol=0, atol=1e-4)


def test_a_network_that_is_too_bright_everywhere_is_told_so():
    model = build_model("dc2fusion", embed_dim=24, depths=(1,), head="bands", fusion="average")
    with torch.no_grad():
        model.head.coefficients[-1].bias[0] = 1.0  # of the source itself
    mri, pet = torch.full((2, 1, 1, 8, 8, 8), 0.9)
    fused = model(mri, pet)
    assert (fused == 1).all()
    (fused - 0.9).square().mean().backward()
    assert model.head.coefficients[-1].bias.grad[0] > 0
