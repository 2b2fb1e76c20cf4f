"""Attention inside windows: both backends agree."""

import pytest
import torch

from models.ops.attention import window_attention
from tests.helpers.backends import assert_backends_agree


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("window", [(2, 2, 2), (1, 2, 1)])
def test_backends_agree(linear, window):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 2, 6, 12)] * 3
    tokens = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    gate = torch.rand(2, 12, generator=generator, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (*tokens, gate)]
    assert_backends_agree(lambda *tensors: window_attention(*tensors, 3, window, linear), inputs)
