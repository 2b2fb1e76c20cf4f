"""Likeness terms, against MONAI and the arrays of the released code."""

import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss

from losses.registration.similarity import mse_loss, ncc_loss
from tests.helpers.golden import golden_tensors, relative_error
from tests.helpers.images import volumes
from tests.helpers.transmorph import formula_pair


def images() -> tuple[torch.Tensor, torch.Tensor]:
    first, second, _ = volumes(12, 15, 11, batch=2)
    return first.double(), second.double()


@pytest.mark.parametrize("window", [3, 5, 9])
def test_ncc_equals_monai(window):
    # MONAI keeps each variance above 1e-5, here 1e-5 is added to their product: no matter here.
    warped, fixed = (1000 * image for image in images())
    reference = LocalNormalizedCrossCorrelationLoss(kernel_size=window)
    ours, expected = ncc_loss(warped.requires_grad_(), fixed, window), reference(warped, fixed)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-7)
    (gradient,) = torch.autograd.grad(ours, warped, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, warped)
    assert torch.allclose(gradient, wanted, atol=1e-6 * wanted.abs().max().item())


def test_ncc_follows_its_formula():
    warped, fixed = images()
    total, voxels = 0.0, 3**3
    padded_m, padded_f = (torch.nn.functional.pad(image, (1,) * 6) for image in (warped, fixed))
    for sample in range(2):
        for i, j, k in torch.cartesian_prod(*(torch.arange(side) for side in warped.shape[2:])):
            box = (sample, 0, slice(i, i + 3), slice(j, j + 3), slice(k, k + 3))
            m, f = padded_m[box].flatten(), padded_f[box].flatten()
            cross = m @ f - m.sum() * f.sum() / voxels
            variances = (m @ m - m.sum() ** 2 / voxels) * (f @ f - f.sum() ** 2 / voxels)
            total += (cross**2 / (variances + 1e-5)).item()
    assert ncc_loss(warped, fixed, 3).item() == pytest.approx(-total / warped.numel(), rel=1e-10)


def test_ncc_of_a_linear_change_and_of_empty_volumes():
    _, fixed = images()
    assert ncc_loss(-2 * fixed, fixed).item() == pytest.approx(
        ncc_loss(fixed, fixed).item(), abs=2e-2
    )
    assert ncc_loss(fixed, fixed) < -0.95
    empty = torch.zeros_like(fixed)
    assert ncc_loss(empty, fixed) == 0 and ncc_loss(empty, empty) == 0


def test_an_even_window_is_refused():
    with pytest.raises(ValueError, match="odd, received 8"):
        ncc_loss(*images(), window=8)


def test_terms_are_computed_outside_autocast():
    warped, fixed = (image.float() for image in images())
    for loss in (mse_loss, ncc_loss):
        outside = loss(warped, fixed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(warped, fixed), outside)


def test_golden_values():
    arrays = golden_tensors("transmorph/transmorph_losses_24x20x28.npz")
    moving, fixed = formula_pair(24, 20, 28, batch=2)
    values = {
        "mse": mse_loss(moving.double(), fixed.double()),
        "ncc9": ncc_loss(moving.double(), fixed.double()),
        "ncc5": ncc_loss(moving.double(), fixed.double(), 5),
    }
    for name, value in values.items():
        assert relative_error(value, arrays[f"loss_{name}"]) < 1e-6, name
    assert relative_error(ncc_loss(moving, fixed), arrays["loss_ncc9"]) < 1e-5
