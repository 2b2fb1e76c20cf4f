"""Norm, GELU and linear layer: both backends agree to the bit forward."""

import pytest
import torch
from torch import nn

from models.ops.norm_gelu import gelu_linear, norm_gelu_linear
from tests.helpers.backends import gradients_of, on_both


@pytest.mark.parametrize("normalised", [True, False])
def test_backends_agree(normalised):
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(6), nn.Linear(6, 5)
    features = torch.randn(2, 3, 6, requires_grad=True)

    def layers():
        if normalised:
            return norm_gelu_linear(features, norm, linear)
        return gelu_linear(features, linear)

    outputs = on_both(layers)
    assert torch.equal(*outputs)
    inputs = [features, *linear.parameters()]
    gradients = [gradients_of(output, inputs) for output in outputs]
    for plain, fast in zip(*gradients, strict=True):
        assert torch.allclose(plain, fast)
