"""The whole network, fast with all kernels against plain; what runs without them; compilation."""

from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional as F

from models import build_model, ops
from models.dcfb import DCFBlock
from models.ops import depthwise, kernels
from models.ops.kernels import tiles
from models.variants import build_variant
from tests.helpers.golden import relative_error


def small_network(monkeypatch, device, variant: str) -> torch.nn.Module:
    """Two levels with one block each: the interpreter is slow.

    In evaluation mode: no block is dropped, and one token does for BatchNorm.
    """
    monkeypatch.setattr(tiles, "DEPTHWISE_WEIGHT_PARTS", 1)
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depths": (1, 1), "init": "default"}
    return build_model("dc2fusion", variant=variant, **options).eval().to(device)


def run(model, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Fused volumes and all gradients, flat."""
    pair = torch.rand(2, 1, 1, 8, 5, 3, generator=torch.Generator().manual_seed(1)).to(device)
    fused = model(*pair)
    fused.square().sum().backward()
    return fused.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def run_block(monkeypatch, device, dtype: torch.dtype = torch.float32) -> None:
    """A training step of a single block, which has an operation for each kernel."""
    monkeypatch.setattr(tiles, "DEPTHWISE_WEIGHT_PARTS", 1)
    torch.manual_seed(0)
    block = DCFBlock(24, 3, 0.0, build_variant("paper")).to(device)
    x, y = torch.randn(2, 1, 2, 2, 1, 24, device=device).to(dtype).requires_grad_()
    updated = block(x, y)
    updated.float().square().sum().backward()
    assert updated.isfinite().all() and all(
        parameter.grad.isfinite().all() for parameter in block.parameters()
    )


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_fast_with_kernels_equals_plain(device, monkeypatch, calls, variant):
    ours, our_gradients = run(small_network(monkeypatch, device, variant), device)
    assert calls == set(ops.KERNELS)
    calls.clear()
    with ops.using("plain"):
        plain, plain_gradients = run(small_network(monkeypatch, device, variant), device)
    assert calls == set()
    assert relative_error(ours, plain) < 1e-4
    assert relative_error(our_gradients, plain_gradients) < 1e-4


def test_autocast_takes_every_kernel(device, monkeypatch, calls):
    """In all places: on a GPU a LayerNorm gives float32 under autocast, other layers bfloat16."""

    def not_taken(*_):
        raise AssertionError("a depthwise convolution went to PyTorch")

    layer_norm = F.layer_norm
    monkeypatch.setattr(
        F, "layer_norm", lambda features, *options: layer_norm(features.float(), *options)
    )
    monkeypatch.setattr(depthwise, "_convolve", not_taken)
    with torch.autocast(device.type, torch.bfloat16):
        run_block(monkeypatch, device, torch.bfloat16)
    assert calls == set(ops.KERNELS)


def test_every_launch_is_on_the_device_of_its_tensors(device, monkeypatch):
    """Triton launches on the current one. Both passes, seen in the interpreter on a CPU."""
    if device.type == "cuda":
        pytest.skip("launches are seen in the interpreter only")
    from triton.runtime.interpreter import GridExecutor

    guards, launched, launch = [], [], GridExecutor.__call__

    @contextmanager
    def device_of(tensor):
        guards.append(tensor)
        yield
        guards.pop()

    def noted(executor, *arguments, **constants):
        name = f"{executor.fn.__module__}.{executor.fn.__name__}"
        launched.append(name if guards else f"{name} without a guard")
        return launch(executor, *arguments, **constants)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(GridExecutor, "__call__", noted)
    run_block(monkeypatch, device)
    assert len(set(launched)) == 9
    assert not [name for name in launched if name.endswith("without a guard")]


def test_cpu_tensors_take_no_kernel_outside_the_interpreter():
    assert not any(kernels.available(name, torch.zeros(1)) for name in ops.KERNELS)


def test_compiles_without_a_break(device, monkeypatch):
    """Every kernel is one opaque operator to torch.compile, forward and backward."""
    from models.ops.attention import window_attention
    from models.ops.depthwise import depthwise_conv3d
    from models.ops.sampling import sample_partner

    def layers(tokens, weight, offsets, gate):
        tokens = depthwise_conv3d(tokens.permute(0, 4, 1, 2, 3), weight).permute(0, 2, 3, 4, 1)
        tokens = sample_partner(tokens, offsets, False)
        return window_attention(tokens, tokens, tokens, gate, 2, (2, 2, 1), False)

    torch.manual_seed(0)
    tensors = [
        torch.randn(1, 2, 2, 1, 4),
        torch.randn(4, 1, 3, 3, 3),
        0.3 * torch.randn(1, 2, 2, 1, 3),
        torch.rand(1, 4),
    ]
    results = []
    for function in (layers, torch.compile(layers, backend="aot_eager", fullgraph=True)):
        inputs = [tensor.clone().to(device).requires_grad_() for tensor in tensors]
        out = function(*inputs)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-6)
