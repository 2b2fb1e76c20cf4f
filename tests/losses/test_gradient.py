"""The gradient term: SciPy as reference, and which source it follows."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from losses import build_objective
from losses.gradient import GAIN, additive_gradient_losses, gradient_magnitude
from tests.helpers.images import volumes


def test_gradient_magnitude_equals_scipy():
    _, mri, _ = volumes(12, 14, 13)
    array = mri[0, 0].double().numpy()
    components = [ndimage.sobel(array, axis, mode="nearest") / 32 for axis in range(3)]
    expected = np.sqrt(sum(c**2 for c in components) + 1e-12)
    np.testing.assert_allclose(gradient_magnitude(mri.double())[0, 0].numpy(), expected, rtol=1e-8)


def test_gradient_terms_follow_the_stronger_edge():
    _, mri, pet = volumes(14, 14, 14)
    fused, mri, pet = (v.double() for v in (0.7 * mri + 0.2 * pet, mri, pet))
    edge, edge_mri, edge_pet = (gradient_magnitude(v)[0, 0].numpy() for v in (fused, mri, pet))
    _, terms = build_objective("ssim-gradient-intensity")(fused, mri, pet)
    mri_mask = np.where(edge_mri > edge_pet, 1, np.where(edge_mri == edge_pet, 0.5, 0))
    assert terms["gradient/mri"].item() == pytest.approx((mri_mask * abs(edge - edge_mri)).mean())
    assert terms["gradient/pet"].item() == pytest.approx(
        ((1 - mri_mask) * abs(edge - edge_pet)).mean()
    )


def test_equal_edges_count_half_for_each_source():
    fused, mri, _ = volumes(14, 14, 14)
    _, terms = build_objective("ssim-gradient-intensity")(fused, mri, mri)
    assert terms["gradient/mri"].item() == pytest.approx(terms["gradient/pet"].item(), rel=1e-6)
    assert terms["gradient/mri"] > 0


def test_additive_gradient_equals_scipy():
    inputs = volumes(12, 14, 13)
    fused, mri, pet = (v[0, 0].double().numpy() for v in inputs)
    missing = [ndimage.sobel(fused - mri - pet, axis, mode="nearest") / 32 for axis in range(3)]
    expected = GAIN * np.sqrt(sum(c**2 for c in missing) + 1e-6).mean()
    terms = additive_gradient_losses(*inputs)
    assert [term.item() for term in terms] == pytest.approx([expected] * 2, rel=1e-4)


def test_additive_gradient_is_least_for_the_sum_and_asks_for_a_lesion_of_either_source():
    _, mri, pet = volumes(16, 16, 16)
    lesion = torch.zeros_like(mri)
    lesion[..., 6:10, 6:10, 6:10] = -0.3
    least = GAIN * 1e-3
    for with_mri, with_pet in ((mri, pet), (mri + lesion, pet), (mri, pet + lesion)):
        loss, _ = additive_gradient_losses(with_mri + with_pet - 0.4, with_mri, with_pet)
        assert loss.item() == pytest.approx(least, rel=1e-3)
    loss, _ = additive_gradient_losses(mri + pet, mri, pet + lesion)
    assert loss > 2 * least
