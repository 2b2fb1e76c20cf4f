"""The 7x7x7 convolution on both backends, and the depthwise convolution against PyTorch's."""

import pytest
import torch
from torch.nn import functional as F

from models import build_model, ops
from models.dcfb import BlendConv
from models.ops.depthwise import depthwise_conv3d
from tests.helpers.golden import relative_error


def run(module: BlendConv, x, partner, backend: str) -> list[torch.Tensor]:
    """Output and all gradients."""
    module.zero_grad()
    x, partner = x.clone().requires_grad_(), partner.clone().requires_grad_()
    with ops.using(backend):
        out = module(x, partner)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    (out * weights).sum().backward()
    return [out.detach(), x.grad, partner.grad, module.weight.grad, module.bias.grad]


@pytest.mark.parametrize("concatenated_groups", [False, True])
@pytest.mark.parametrize("size", [(1, 24, 9, 12, 10), (2, 16, 3, 8, 5), (2, 24, 1, 2, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_fast_equals_plain_forward_and_backward(concatenated_groups, size, last):
    torch.manual_seed(1)
    module = BlendConv(size[1], concatenated_groups)
    x, partner = torch.randn(2, *size)
    if last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    for fast, plain in zip(
        run(module, x, partner, "fast"), run(module, x, partner, "plain"), strict=True
    ):
        assert relative_error(fast, plain) < 1e-5


def test_fast_equals_plain_in_the_whole_network():
    results = []
    for backend in ("fast", "plain"):
        torch.manual_seed(0)
        model = build_model("dc2fusion", embed_dim=24, init="default").eval()
        mri, pet = torch.rand(2, 1, 1, 36, 40, 33, generator=torch.Generator().manual_seed(1))
        with ops.using(backend):
            fused = model(mri, pet)
        fused.square().sum().backward()
        results.append((fused.detach(), [p.grad for p in model.parameters()]))
    (fast, fast_gradients), (plain, plain_gradients) = results
    assert relative_error(fast, plain) < 1e-5
    total = relative_error(
        torch.cat([g.flatten() for g in fast_gradients]),
        torch.cat([g.flatten() for g in plain_gradients]),
    )
    assert total < 1e-4


@pytest.mark.parametrize("kernel", [3, 7])
def test_depthwise_gradients(kernel):
    torch.manual_seed(0)
    volume = torch.randn(2, 3, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, kernel, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    reference = F.conv3d(volume, weight, bias, padding=kernel // 2, groups=3)
    ours = depthwise_conv3d(volume, weight, bias)
    assert torch.allclose(ours, reference)
    upstream = torch.randn_like(ours)
    expected = torch.autograd.grad(reference, (volume, weight, bias), upstream)
    received = torch.autograd.grad(ours, (volume, weight, bias), upstream)
    for ours_gradient, reference_gradient in zip(received, expected, strict=True):
        assert torch.allclose(ours_gradient, reference_gradient)


def test_depthwise_under_autocast_computes_in_bfloat16():
    volume = torch.randn(1, 4, 5, 5, 5, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = depthwise_conv3d(volume, weight)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert volume.grad.dtype == weight.grad.dtype == torch.float32


def test_bfloat16_gradients_do_not_depend_on_what_was_in_memory():
    """PyTorch's own weight gradient of a small depthwise convolution does, on a CPU (2.13)."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        volume = torch.randn(1, 24, 3, 3, 3, generator=generator).requires_grad_()
        weight = torch.randn(24, 1, 7, 7, 7, generator=generator).requires_grad_()
        stale = [torch.full((n,), torch.inf) for n in (100, 8232, 33000, 1 << 20) for _ in range(6)]
        del stale
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = depthwise_conv3d(volume, weight)
        out.float().square().mean().backward()
        assert volume.grad.isfinite().all() and weight.grad.isfinite().all()
