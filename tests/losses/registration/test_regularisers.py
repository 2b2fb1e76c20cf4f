"""Smoothness of a field, against MONAI, NumPy and the arrays of the released code."""

from itertools import product

import numpy as np
import pytest
import torch
from monai.losses import BendingEnergyLoss

from losses.registration.regularisers import bending_loss, diffusion_loss
from tests.helpers.golden import golden_tensors, relative_error
from tests.helpers.transmorph import formula_flow


def field(*sides: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *sides, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("norm", "size"), [("l2", np.square), ("l1", np.abs)])
def test_diffusion_equals_numpy(norm, size):
    displacement = field(5, 6, 7)
    means = [size(np.diff(displacement.numpy(), axis=axis)).mean() for axis in (2, 3, 4)]
    assert diffusion_loss(displacement, norm).item() == pytest.approx(np.mean(means), rel=1e-12)


def test_bending_equals_numpy():
    displacement = field(7, 6, 8).numpy()
    energy = 0
    for first, second in product((2, 3, 4), repeat=2):
        twice = np.gradient(np.gradient(displacement, axis=first), axis=second)
        energy += np.square(twice[..., 2:-2, 2:-2, 2:-2]).mean()
    ours = bending_loss(torch.from_numpy(displacement))
    assert ours.item() == pytest.approx(energy, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_bending_of_a_parabola_equals_monai():
    # MONAI's second differences span one voxel, these two: a parabola does not tell them apart.
    i, j, k = torch.meshgrid(*(torch.arange(7.0, dtype=torch.float64),) * 3, indexing="ij")
    channels = (i * i - j * k, i * k + 2 * j * j, k * k / 2 - i * j)
    parabola = torch.stack(channels).unsqueeze(0)
    expected = BendingEnergyLoss()(parabola).item()
    assert expected > 1
    assert bending_loss(parabola).item() == pytest.approx(expected, rel=1e-12)


def test_shifts_cost_nothing_and_affine_fields_do_not_bend():
    shift = torch.ones(1, 3, 6, 6, 6, dtype=torch.float64)
    assert diffusion_loss(shift) == 0 and bending_loss(shift) == 0
    ramp = shift.cumsum(dim=3) / 2
    assert bending_loss(ramp).item() == pytest.approx(0, abs=1e-24)
    assert diffusion_loss(ramp).item() == pytest.approx(0.25 / 3)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="unknown norm 'l3'"):
        diffusion_loss(field(4, 4, 4), "l3")


def test_golden_values():
    arrays = golden_tensors("transmorph/transmorph_losses_24x20x28.npz")
    flow = formula_flow(24, 20, 28, batch=2)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        cast = flow.to(dtype)
        values = {
            "diffusion_l2": diffusion_loss(cast),
            "diffusion_l1": diffusion_loss(cast, "l1"),
            "disp_bending": bending_loss(cast),
        }
        for name, value in values.items():
            assert relative_error(value, arrays[f"reg_{name}"]) < tolerance, name
