"""SwinFuse's loss: golden values, and the five-scale SSIM's limits."""

import pytest
import torch

from losses.baselines.swinfuse import combine_scales, msssim, msssim_scales, swinfuse_loss
from tests.helpers.images import matches, slices


def test_msssim_matches_golden(expected, pictures):
    pet, mri, _ = pictures
    ssim, contrast = msssim_scales(2 * pet - 1, 2 * mri - 1)
    # The reference's float32 variances leave 1.3e-5 at the second scale; ours are 4e-6 from
    # float64 throughout.
    matches(ssim, expected["swinfuse_msssim_ssim_per_scale"], 2e-5)
    matches(contrast, expected["swinfuse_msssim_cs_per_scale"], 2e-5)
    matches(msssim(2 * pet - 1, 2 * mri - 1), expected["swinfuse_msssim_norm"])
    matches(combine_scales(*msssim_scales(pet, mri)), expected["swinfuse_msssim_nonorm01"])


def test_loss_matches_golden(expected, pictures):
    pet, mri = (2 * picture - 1 for picture in pictures[:2])
    first, second = slice(0, 224), slice(32, 256)
    crops = pet[..., first, first], mri[..., first, first], pet[..., second, second]
    outputs = torch.cat([*crops, mri[..., second, second]])
    total, terms = swinfuse_loss(outputs, outputs[[1, 0, 3, 2]])
    matches(terms["l1"], expected["swinfuse_train_pixel"])
    matches(terms["msssim"], expected["swinfuse_train_ssim"])
    matches(total, expected["swinfuse_train_total"], 1e-4)


def test_msssim_of_identical_slices_is_one_and_small_ones_are_refused():
    image = 2 * slices(2, 21, 35) - 1
    assert msssim(image, image).item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="at least 16 pixels, received \\(14, 21\\)"):
        msssim(image[..., :14, :21], image[..., :14, :21])
