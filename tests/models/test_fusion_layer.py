"""Fusion strategies against the formulas written out in NumPy."""

import numpy as np
import pytest
import torch

from models.fusion_layer import STRATEGIES, fusion_strategy, gate


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    f1, f2 = torch.randn(2, 2, 1, 4, 5, 6, generator=generator, dtype=torch.float64)
    return f1, f2 * torch.tensor([3.0, 0.5]).view(2, 1, 1, 1, 1)


def nuclear(f: np.ndarray) -> float:
    exp = np.exp(f[0])
    p = exp / exp.sum(axis=-1, keepdims=True)
    return max(np.linalg.norm(p[..., k], "nuc") for k in range(p.shape[-1]))


def expected(name: str, f1: np.ndarray, f2: np.ndarray) -> np.ndarray:
    """Sample by sample, (B, 1, D, H, W) float64."""
    if name == "addition":
        return f1 + f2
    if name == "average":
        return 0.5 * f1 + 0.5 * f2
    if name == "fer":
        return (f1**3 + f2**3) / (f1**2 + f2**2)
    if name == "l1-norm-unnormalised":
        return np.abs(f1).sum() * f1 + np.abs(f2).sum() * f2
    fused = []
    for a, b in zip(f1, f2, strict=True):
        if name == "l1-norm":
            n1, n2 = np.abs(a).sum(), np.abs(b).sum()
        else:
            n1, n2 = nuclear(a) ** 2, nuclear(b) ** 2
        fused.append((n1 * a + n2 * b) / (n1 + n2))
    return np.stack(fused)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_follows_its_formula(name):
    f1, f2 = maps()
    fused = fusion_strategy(name)(f1, f2)
    np.testing.assert_allclose(fused.numpy(), expected(name, f1.numpy(), f2.numpy()), rtol=1e-10)


@pytest.mark.parametrize("name", ["l1-norm", "fer"])
def test_empty_maps_give_an_empty_volume_and_finite_gradients(name):
    f1 = torch.zeros(1, 1, 3, 3, 3, requires_grad=True)
    f2 = torch.zeros(1, 1, 3, 3, 3, requires_grad=True)
    fused = fusion_strategy(name)(f1, f2)
    fused.sum().backward()
    assert not fused.any()
    assert f1.grad.isfinite().all() and f2.grad.isfinite().all()


def test_l1_norm_weighs_empty_maps_equally():
    f1 = torch.zeros(1, 1, 3, 3, 3, requires_grad=True)
    fusion_strategy("l1-norm")(f1, torch.zeros(1, 1, 3, 3, 3)).sum().backward()
    assert torch.allclose(f1.grad, torch.full_like(f1, 0.5))


def test_l1_norm_is_independent_of_volume_size():
    f1, f2 = maps()
    small = fusion_strategy("l1-norm")(f1, f2)
    tiled = fusion_strategy("l1-norm")(f1.repeat(1, 1, 2, 2, 2), f2.repeat(1, 1, 2, 2, 2))
    assert torch.allclose(tiled[:, :, :4, :5, :6], small)


def test_sums_do_not_overflow_in_half_precision():
    f1 = torch.full((1, 1, 64, 64, 64), 2.0, dtype=torch.float16)
    fused = fusion_strategy("l1-norm")(f1, f1)
    assert fused.dtype == torch.float16
    assert torch.allclose(fused, f1)


def test_unknown_strategy_is_named():
    with pytest.raises(ValueError, match="l2-norm.*l1-norm"):
        fusion_strategy("l2-norm")


def test_gate_is_shut_where_both_sources_are_dark_and_open_where_one_is_bright():
    mri = torch.tensor([0.0, 0.01, 0.02, 0.0, 0.5]).view(1, 1, 1, 1, 5)
    pet = torch.tensor([0.0, 0.0, 0.03, 0.04, 0.0]).view(1, 1, 1, 1, 5)
    expected = torch.tensor([0, 0.25, 0.75, 1, 1]).view(1, 1, 1, 1, 5)
    assert torch.allclose(gate(mri, pet), expected)
