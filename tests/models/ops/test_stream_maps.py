"""The head: both backends agree."""

import pytest
import torch

from models.dc2fusion import Head
from tests.helpers.backends import gradients_of, on_both


@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 1, 4)])
def test_backends_agree(grid):
    torch.manual_seed(0)
    head = Head(8).double()
    streams = torch.randn(2, 2, *grid, 8, dtype=torch.float64, requires_grad=True)
    outputs = on_both(head, tuple(streams))
    assert torch.allclose(*outputs)
    inputs = [streams, *head.parameters()]
    gradients = [gradients_of(output, inputs) for output in outputs]
    for plain, fast in zip(*gradients, strict=True):
        assert torch.allclose(plain, fast)
