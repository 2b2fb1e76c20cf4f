"""The 2-D methods' losses by name: what all have in common."""

import pytest
import torch

from losses import build_slice_objective
from tests.helpers.images import Blend, slices

NAMES = ("swinfuse", "u2fusion", "dilran", "matr")


def inputs_of(name: str, mri: torch.Tensor, pet: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (mri,) if name in ("swinfuse", "dilran") else (mri, pet)


@pytest.mark.parametrize("name", NAMES)
def test_totals_have_a_gradient_and_terms_are_scalars(name):
    method = Blend()
    images = inputs_of(name, slices(3, 34, 37), slices(3, 34, 37, seed=6))
    total, terms = build_slice_objective(name)(method, *images)
    total.backward()
    assert method.share.grad.abs() > 0
    assert total.dtype == torch.float32
    assert all(term.shape == () and not term.requires_grad for term in terms.values())


@pytest.mark.parametrize("name", NAMES)
def test_losses_do_not_lose_accuracy_under_bfloat16_autocast(name):
    images = inputs_of(name, slices(2, 24, 24), slices(2, 24, 24, seed=6))
    objective = build_slice_objective(name).eval()
    exact = objective(Blend(), *images)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective(Blend(), *images)[0].item() == pytest.approx(exact.item(), rel=1e-6)


def test_unknown_names_and_files_without_use_are_refused():
    with pytest.raises(ValueError, match="dice.*swinfuse.*matr"):
        build_slice_objective("dice")
    with pytest.raises(ValueError, match="matr is trained without"):
        build_slice_objective("matr", "vgg.pth")
