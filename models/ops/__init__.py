"""The network's hot operations, and the one switch between their implementations.

    plain   straightforward PyTorch operations, the oracle that everything else is tested against
    fast    the same numbers to rounding, several times cheaper; on a CUDA device with the Triton
            kernels of `models.ops.kernels`

One mathematics, one set of parameters: `with ops.using("plain"): network(mri, pet)`. The operations
look here which backend holds; the network's classes never do. What a forward pass has chosen stays
chosen for its backward pass, wherever that runs.

The environment variable DC2FUSION_KERNELS chooses among the kernels, by name and commas, or "none":
for measurements.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BACKENDS = ("plain", "fast")
KERNELS = ("depthwise", "sampling", "attention", "norm_gelu")
VARIABLE = "DC2FUSION_KERNELS"


@dataclass(frozen=True)
class Backend:
    """How the operations are computed.

    Attributes:
        name: "plain" or "fast".
        kernels: the Triton kernels that CUDA tensors take; none of them where the name is "plain".
    """

    name: str
    kernels: frozenset[str]


def build_backend(name: str, kernels: str | None = None) -> Backend:
    """A backend by name.

    Args:
        name: one of `BACKENDS`.
        kernels: names and commas, "all" or "none"; None for what DC2FUSION_KERNELS says, or all.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}, choose from {', '.join(BACKENDS)}")
    enabled = parse_kernels(kernels or os.environ.get(VARIABLE) or "all")
    return Backend(name, frozenset() if name == "plain" else enabled)


def parse_kernels(text: str) -> frozenset[str]:
    """Kernels by names and commas, "all" or "none".

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if text in ("all", "none"):
        return frozenset(KERNELS if text == "all" else ())
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in KERNELS]
    if unknown:
        known = ", ".join(("all", "none", *KERNELS))
        raise ValueError(f"{VARIABLE}: unknown kernel {unknown[0]!r}, choose from {known}")
    return frozenset(names)


_backend = build_backend("fast")


def current() -> Backend:
    """The backend that holds now."""
    return _backend


def is_plain() -> bool:
    """Whether the plain implementations are to run."""
    return _backend.name == "plain"


@contextmanager
def using(backend: str | Backend, kernels: str | None = None) -> Iterator[None]:
    """Compute with a backend for a while, in all threads of this process.

    Args:
        backend: a name, or what `current` gave.
        kernels: as in `build_backend`, with a name.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    global _backend
    chosen = backend if isinstance(backend, Backend) else build_backend(backend, kernels)
    before, _backend = _backend, chosen
    try:
        yield
    finally:
        _backend = before
