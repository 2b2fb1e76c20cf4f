"""Strided convolutions as matrix products: the numbers of PyTorch's own, gradients included."""

import pytest
import torch
from torch import nn

from models import ops
from models.ops.patches import expand_patches, merge_patches


@pytest.mark.parametrize(
    ("operation", "conv", "sides"),
    [
        (merge_patches, nn.Conv3d(3, 5, 2, stride=2), (4, 6, 2)),
        (merge_patches, nn.Conv3d(1, 7, 4, stride=4), (8, 4, 12)),
        (expand_patches, nn.ConvTranspose3d(6, 3, 2, stride=2), (3, 1, 4)),
    ],
)
def test_both_backends_give_the_same_numbers_and_gradients(operation, conv, sides):
    conv = conv.double()
    volume = torch.rand(2, conv.in_channels, *sides, dtype=torch.float64)
    tokens = volume.permute(0, 2, 3, 4, 1).contiguous().requires_grad_()
    expected = conv(tokens.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    upstream = torch.rand_like(expected)
    wanted = tokens, conv.weight, conv.bias
    gradients = torch.autograd.grad(expected, wanted, upstream)
    for backend in ops.BACKENDS:
        with ops.using(backend):
            result = operation(tokens, conv)
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
        found = torch.autograd.grad(result, wanted, upstream)
        torch.testing.assert_close(found, gradients, rtol=1e-10, atol=1e-12)
