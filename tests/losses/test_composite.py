"""Likeness to the composite: SciPy in float64 as reference, and what its share does."""

import numpy as np
import pytest
import torch

from losses import build_objective
from losses.composite import composite, composite_gradient_losses, composite_ssim_losses
from losses.gradient import gradient_magnitude
from tests.helpers.images import volumes
from tests.losses.test_salient import window_means


def factors(fused: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, ...]:
    """Luminance and contrast-structure of SSIM, and the source's deviation, in each window."""
    mean_f, mean_s = window_means(fused), window_means(source)
    variance_f = window_means(fused**2) - mean_f**2
    variance_s = window_means(source**2) - mean_s**2
    covariance = window_means(fused * source) - mean_f * mean_s
    luminance = (2 * mean_f * mean_s + 1e-4) / (mean_f**2 + mean_s**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_f + variance_s + 9e-4)
    return luminance, structure, np.sqrt(variance_s.clip(0) + 1e-8)


def test_structure_equals_the_formula():
    share = 0.7
    found = composite_ssim_losses(*volumes(16, 19, 21), share)
    fused, mri, pet = (v[0, 0].double().numpy() for v in volumes(16, 19, 21))
    _, with_composite, _ = factors(fused, 0.8 * (1.4 * mri + 0.6 * pet))
    of_mri, of_pet = factors(fused, mri), factors(fused, pet)
    deviations = of_mri[2] + of_pet[2]
    expected = []
    for luminance, structure, deviation in (of_mri, of_pet):
        salience = 2 * deviation / deviations
        halves = ((1 - with_composite).mean() + (salience * (1 - structure)).mean()) / 2
        expected.append(halves + (salience * (1 - luminance)).mean())
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-4)


def test_edges_equal_the_formula():
    fused, mri, pet = volumes(16, 16, 16)
    first, second = composite_gradient_losses(fused, mri, pet, 0.25)
    wanted = 0.8 * (0.5 * mri + 1.5 * pet)
    expected = 4.5 * gradient_magnitude(fused - wanted).mean()
    assert first.item() == second.item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_composite_itself_has_no_edge_or_contrast_to_mend():
    _, mri, pet = volumes(16, 16, 16)
    wanted = composite(mri, pet, 0.5)
    assert composite_gradient_losses(wanted, mri, pet, 0.5)[0].item() < 0.01
    exact = composite_ssim_losses(wanted, mri, pet, 0.5)
    doubled = composite_ssim_losses(2 * wanted, mri, pet, 0.5)
    assert all(a < b for a, b in zip(exact, doubled, strict=True))


def test_a_flat_source_asks_for_nothing():
    _, mri, _ = volumes(16, 16, 16)
    masked = torch.zeros_like(mri)
    wanted = composite(mri, masked, 0.5)
    of_mri, of_masked = composite_ssim_losses(wanted, mri, masked, 0.5)
    assert of_masked.item() < 0.01 < of_mri.item()
    dark = composite_ssim_losses(0.01 * wanted, mri, masked, 0.5)
    assert dark[1].item() > 0.3 and dark[0].item() > 1


@pytest.mark.parametrize("mri_weight, pet_weight", [(3.0, 0.0), (0.0, 3.0), (2.0, 1.0)])
def test_the_share_is_that_of_each_terms_weights(mri_weight, pet_weight):
    fused, mri, pet = volumes(16, 16, 16)
    objective = build_objective("salient-composite", *[(mri_weight, pet_weight)] * 3)
    total, _ = objective(fused, mri, pet)
    share = mri_weight / (mri_weight + pet_weight)
    weights = torch.tensor([mri_weight, pet_weight])
    squared = torch.stack([(fused - source).square().mean() for source in (mri, pet)])
    expected = sum(
        weights @ torch.stack(term(fused, mri, pet, share))
        for term in (composite_ssim_losses, composite_gradient_losses)
    )
    assert total.item() == pytest.approx((expected + weights @ squared).item(), rel=1e-5)


def test_weights_of_zero_leave_a_term_out():
    fused, mri, pet = volumes(16, 16, 16)
    total, values = build_objective("salient-composite", (1, 1), (0, 0), (0, 0))(fused, mri, pet)
    expected = values["composite-ssim/mri"] + values["composite-ssim/pet"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_side_that_is_too_short_is_named():
    with pytest.raises(ValueError, match=r"11 voxels, received \(16, 10, 16\)"):
        composite_ssim_losses(*volumes(16, 10, 16), 0.5)
