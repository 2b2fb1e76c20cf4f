"""The kernels run compiled where there is a CUDA device and in Triton's interpreter elsewhere."""

import pytest
import torch

from models import ops
from models.ops import kernels
from tests.helpers import triton_interpreter


@pytest.fixture
def device(request, monkeypatch):
    """Where the kernels run. A CPU tensor takes them during the test, and only then."""
    # cuDNN's convolutions, which the kernels are held against, would round to ten bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if triton_interpreter.WHY_NOT:
        pytest.skip(triton_interpreter.WHY_NOT)
    if torch.cuda.is_available():
        yield torch.device("cuda")
    elif request.node.get_closest_marker("gpu"):
        pytest.skip("needs a CUDA device")
    else:
        with kernels.interpreted():
            yield torch.device("cpu")


@pytest.fixture
def calls(monkeypatch):
    """Names of the kernels that were found available."""
    seen = set()
    available = kernels.available

    def noted(kernel, *tensors):
        if available(kernel, *tensors):
            seen.add(kernel)
            return True
        return False

    monkeypatch.setattr(kernels, "available", noted)
    return seen


@pytest.fixture
def agree(device):
    """Function (function, tensors, dtype) that holds the kernels against the plain backend.

    It compares outputs and the gradients of all tensors; the errors are relative. The plain backend
    gets the tensors in float32, rounded as the kernels' are, or `plain` does in its place.
    """

    def check(function, tensors, dtype=torch.float32, tolerance=1e-5, plain=None):
        tensors = [tensor.to(device).to(dtype) for tensor in tensors]
        received = _forward_and_backward(function, [tensor.clone() for tensor in tensors])
        with ops.using("plain"):
            wide = [tensor.float() for tensor in tensors]
            expected = _forward_and_backward(plain or function, wide)
        assert received[0].dtype == dtype
        assert len(received) == len(tensors) + 1
        for place, (one, other) in enumerate(zip(received, expected, strict=True)):
            assert one.shape == other.shape
            difference = (one.double() - other.double()).norm()
            # A gradient may be zero but for rounding, as that of a softmax over one key.
            assert difference <= tolerance * max(other.double().norm(), 0.1), place

    return check


def _forward_and_backward(function, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    tensors = [tensor.requires_grad_() for tensor in tensors]
    out = function(*tensors)
    generator = torch.Generator().manual_seed(3)
    # Not contiguous, and rounded so that bfloat16 holds it.
    upstream = (
        torch.randn(out.shape[::-1], generator=generator)
        .bfloat16()
        .to(out.device, out.dtype)
        .permute(*reversed(range(out.ndim)))
    )
    return [out.detach(), *torch.autograd.grad(out, tensors, upstream)]
