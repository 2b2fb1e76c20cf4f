"""Triton kernels for the network's hot operations on a CUDA device; optional.

    depthwise   the depthwise convolutions, blended from two streams or not
    sampling    the partner's tokens sampled where the offset field points
    attention   cross-attention inside windows, gate included
    norm_gelu   LayerNorm and GELU in one pass

The operations of `models.ops` ask `available` and take the kernel where it says yes, their PyTorch
implementation everywhere else: on a CPU, without Triton, in float64, for a kernel that is not
enabled. The plain backend enables none.

Every kernel reads and writes contiguous channels-last tokens (B, D, H, W, C), sums in float32, uses
no atomics (two runs give the same bits) and is a `torch.library` operator, so that `torch.compile`
passes it through whole. None can be differentiated twice. Triton launches on the current device, so
every launch makes its tensors' device the current one. Tile sizes are in
`models.ops.kernels.tiles`.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from models import ops

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INSTALLED = importlib.util.find_spec("triton") is not None  # finds it without importing it
_interpreting = False


def available(kernel: str, *tensors: torch.Tensor) -> bool:
    """Whether a kernel is to run on these tensors: it is enabled and can.

    It takes tensors of one dtype on one CUDA device; a CPU tensor counts inside `interpreted` only.
    """
    if not _INSTALLED or kernel not in ops.current().kernels:
        return False
    first = tensors[0]
    if first.device.type != "cuda" and not (_interpreting and first.device.type == "cpu"):
        return False
    alike = all(t.dtype == first.dtype and t.device == first.device for t in tensors)
    return alike and first.dtype in _DTYPES


def load(kernel: str) -> ModuleType:
    """The module of an available kernel.

    The one door to Triton: nothing imports it before the first CUDA tensor arrives.
    """
    from models.ops.kernels import attention, depthwise, norm_gelu, sampling

    modules = {
        "attention": attention,
        "depthwise": depthwise,
        "norm_gelu": norm_gelu,
        "sampling": sampling,
    }
    return modules[kernel]


@contextmanager
def interpreted() -> Iterator[None]:
    """Let CPU tensors take the kernels too, run by Triton's interpreter: slow, for tests.

    Triton decides when it is imported, so this has to be entered once before anything else imports
    it.

    Raises:
        RuntimeError: if Triton was imported before, to compile.
    """
    global _interpreting
    variable = "TRITON_INTERPRET"
    before, _interpreting = (os.environ.get(variable), _interpreting), True
    os.environ[variable] = "1"
    try:
        import triton.language

        if isinstance(triton.language.sum, triton.JITFunction):
            raise RuntimeError(
                "Triton is imported already and will compile; enter kernels.interpreted() earlier"
            )
        yield
    finally:
        environment, _interpreting = before
        if environment is None:
            del os.environ[variable]
        else:
            os.environ[variable] = environment
