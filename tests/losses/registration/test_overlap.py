"""Soft Dice, against MONAI."""

import pytest
import torch
from monai.losses import DiceLoss

from losses.registration.overlap import soft_dice_loss


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    soft = torch.rand(2, 4, 5, 6, 7, generator=generator, dtype=torch.float64)
    classes = torch.randint(4, (2, 5, 6, 7), generator=generator)
    return soft, torch.nn.functional.one_hot(classes, 4).permute(0, 4, 1, 2, 3).double()


def test_soft_dice_equals_monai():
    warped, fixed = maps()
    reference = DiceLoss(squared_pred=True, smooth_nr=0, smooth_dr=1e-5)
    expected = reference(warped, fixed)
    assert soft_dice_loss(warped, fixed).item() == pytest.approx(expected.item(), rel=1e-12)


def test_equal_and_disjoint_maps():
    _, fixed = maps()
    assert soft_dice_loss(fixed, fixed).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(fixed, fixed.roll(1, dims=1)).item() == 1
