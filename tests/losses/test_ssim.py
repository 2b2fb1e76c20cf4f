"""SSIM as a loss: MONAI as reference, its value for identical volumes, its smallest side."""

import pytest
import torch
from monai.losses import SSIMLoss

from losses.ssim import ssim_losses
from tests.helpers.images import volumes


@pytest.mark.parametrize("size", [(16, 16, 16), (11, 20, 31)])
def test_ssim_equals_monai(size):
    fused, mri, pet = volumes(*size, batch=2)
    reference = SSIMLoss(spatial_dims=3)
    ours = ssim_losses(fused.requires_grad_(), mri, pet)
    for value, source in zip(ours, (mri, pet), strict=True):
        assert value.item() == pytest.approx(reference(fused, source).item(), abs=1e-5)
    gradient = torch.autograd.grad(ours[0], fused)[0]
    expected = torch.autograd.grad(reference(fused, mri), fused)[0]
    assert torch.allclose(gradient, expected, atol=1e-4 * expected.abs().max())


def test_ssim_of_identical_volumes_is_zero():
    _, mri, _ = volumes(16, 16, 16)
    assert ssim_losses(mri, mri)[0].item() == pytest.approx(0, abs=1e-6)


def test_ssim_names_a_side_that_is_too_short():
    with pytest.raises(ValueError, match=r"11 voxels, received \(16, 10, 16\)"):
        ssim_losses(*volumes(16, 10, 16))
