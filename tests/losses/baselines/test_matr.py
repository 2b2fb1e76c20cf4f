"""MATR's loss: golden values, and sources that are not finite."""

import torch

from losses.baselines.matr import matr_loss, region_information
from tests.helpers.images import matches, slices


def test_loss_matches_golden(expected, pictures):
    pet, mri, fused = pictures
    total, terms = matr_loss(fused, mri, pet)
    for source in ("mri", "pet"):
        matches(terms[f"ssim/{source}"], expected[f"matr_ssim_f_{source}"])
        matches(terms[f"rmi/{source}"], expected[f"matr_rmi_f_{source}"])
    matches(region_information(torch.sigmoid(fused), pet), expected["matr_rmi_part_f_pet"])
    matches(2 * terms["rmi/pet"] - expected["matr_rmi_part_f_pet"], expected["matr_bce_part_f_pet"])
    matches(total, expected["matr_total"])


def test_a_source_that_is_not_finite_gives_a_loss_that_says_so():
    """The determinant of the region information must not stop with an error of its own."""
    mri = slices(1, 24, 24)
    assert not matr_loss(mri * torch.nan, mri, mri)[0].isfinite()
