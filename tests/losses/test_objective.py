"""Losses: golden values, MONAI and NumPy as references, precision and weights."""

import numpy as np
import pytest
import torch
from monai.losses import SSIMLoss
from scipy import ndimage

from losses import OBJECTIVES, build_objective
from losses.gradient import gradient_magnitude
from losses.ssim import ssim_losses
from tests.helpers.golden import golden_tensors


def volumes(*size: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(3, batch, 1, *size, generator=generator)
    fused, mri, pet = torch.from_numpy(ndimage.gaussian_filter(noise.numpy(), (0, 0, 0, 1, 1, 1)))
    mri, pet = 3 * mri - 1, 3 * pet - 1
    return 0.5 * mri + 0.3 * pet + 0.3 * fused, mri, pet


def test_released_terms_match_golden():
    expected = golden_tensors("dc2fusion_released_E24_32.npz")
    mri, pet = expected["mri"], expected["pet"]
    _, terms = build_objective("lncc-ssim-l1")(0.6 * mri + 0.4 * pet, mri, pet)
    for name in ("lncc", "ssim", "l1"):
        for index, source in enumerate(("mri", "pet")):
            assert terms[f"{name}/{source}"].item() == pytest.approx(
                expected[f"loss_{name}"][index].item(), rel=2e-5
            )


@pytest.mark.parametrize("size", [(16, 16, 16), (11, 20, 31)])
def test_ssim_equals_monai(size):
    fused, mri, pet = volumes(*size, batch=2)
    reference = SSIMLoss(spatial_dims=3)
    ours = ssim_losses(fused.requires_grad_(), mri, pet)
    for value, source in zip(ours, (mri, pet), strict=True):
        assert value.item() == pytest.approx(reference(fused, source).item(), abs=1e-5)
    gradient = torch.autograd.grad(ours[0], fused)[0]
    expected = torch.autograd.grad(reference(fused, mri), fused)[0]
    assert torch.allclose(gradient, expected, atol=1e-4 * expected.abs().max())


def test_ssim_of_identical_volumes_is_zero():
    _, mri, _ = volumes(16, 16, 16)
    assert ssim_losses(mri, mri)[0].item() == pytest.approx(0, abs=1e-6)


def test_ssim_names_a_side_that_is_too_short():
    with pytest.raises(ValueError, match=r"11 voxels, received \(16, 10, 16\)"):
        ssim_losses(*volumes(16, 10, 16))


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


@pytest.mark.parametrize("name", OBJECTIVES)
def test_total_is_the_weighted_sum_of_the_terms(name):
    inputs = volumes(16, 17, 18)
    weights = {"alpha": (0.5, 3), "beta": (0, 2), "gamma": (7, 1.5)}
    total, terms = build_objective(name, **weights)(*inputs)
    by_name = [
        pair for name in OBJECTIVES[name] for pair in [(terms[f"{name}/mri"], terms[f"{name}/pet"])]
    ]
    expected = sum(
        w * t
        for ws, ts in zip(weights.values(), by_name, strict=True)
        for w, t in zip(ws, ts, strict=True)
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert len(terms) == 6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_do_not_lose_accuracy_under_bfloat16_autocast(name):
    inputs = volumes(20, 20, 20)
    _, exact = build_objective(name)(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, terms = build_objective(name)(*inputs)
    for term, value in exact.items():
        assert terms[term].dtype == torch.float32
        assert terms[term].item() == pytest.approx(value.item(), rel=1e-6), term


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_takes_bfloat16_volumes_and_the_smallest_size(name):
    fused, mri, pet = volumes(16, 16, 16)
    fused = fused.bfloat16().requires_grad_()
    total, _ = build_objective(name)(fused, mri, pet)
    total.backward()
    assert total.dtype == torch.float32
    assert fused.grad.isfinite().all()


def test_squared_intensity_is_minimised_by_the_weighted_mean_and_not_by_a_copy():
    _, mri, pet = volumes(16, 16, 16)
    objective = build_objective("ssim-gradient-intensity", alpha=(0, 0), beta=(0, 0), gamma=(2, 1))
    mean, copy = objective((2 * mri + pet) / 3, mri, pet)[0], objective(mri, mri, pet)[0]
    assert mean < copy


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"alpha": (-1, 1)}, "at least 0"),
        ({"gamma": (float("nan"), 1)}, "finite"),
        ({"alpha": (0, 0), "beta": (0, 0), "gamma": (0, 0)}, "all six"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        build_objective("ssim-gradient-intensity", **weights)


def test_unknown_objective_is_named():
    with pytest.raises(ValueError, match="dice.*lncc-ssim-l1"):
        build_objective("dice")


def test_different_shapes_are_refused():
    fused, mri, pet = volumes(16, 16, 16)
    with pytest.raises(ValueError, match="one shape"):
        build_objective("lncc-ssim-l1")(fused, mri, pet[..., :12])
