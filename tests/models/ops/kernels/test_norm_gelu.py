"""LayerNorm and GELU in one kernel against PyTorch's two."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.ops.kernels import tiles
from models.ops.norm_gelu import norm_gelu_linear
from tests.helpers.backends import on_both


def layers(channels: int, outputs: int, seed: int = 0) -> tuple[nn.LayerNorm, nn.Linear]:
    torch.manual_seed(seed)
    norm, linear = nn.LayerNorm(channels), nn.Linear(channels, outputs)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm, linear


def run(agree, shape, dtype=torch.float32, tolerance=1e-5):
    from models.ops.kernels.norm_gelu import norm_gelu

    norm, _ = layers(shape[-1], 1)
    features = 3 * torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2] + 1  # not contiguous
    agree(
        lambda x, weight, bias: norm_gelu(x, weight, bias, norm.eps),
        [features, norm.weight.detach(), norm.bias.detach()],
        dtype,
        tolerance,
        plain=lambda x, scale, shift: F.gelu(F.layer_norm(x, shape[-1:], scale, shift, norm.eps)),
    )


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 24), (7,), (3, 1, 2, 192)])
def test_norm_gelu(agree, shape):
    run(agree, shape)


def test_several_blocks_a_program(agree, monkeypatch):
    monkeypatch.setattr(tiles, "NORM_GELU_ELEMENTS", 32)
    monkeypatch.setattr(tiles, "NORM_GELU_PARTS", 3)
    run(agree, (43, 6))


def test_bfloat16(agree):
    run(agree, (4, 5, 48), torch.bfloat16, 2**-8)


def test_the_layers_of_the_network_take_it(agree, device):
    norm, linear = layers(12, 5)
    norm.to(device), linear.to(device)
    names = [parameter for module in (norm, linear) for parameter in module.parameters()]

    features = torch.randn(2, 3, 2, 2, 12)
    agree(lambda x: norm_gelu_linear(x, norm, linear), [features])
    outputs = on_both(norm_gelu_linear, features.to(device), norm, linear)
    gradients = [torch.autograd.grad(out.square().sum(), names) for out in outputs]
    for plain, ours in zip(*gradients, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-5)
