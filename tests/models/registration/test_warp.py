"""Warping, composition and integration, against SciPy, matrices and the released code's arrays."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.registration.warp import compose, integrate, warp, warp_labels
from tests.helpers.golden import golden_tensors, relative_error
from tests.helpers.transmorph import formula_flow, formula_pair

SIDES = (7, 9, 11)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def places(*sides: int) -> torch.Tensor:
    """The voxels' own indices, (1, 3, D, H, W)."""
    axes = [torch.arange(side, dtype=torch.float64) for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def linear_field(matrix: np.ndarray, *sides: int) -> torch.Tensor:
    """u(p) = A (p - centre), (1, 3, D, H, W)."""
    centre = torch.tensor([(side - 1) / 2 for side in sides], dtype=torch.float64)
    from_centre = places(*sides) - centre.view(1, 3, 1, 1, 1)
    return torch.einsum("ab,nbdhw->nadhw", torch.from_numpy(matrix), from_centre)


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_warp_equals_scipy_inside_and_outside_of_the_volume(mode, order):
    source = random(2, 2, *SIDES)
    displacement = 8 * random(2, 3, *SIDES, seed=1) - 4  # many voxels come from outside
    ours = warp(source, displacement, mode)
    for sample in range(2):
        where = (places(*SIDES)[0] + displacement[sample]).numpy()
        for channel in range(2):
            volume = source[sample, channel].numpy()
            expected = ndimage.map_coordinates(volume, where, order=order, mode="grid-constant")
            np.testing.assert_allclose(ours[sample, channel], expected, atol=1e-12)


def test_no_displacement_returns_the_source_and_a_shift_shifts_it():
    source = random(1, 1, *SIDES)
    displacement = torch.zeros(1, 3, *SIDES, dtype=torch.float64)
    assert torch.allclose(warp(source, displacement), source, rtol=0, atol=1e-13)
    displacement[:, 1] = 2
    shifted = warp(source, displacement)
    assert torch.allclose(shifted[..., :-2, :], source[..., 2:, :], rtol=0, atol=1e-13)
    assert not shifted[..., -2:, :].any()


def test_the_result_lies_on_the_displacements_grid():
    source = random(1, 1, *SIDES)
    displacement = torch.full((1, 3, 3, 4, 5), 1.0, dtype=torch.float64)
    assert torch.allclose(warp(source, displacement), source[..., 1:4, 1:5, 1:6], atol=1e-13)


def test_positions_are_kept_from_autocast():
    source, displacement = random(1, 1, *SIDES).float(), random(1, 3, *SIDES, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = warp(source.bfloat16(), displacement)
    assert torch.equal(under, warp(source.bfloat16().float(), displacement))


def test_gradients_by_source_and_displacement():
    source, displacement = random(1, 1, 3, 4, 3), random(1, 3, 3, 4, 3, seed=1) + 0.1
    assert torch.autograd.gradcheck(warp, (source.requires_grad_(), displacement.requires_grad_()))


def test_a_flat_volume_and_an_unknown_mode_are_refused():
    with pytest.raises(ValueError, match=r"less than 2 voxels to warp, received \(4, 1, 4\)"):
        warp(torch.zeros(1, 1, 4, 1, 4), torch.zeros(1, 3, 4, 1, 4))
    with pytest.raises(ValueError, match="unknown mode 'bicubic'"):
        warp(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4), "bicubic")


def test_warped_labels_are_the_argmax_of_warped_maps():
    labels = (4 * random(2, 1, *SIDES)).long()
    displacement = 4 * random(2, 3, *SIDES, seed=1) - 2
    maps = torch.nn.functional.one_hot(labels[:, 0]).permute(0, 4, 1, 2, 3).double()
    expected = warp(maps, displacement).argmax(dim=1, keepdim=True)
    assert torch.equal(warp_labels(labels, displacement), expected)
    assert torch.equal(warp_labels(labels, displacement, classes=7), expected)


def test_composition_of_linear_fields_is_the_product_of_their_matrices():
    first = np.array([[-0.2, 0.05, 0.02], [0.03, -0.25, 0.04], [0.01, -0.06, -0.2]])
    second = np.array([[-0.3, 0.02, 0.05], [-0.07, -0.2, 0.01], [0.03, 0.05, -0.3]])
    both = (np.eye(3) + first) @ (np.eye(3) + second) - np.eye(3)
    fields = (linear_field(matrix, *SIDES) for matrix in (first, second, both))
    first, second, expected = fields
    assert torch.allclose(compose(first, second), expected, rtol=0, atol=1e-12)


def test_warping_by_the_composition_is_warping_twice():
    smooth = places(*SIDES).sum(dim=1, keepdim=True)  # linear: interpolated without error
    first, second = random(1, 3, *SIDES) - 0.5, random(1, 3, *SIDES, seed=1) - 0.5
    twice = warp(warp(smooth, first), second)
    once = warp(smooth, compose(first, second))
    inner = (..., *(slice(2, -2),) * 3)
    assert torch.allclose(twice[inner], once[inner], atol=1e-12)
    wrong = warp(smooth, first + second)
    assert not torch.allclose(twice[inner], wrong[inner], atol=0.1)


@pytest.mark.parametrize(("scaled", "first_step"), [(True, 1 / 128), (False, 1.0)])
def test_integration_of_a_linear_velocity_is_a_power_of_its_step(scaled, first_step):
    matrix = np.array([[-0.2, 0.05, 0.02], [0.03, -0.25, 0.04], [0.01, -0.06, -0.2]])
    velocity = linear_field(matrix, *SIDES)
    step = np.eye(3) + first_step * matrix
    expected = linear_field(np.linalg.matrix_power(step, 128) - np.eye(3), *SIDES)
    assert torch.allclose(integrate(velocity, scaled), expected, rtol=0, atol=1e-11)


def test_integration_backwards_is_the_way_back():
    voxels = places(16, 16, 16)
    bump = torch.exp(-((voxels - 7.5) ** 2).sum(dim=1, keepdim=True) / 18)
    velocity = bump * torch.tensor([1.5, -1.0, 0.5], dtype=torch.float64).view(1, 3, 1, 1, 1)
    forth, back = integrate(velocity), integrate(-velocity)
    assert forth.abs().max() > 1
    assert compose(forth, back).abs().max() < 0.06
    assert (forth + back).abs().max() > 0.2  # minus the displacement is no inverse


def test_golden_warps():
    arrays = golden_tensors("transmorph/transmorph_losses_24x20x28.npz")
    moving, _ = formula_pair(24, 20, 28, batch=2)
    flow = formula_flow(24, 20, 28, batch=2)
    assert torch.equal(moving, arrays["moving"]) and torch.equal(flow, arrays["flow"])
    for mode, name in (("bilinear", "linear"), ("nearest", "nearest")):
        assert relative_error(warp(moving, flow, mode), arrays[f"warped_{name}"]) < 1e-6
        raised = warp(moving[:1] + 1, flow[:1], mode)[0, 0]
        assert relative_error(raised, arrays[f"warped_plus1_{name}"]) < 1e-6
