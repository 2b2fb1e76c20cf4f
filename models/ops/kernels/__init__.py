"""Triton kernels for the network's hot operations on a CUDA device; optional.

    depthwise   the depthwise convolutions, blended from two streams or not
    sampling    the partner's tokens sampled where the offset field points
    attention   cross-attention inside windows, gate included
    norm_gelu   LayerNorm and GELU in one pass

The functions with two implementations (`models.ops.paths`) ask `available` and take the kernel
where it says yes, their PyTorch implementation everywhere else: on a CPU, without Triton, in
float64, for a kernel switched off. The plain path never asks. Triton is not imported before the
first CUDA tensor arrives.

Every kernel reads and writes contiguous channels-last tokens (B, D, H, W, C), sums in float32, uses
no atomics (two runs give the same bits) and is a `torch.library` operator, so that `torch.compile`
passes it through whole. None can be differentiated twice. Triton launches on the current device, so
every launch makes its tensors' device the current one. Tile sizes are in
`models.ops.kernels.tiles`.

The environment variable DC2FUSION_KERNELS chooses among them, by name and commas, or "none": for
measurements.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

KERNELS = ("depthwise", "sampling", "attention", "norm_gelu")
VARIABLE = "DC2FUSION_KERNELS"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INSTALLED = importlib.util.find_spec("triton") is not None  # finds it without importing it


def parse_names(text: str) -> frozenset[str]:
    """Kernels by names and commas, "all" or "none".

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if text in ("all", "none"):
        return frozenset(KERNELS if text == "all" else ())
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in KERNELS]
    if unknown:
        raise ValueError(
            f"{VARIABLE}: unknown kernel {unknown[0]!r}, choose from all, none, {', '.join(KERNELS)}"
        )
    return frozenset(names)


_enabled = parse_names(os.environ.get(VARIABLE) or "all")
_interpreting = False


def available(kernel: str, *tensors: torch.Tensor) -> bool:
    """Whether a kernel can run on these tensors: enabled, of one dtype that it takes, on a CUDA
    device.

    A CPU tensor counts inside `interpreted` only.
    """
    if not _INSTALLED or kernel not in _enabled:
        return False
    first = tensors[0]
    if first.device.type != "cuda" and not (_interpreting and first.device.type == "cpu"):
        return False
    for tensor in tensors:
        if (
            tensor.dtype not in _DTYPES
            or tensor.dtype != first.dtype
            or tensor.device != first.device
        ):
            return False
    return True


@contextmanager
def only(names: str) -> Iterator[None]:
    """Enable exactly these kernels (see `parse_names`) for a while: for tests and measurements."""
    global _enabled
    before, _enabled = _enabled, parse_names(names)
    try:
        yield
    finally:
        _enabled = before


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
