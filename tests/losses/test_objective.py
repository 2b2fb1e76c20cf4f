"""Objectives: golden values, precision, weights, and what is refused."""

import pytest
import torch

from losses import OBJECTIVES, build_objective
from tests.helpers.golden import golden_tensors
from tests.helpers.images import volumes


@pytest.mark.parametrize(
    "name", ["dc2fusion_released_E24_32.npz", "dc2fusion_released_E24_formula_32.npz"]
)
def test_released_terms_match_golden(name):
    expected = golden_tensors(name)
    mri, pet = expected["mri"], expected["pet"]
    _, terms = build_objective("lncc-ssim-l1")(0.6 * mri + 0.4 * pet, mri, pet)
    for term in ("lncc", "ssim", "l1"):
        for index, source in enumerate(("mri", "pet")):
            assert terms[f"{term}/{source}"].item() == pytest.approx(
                expected[f"loss_{term}"][index].item(), rel=2e-5
            )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_total_is_the_weighted_sum_of_the_terms(name):
    inputs = volumes(16, 17, 18)
    weights = {"alpha": (0.5, 3), "beta": (0, 2), "gamma": (7, 1.5)}
    total, terms = build_objective(name, **weights)(*inputs)
    expected = 0
    for term, (of_mri, of_pet) in zip(OBJECTIVES[name], weights.values(), strict=True):
        expected += of_mri * terms[f"{term}/mri"] + of_pet * terms[f"{term}/pet"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert len(terms) == 6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_may_be_tensors(name):
    inputs = volumes(16, 17, 18)
    weights = (0.5, 3.0), (0.25, 2.0), (7.0, 1.5)
    total, terms = build_objective(name, *weights)(*inputs)
    as_tensors = [torch.tensor(pair).unbind() for pair in weights]
    given, given_terms = build_objective(name, *as_tensors)(*inputs)
    assert given.item() == pytest.approx(total.item(), rel=1e-6)
    assert {k: v.item() for k, v in given_terms.items()} == pytest.approx(
        {k: v.item() for k, v in terms.items()}, rel=1e-6
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_objective_of_a_pair_is_that_of_each_volume_fused_of_it(name):
    first, mri, pet = (volume.double() for volume in volumes(16, 17, 18))
    objective = build_objective(name, (0.5, 3), (0.25, 2), (7, 1.5))
    of_pair = objective.of_pair(mri, pet)
    for fused in (first, 0.3 * first + 0.5 * mri):
        fused = fused.requires_grad_()
        expected, terms = objective(fused, mri, pet)
        found, same_terms = of_pair(fused)
        assert found == expected and same_terms == terms
        ours, theirs = (torch.autograd.grad(loss, fused)[0] for loss in (found, expected))
        assert torch.equal(ours, theirs)


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
