"""Lesion transfer: exact values for fusions whose transfer is known, and the lesions themselves."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from metrics.transfer import (
    FULL,
    Lesion,
    gaussian_blobs,
    lesion_transfer,
    lesioned_pairs,
    transfer,
)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    noise = np.random.default_rng(4).standard_normal((2, 20, 22, 24))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 2))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    mri, pet = torch.from_numpy(smooth.astype(np.float32))[:, None, None]
    return mri, pet


@pytest.mark.parametrize(
    ("fuse", "t_mri", "t_pet"),
    [
        (lambda mri, pet: mri, 1, 0),
        (lambda mri, pet: pet, 0, 1),
        (lambda mri, pet: (mri + pet) / 2, 0.5, 0.5),
        (lambda mri, pet: 0.7 * mri + 0.3 * pet, 0.7, 0.3),
        (lambda mri, pet: 1 - mri, -1, 0),
    ],
)
def test_transfer_of_linear_fusions(pair, fuse, t_mri, t_pet):
    columns = lesion_transfer(fuse, *pair, voxel_mm=(3, 3, 4), kinds=FULL, draws=2).columns()
    assert columns["t_mri"] == pytest.approx(t_mri, abs=1e-5)
    assert columns["t_pet"] == pytest.approx(t_pet, abs=1e-5)
    assert columns["t_min"] == pytest.approx(min(t_mri, t_pet), abs=1e-5)
    assert max(columns[f"{name}_std"] for name in ("t_mri", "t_pet", "t_min")) < 1e-5


def test_mean_and_spread_are_over_draws_and_kinds_of_a_source(pair):
    result = lesion_transfer(torch.maximum, *pair, kinds=FULL, draws=3)
    mri = np.concatenate([v for k, v in result.values.items() if k.source == "mri"])
    assert len(mri) == 3 * len(FULL) / 2
    assert result.columns()["t_mri"] == pytest.approx(mri.mean())
    assert result.columns()["t_mri_std"] == pytest.approx(mri.std())
    assert 0 < mri.mean() < 1 and mri.std() > 0


def test_batches_do_not_change_the_result(pair):
    calls = []

    def fuse(mri, pet):
        calls.append(len(mri))
        return torch.maximum(mri, pet)

    together = lesion_transfer(fuse, *pair, draws=3, batch=4)
    assert calls == [1, 4, 2]
    alone = lesion_transfer(torch.maximum, *pair, draws=3)
    for lesion, values in alone.values.items():
        np.testing.assert_array_equal(together.values[lesion], values)


def test_lesions_are_where_they_should_be(pair):
    lesion = Lesion("pet", 6, -0.35)
    cases = list(lesioned_pairs(*pair, (3, 3, 3), (lesion,), count=2, draws=2, seed=1))
    mri, pet = pair
    assert len(cases) == 2
    for case in cases:
        assert case.mri is mri
        ratio = torch.where(pet > 0.15, case.pet / pet, 1)
        assert ratio.min() == pytest.approx(0.65, abs=1e-4)  # the centre lies in tissue
        assert ratio.max() <= 1
        assert torch.equal(case.delta, case.pet - pet)
    assert not torch.equal(cases[0].pet, cases[1].pet)
    again = next(lesioned_pairs(*pair, (3, 3, 3), (lesion,), count=2, draws=2, seed=1))
    assert torch.equal(again.pet, cases[0].pet)
    other = next(lesioned_pairs(*pair, (3, 3, 3), (lesion,), count=2, draws=2, seed=2))
    assert not torch.equal(other.pet, cases[0].pet)


def test_brighter_lesions_stay_below_one(pair):
    for case in lesioned_pairs(*pair, kinds=(Lesion("mri", 3, 0.35),)):
        assert case.mri.max() <= 1
        assert case.delta.min() >= 0 and case.delta.max() > 0.05


def test_blobs_equal_their_formula_in_millimetres():
    shape, voxel_mm, centres = (20, 21, 22), (1.0, 2.0, 3.0), np.array([[3, 4, 5], [12, 10, 9]])
    grid = np.moveaxis(np.indices(shape), 0, -1)
    distances = [(((grid - c) * voxel_mm) ** 2).sum(-1) for c in centres]
    expected = np.max([np.exp(-d / (2 * 4.0**2)) for d in distances], axis=0)
    np.testing.assert_allclose(gaussian_blobs(shape, centres, 4.0, voxel_mm), expected, atol=4e-6)


def test_transfer_counts_the_lesion_and_not_what_else_changed():
    delta = torch.zeros(1, 1, 8, 8, 8)
    delta[..., 2:4] = -0.2
    elsewhere = torch.zeros_like(delta)
    elsewhere[..., 5:] = 0.3
    without = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    assert transfer(without + 0.4 * delta + elsewhere, without, delta) == pytest.approx(0.4)


def test_wrong_input_is_refused(pair):
    mri, pet = pair
    with pytest.raises(ValueError, match=r"\(1, 1, D, H, W\)"):
        lesion_transfer(torch.maximum, mri[0], pet[0])
    with pytest.raises(ValueError, match="no room for 5 lesions"):
        lesion_transfer(torch.maximum, mri * 0, pet)
