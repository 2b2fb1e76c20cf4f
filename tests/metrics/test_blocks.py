"""Scores in blocks: the figures of `Scorer`, whatever the blocks cut through."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from metrics import Scorer, blocks


def smooth(shape, seed, sigma):
    noise = np.random.default_rng(seed).random(shape)
    values = ndimage.gaussian_filter(noise, sigma).astype(np.float32)
    return (values - values.min()) / np.ptp(values)


def compare(shape):
    mri, pet = smooth(shape, 0, 1.5), smooth(shape, 1, 2.5)
    mri[:, :3] = 0
    fused = [(mri + pet) / 2, np.maximum(mri, pet), mri.copy(), np.zeros_like(mri)]
    scorer = Scorer(mri, pet, names=blocks.NAMES)
    for volume, got in zip(fused, blocks.score_in_blocks(fused, mri, pet), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NaN, which is compared here
            expected = scorer(volume)
        assert got == pytest.approx({key: expected[key] for key in got}, abs=1e-12, nan_ok=True)
        yield got


@pytest.mark.parametrize("shape", [(33, 26, 21), (12, 40, 19), (16, 11, 24)])
def test_figures_are_those_of_the_scorer(shape, monkeypatch):
    monkeypatch.setattr(blocks, "WINDOWS", 7)
    average, _, copy, nothing = compare(shape)
    assert average["ssim_mri"] < 1 and copy["ssim_mri"] == pytest.approx(1)
    assert np.isinf(copy["psnr_mri"]) and copy["nmi_mri"] == pytest.approx(2)
    assert np.isnan(nothing["nmi_mri"])  # a constant volume has no bins


def test_a_volume_without_room_for_a_window_has_no_ssim():
    for got in compare((10, 30, 30)):
        assert np.isnan(got["ssim_mri"]) and not np.isnan(got["psnr_mri"])
