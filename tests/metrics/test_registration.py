"""Measures of a registration, against MONAI, NumPy and the arrays of the released code."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from metrics.registration import (
    dice_by_label,
    folded_fraction,
    jacobian_determinant,
    mean_dice,
    released_dice,
    sdlogj,
)
from tests.helpers.golden import golden_tensors, relative_error
from tests.helpers.transmorph import formula_flow, formula_labels, formula_pair


def label_maps() -> tuple[torch.Tensor, torch.Tensor]:
    """(2, D, H, W) of the labels 0 to 3; the second sample's fixed map has no 3."""
    generator = torch.Generator().manual_seed(0)
    warped = torch.randint(4, (2, 6, 7, 8), generator=generator)
    fixed = torch.randint(4, (2, 6, 7, 8), generator=generator)
    fixed[1, fixed[1] == 3] = 1
    return warped, fixed


def displacement(scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(2, 3, 7, 8, 9, generator=generator, dtype=torch.float64)


def determinant_by_numpy(field: np.ndarray) -> np.ndarray:
    """(3, D, H, W) -> (D, H, W)."""
    places = np.stack(np.meshgrid(*map(np.arange, field.shape[1:]), indexing="ij"))
    jacobian = np.stack([np.gradient(places + field, axis=axis + 1) for axis in range(3)])
    return np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 4).permute(0, 4, 1, 2, 3)


def test_dice_equals_monai():
    warped, fixed = label_maps()
    expected = compute_dice(one_hot(warped), one_hot(fixed), ignore_empty=False)  # B, classes
    ours = dice_by_label(warped, fixed)
    assert list(ours) == [1, 2, 3]
    for label, values in ours.items():
        assert values.tolist() == pytest.approx(expected[:, label].tolist(), rel=1e-6)


def test_a_label_that_neither_map_has_is_no_part_of_the_mean():
    warped = torch.tensor([[[[0, 1, 1, 2]]], [[[0, 1, 0, 0]]]])
    fixed = torch.tensor([[[[0, 1, 0, 2]]], [[[1, 1, 0, 0]]]])
    scores = dice_by_label(warped, fixed)
    assert scores[1].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert scores[2][0] == 1 and scores[2][1].isnan()
    assert mean_dice(warped, fixed).tolist() == pytest.approx([5 / 6, 2 / 3])
    assert mean_dice(warped, fixed, labels=[2])[0] == 1
    empty = torch.zeros_like(fixed)
    assert mean_dice(empty, empty).isnan().all()


def test_released_dice_counts_background_and_absent_labels():
    warped = torch.tensor([[[[0, 1, 1, 2]]]])
    fixed = torch.tensor([[[[0, 1, 0, 2]]]])
    expected = (2 / 3 + 2 / 3 + 1 + 0) / 4
    assert released_dice(warped, fixed, classes=4) == pytest.approx(expected, abs=1e-5)


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="label maps of"):
        dice_by_label(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 3))


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_determinants_and_folds_equal_numpy(scale):
    field = displacement(scale)
    ours, folded = jacobian_determinant(field), folded_fraction(field)
    for sample in range(2):
        expected = determinant_by_numpy(field[sample].numpy())
        np.testing.assert_allclose(ours[sample], expected, atol=1e-12)
        assert folded[sample] == np.mean(expected <= 0)
    assert (folded > 0).all() == (scale == 1)


def test_folds_inside_a_mask():
    field = displacement(1.0)
    mask = torch.zeros(2, 7, 8, 9, dtype=torch.bool)
    mask[:, 2:4] = True
    folded = folded_fraction(field, mask)
    for sample in range(2):
        inside = determinant_by_numpy(field[sample].numpy())[2:4]
        assert folded[sample].item() == pytest.approx(np.mean(inside <= 0))


def test_known_fields():
    shift = torch.full((1, 3, 6, 6, 6), 2.0)
    assert torch.equal(jacobian_determinant(shift), torch.ones(1, 6, 6, 6, dtype=torch.float64))
    stretch = torch.zeros(1, 3, 6, 6, 6)
    stretch[:, 1] = 0.5 * torch.arange(6.0)[:, None]
    assert jacobian_determinant(stretch).unique().tolist() == [1.5]
    mirrored = -2 * torch.arange(6.0).view(1, 1, 6, 1, 1) * torch.tensor([1, 0, 0]).view(3, 1, 1, 1)
    assert folded_fraction(mirrored.expand(1, 3, 6, 6, 6)).tolist() == [1.0]


def test_sdlogj_equals_numpy():
    field = displacement(0.5)
    for sample in range(2):
        padded = np.pad(field[sample].numpy(), ((0, 0), (1, 1), (1, 1), (1, 1)))
        jacobian = np.stack([np.gradient(padded, axis=axis + 1) for axis in range(3)])
        matrices = np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3)
        determinants = np.linalg.det(matrices)[3:-3, 3:-3, 3:-3]
        expected = np.log(np.clip(determinants + 3, 1e-9, 1e9)).std()
        assert sdlogj(field)[sample].item() == pytest.approx(expected, rel=1e-12)
    assert sdlogj(torch.full((1, 3, 6, 6, 6), 2.0)).item() == 0


def test_golden_measures():
    arrays = golden_tensors("transmorph/transmorph_losses_24x20x28.npz")
    flow = formula_flow(24, 20, 28, batch=2)
    determinants, folded, spread = jacobian_determinant(flow), folded_fraction(flow), sdlogj(flow)
    assert relative_error(determinants[0], arrays["jacobian_0"]) < 1e-6
    for sample in range(2):
        determinant = determinants[sample]
        assert folded[sample] == arrays[f"jac_nonpos_fraction_{sample}"]
        assert relative_error(spread[sample], arrays[f"sdlogj_{sample}"]) < 1e-6
        statistics = {
            "mean": determinant.mean(),
            "std": determinant.std(correction=0),
            "min": determinant.min(),
            "max": determinant.max(),
        }
        for name, value in statistics.items():
            assert relative_error(value, arrays[f"jac_{name}_{sample}"]) < 2e-5


def test_golden_dice():
    arrays = golden_tensors("transmorph/transmorph_losses_24x20x28.npz")
    moving, fixed = formula_pair(24, 20, 28, batch=2)
    labels, wanted = formula_labels(moving), formula_labels(fixed)
    assert labels.flatten().bincount(minlength=6).tolist() == arrays["label_counts_moving"].tolist()
    expected = arrays["dice_raw"].item()
    assert released_dice(labels, wanted, 6) == pytest.approx(expected, abs=1e-6)
