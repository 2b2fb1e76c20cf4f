"""The intensity terms: NumPy as reference, and where their minimum lies."""

import pytest

from losses import build_objective
from tests.helpers.images import volumes


def test_intensity_terms():
    fused, mri, pet = volumes(16, 16, 16)
    _, terms = build_objective("ssim-gradient-intensity")(fused, mri, pet)
    _, released = build_objective("lncc-ssim-l1")(fused, mri, pet)
    for source, volume in (("mri", mri), ("pet", pet)):
        difference = (fused - volume).double().numpy()
        assert terms[f"intensity/{source}"].item() == pytest.approx(
            (difference**2).mean(), rel=1e-5
        )
        assert released[f"l1/{source}"].item() == pytest.approx(abs(difference).mean(), rel=1e-5)


def test_squared_intensity_is_minimised_by_the_weighted_mean_and_not_by_a_copy():
    _, mri, pet = volumes(16, 16, 16)
    objective = build_objective("ssim-gradient-intensity", alpha=(0, 0), beta=(0, 0), gamma=(2, 1))
    mean, copy = objective((2 * mri + pet) / 3, mri, pet)[0], objective(mri, mri, pet)[0]
    assert mean < copy
