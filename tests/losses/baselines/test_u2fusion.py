"""U2Fusion's loss: golden values, weights of the sources, and their places."""

import pytest
import torch
from torch.nn import functional as F

from losses import build_slice_objective
from losses.baselines.ssim2d import slice_ssim
from losses.baselines.u2fusion import feature_gradient
from tests.helpers.golden import golden_tensors
from tests.helpers.images import Blend, FixedOutput, matches, slices


def test_loss_matches_golden(expected, pictures):
    pet, mri, fused = pictures
    total, terms = build_slice_objective("u2fusion").eval()(FixedOutput(fused), mri, pet)
    for source in ("mri", "pet"):
        matches(1 - terms[f"ssim/{source}"], expected[f"u2_ssim_f_{source}"])
        matches(terms[f"mse/{source}"], expected[f"u2_fro_f_{source}"])
    parts = [
        1 - expected[f"u2_ssim_f_{s}"] + 20 * expected[f"u2_fro_f_{s}"] for s in ("mri", "pet")
    ]
    matches(total, sum(parts) / 2)


def test_feature_gradient_matches_golden(expected):
    features = golden_tensors("baselines/swinfuse_ruleA.npz")["enc_pet"][None, :8]
    matches(feature_gradient(features)[0], expected["u2_featgrad_mean_sq"])


def test_u2fusion_weighs_each_pair_by_its_own_error():
    """Released: mean of the weights times mean of the errors."""
    objective = build_slice_objective("u2fusion").eval()
    mri, pet = slices(2, 16, 16), slices(2, 16, 16, seed=6)
    objective._mri_share = lambda mri, pet: torch.tensor([0.9, 0.2])
    total, _ = objective(Blend(), mri, pet)
    expected = 0
    for i, share in enumerate((0.9, 0.2)):
        one = slice(i, i + 1)
        fused = Blend()(mri[one], pet[one])
        for weight, source in ((share, mri[one]), (1 - share, pet[one])):
            part = 1 - slice_ssim(fused, source)[0] + 20 * F.mse_loss(fused, source)
            expected += weight * part.item() / 2
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_u2fusion_swaps_the_sources_of_half_of_the_batches_when_training():
    class Recorder(Blend):
        def forward(self, mri, pet):
            self.first = mri
            return super().forward(mri, pet)

    torch.manual_seed(0)
    objective, method, mri, pet = (
        build_slice_objective("u2fusion"),
        Recorder(),
        slices(1, 16, 16),
        slices(1, 16, 16),
    )
    swapped = 0
    for _ in range(40):
        objective(method, mri, pet)
        swapped += method.first is pet
    assert 10 < swapped < 30
    objective.eval()(method, mri, pet)
    assert method.first is mri
