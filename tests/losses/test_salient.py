"""The salient SSIM term: SciPy in float64 as reference, and which source it listens to."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from losses.salient import salient_ssim_losses
from losses.ssim import ssim_losses
from tests.helpers.images import volumes

TAPS = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)


def window_means(array: np.ndarray) -> np.ndarray:
    for axis in range(3):
        array = ndimage.correlate1d(array, TAPS / TAPS.sum(), axis)
    return array[5:-5, 5:-5, 5:-5]


def reference(fused: np.ndarray, *sources: np.ndarray) -> list[float]:
    mean_f = window_means(fused)
    variance_f = window_means((fused - 0.3) ** 2) - (mean_f - 0.3) ** 2
    means = [window_means(s) for s in sources]
    variances = [
        window_means((s - 0.3) ** 2) - (m - 0.3) ** 2 for s, m in zip(sources, means, strict=True)
    ]
    sigmas = [np.sqrt(v + 1e-8) for v in variances]
    terms = []
    for s, m, v, sigma in zip(sources, means, variances, sigmas, strict=True):
        covariance = window_means((fused - 0.3) * (s - 0.3)) - (mean_f - 0.3) * (m - 0.3)
        structure = (2 * covariance + 9e-4) / (variance_f + v + 9e-4)
        luminance = (2 * mean_f * m + 1e-4) / (mean_f**2 + m**2 + 1e-4)
        weight = 2 * sigma / sum(sigmas)
        terms.append((weight * (1 - structure)).mean() + (1 - luminance).mean())
    return terms


def test_terms_equal_the_formula():
    found = salient_ssim_losses(*volumes(16, 19, 21))
    expected = reference(*(v[0, 0].double().numpy() for v in volumes(16, 19, 21)))
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-4)


def test_identical_volumes_have_no_loss():
    _, mri, _ = volumes(16, 16, 16)
    assert [v.item() for v in salient_ssim_losses(mri, mri, mri)] == pytest.approx([0, 0], abs=1e-6)


def test_a_flat_source_does_not_ask_for_flatness():
    _, mri, _ = volumes(20, 20, 20)
    flat = torch.full_like(mri, float(mri.mean()))
    salient, plain = salient_ssim_losses(mri, mri, flat), ssim_losses(mri, mri, flat)
    assert salient[0] < 1e-6
    assert salient[1] < 0.1 < 0.5 < plain[1]


def test_a_side_that_is_too_short_is_named():
    with pytest.raises(ValueError, match=r"11 voxels, received \(16, 10, 16\)"):
        salient_ssim_losses(*volumes(16, 10, 16))
