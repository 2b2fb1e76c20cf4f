"""The depthwise kernels against PyTorch's grouped convolution."""

import pytest
import torch

from models import ops
from models.ops import kernels
from models.ops.depthwise import blend_conv3d, depthwise_conv3d
from models.ops.kernels import tiles

# A tile that leaves several programs on every axis of the small grids here.
SMALL = tiles.Tile(rows=4, channels=4, warps=1, planes=2)


def volume(*shape: int) -> torch.Tensor:
    """(B, C, D, H, W), channels last in memory with a stride of two: not contiguous."""
    b, c, d, h, w = shape
    return torch.randn(b, d, h, w, 2 * c)[..., ::2].permute(0, 4, 1, 2, 3)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("size", "tile"),
    [
        ((2, 6, 3, 3, 2), SMALL),
        ((1, 5, 5, 2, 3), tiles.DEPTHWISE),
        ((1, 3, 1, 1, 1), tiles.Tile(rows=2, channels=2, warps=1, planes=1)),
        pytest.param((2, 96, 11, 17, 13), tiles.DEPTHWISE, marks=pytest.mark.gpu),
    ],
)
def test_depthwise_conv3d(agree, monkeypatch, size, tile):
    monkeypatch.setattr(tiles, "DEPTHWISE", tile)
    c = size[1]
    tensors = [volume(*size), torch.randn(c, 1, 3, 3, 3), torch.randn(c)]
    agree(depthwise_conv3d, tensors)


@pytest.mark.parametrize(
    "size",
    [(1, 3, 3, 2, 2), (2, 4, 1, 2, 1), pytest.param((2, 40, 9, 12, 33), marks=pytest.mark.gpu)],
)
def test_blend_conv3d(agree, size):
    c = size[1]
    tensors = [volume(*size), volume(*size), torch.randn(c, 2, 7, 7, 7), torch.randn(c)]
    agree(blend_conv3d, tensors)


def test_bfloat16_rounds_only_what_is_stored(agree):
    tensors = [volume(1, 4, 2, 3, 2), torch.randn(4, 1, 3, 3, 3), torch.randn(4)]
    # A bfloat16 holds 8 bits: off by up to 2^-8 rounded, 2^-7 cut off as the interpreter does.
    agree(depthwise_conv3d, tensors, torch.bfloat16, 2**-7)


def test_autocast_computes_in_its_type_with_the_kernel_in_float32(device):
    tokens = volume(1, 4, 2, 2, 2).to(device)
    weight = torch.randn(4, 1, 3, 3, 3, device=device, requires_grad=True)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = depthwise_conv3d(tokens, weight)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    with ops.using("plain"):
        expected = depthwise_conv3d(tokens.bfloat16().float(), weight)
    assert (out.float() - expected).norm() < 2**-7 * expected.norm()


def test_autocast_takes_the_kernel_for_streams_of_two_types(device, calls):
    """On a GPU it gives a LayerNorm in float32, and the sampling kernel the partner in bfloat16."""
    first, second = volume(2, 3, 2, 2, 2).to(device).unsqueeze(1)
    weight, bias = torch.randn(3, 2, 3, 3, 3, device=device), torch.randn(3, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = blend_conv3d(first, second.bfloat16(), weight, bias)
    assert calls == {"depthwise"}
    assert out.dtype == torch.bfloat16
    rounded = first.bfloat16().float(), second.bfloat16().float()
    with ops.using("plain"):
        expected = blend_conv3d(*rounded, weight, bias)
    assert (out.float() - expected).norm() < 2**-7 * expected.norm()


def test_only_what_needs_a_gradient_gets_one(device):
    first, second = volume(2, 3, 2, 2, 2).to(device).unsqueeze(1)
    weight = torch.randn(3, 2, 3, 3, 3, device=device)
    out = blend_conv3d(first.requires_grad_(), second, weight, torch.randn(3, device=device))
    out.sum().backward()
    assert first.grad is not None and second.grad is None


def test_two_runs_give_the_same_bits(device):
    tokens = volume(2, 3, 3, 2, 2).to(device)
    runs = []
    for _ in range(2):
        weight = torch.ones(3, 1, 3, 3, 3, device=device, requires_grad=True)
        depthwise_conv3d(tokens, weight).square().sum().backward()
        runs.append(weight.grad)
    assert torch.equal(*runs)


def test_float64_and_a_kernel_switched_off_go_to_pytorch(device):
    tokens = torch.zeros(1, device=device)
    assert kernels.available("depthwise", tokens)
    assert not kernels.available("depthwise", tokens.double())
    assert not kernels.available("depthwise", tokens, tokens.bfloat16())
    with ops.using("fast", kernels="sampling,attention"):
        assert not kernels.available("depthwise", tokens)
        assert kernels.available("sampling", tokens)
