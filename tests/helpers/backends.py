"""An operation on both backends of `models.ops`, and gradients to compare."""

from collections.abc import Callable

import torch

from models import ops
from tests.helpers.golden import relative_error


def on_both(function: Callable[..., torch.Tensor], *arguments) -> list[torch.Tensor]:
    """What the function gives on the plain backend and on the fast one."""
    results = []
    for backend in ops.BACKENDS:
        with ops.using(backend):
            results.append(function(*arguments))
    return results


def gradients_of(output: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Of all inputs, for an upstream gradient that differs from element to element."""
    upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return torch.autograd.grad(output, inputs, upstream)


def assert_backends_agree(
    function: Callable[..., torch.Tensor], inputs: list[torch.Tensor]
) -> None:
    """Outputs of `function(*inputs)` and the gradients of all inputs."""
    outputs = on_both(function, *inputs)
    assert torch.allclose(*outputs)
    gradients = [gradients_of(output, inputs) for output in outputs]
    for plain, fast in zip(*gradients, strict=True):
        assert torch.allclose(plain, fast)


def assert_gradients_agree(
    ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    """Together, and each against its own size, or the others' where it is 0 but for rounding."""
    whole = torch.cat([g.flatten().double() for g in expected.values()])
    assert relative_error(torch.cat([g.flatten() for g in ours.values()]), whole) < tolerance
    for name, gradient in expected.items():
        difference = (ours[name].double() - gradient.double()).norm()
        assert difference < 10 * tolerance * (gradient.norm() + 1e-2 * whole.norm()), name
