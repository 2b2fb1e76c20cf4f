"""What a pass must at least cost: arithmetic and memory traffic counted; the machine's ceilings."""

from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.measure import seconds
from models import build_model, ops
from models.dc2fusion import NETWORKS

STEP_BY_FORWARD = 3  # a matrix product has two gradients, each as large as itself
_NO_TRAFFIC = ("empty", "detach", "_unsafe_view", "alias", "lift_fresh")


def network_flops(embed_dim: int, size: int, network: str = "paper") -> float:
    """Floating-point operations of the products of one forward pass.

    Of the plain network for one pair of size^3 voxels, counted without computing anything; a
    multiplication and an addition are two.
    """
    options = NETWORKS[network] | {"embed_dim": embed_dim}
    # The meta device has no autocast, which the other head steps out of; fake tensors start slowly.
    without = torch.device("meta") if options["head"] == "patches" else FakeTensorMode()
    with without, torch.no_grad(), ops.using("plain"):
        model = build_model("dc2fusion", **options).eval()
        mri, pet = torch.empty(2, 1, 1, size, size, size)
        with FlopCounterMode(display=False) as counter:
            model(mri, pet)
    return float(counter.get_total_flops())


class Traffic(TorchDispatchMode):
    """Sums the bytes that operations read and write, each tensor once an operation, no caches."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        outputs = function(*args, **kwargs)
        name = function.__name__.split(".")[0]
        if not function.is_view and not name.startswith(_NO_TRAFFIC):
            touched = tree_leaves((args, kwargs, outputs))
            self.bytes += sum(
                _size(tensor) for tensor in touched if isinstance(tensor, torch.Tensor)
            )
        return outputs


def _size(tensor: torch.Tensor) -> int:
    """Bytes of memory behind a tensor; an expanded one has fewer than its shape says."""
    distinct = 1
    for side, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= side if stride else 1
    return distinct * tensor.element_size()


def traffic(function: Callable[[], object]) -> int:
    """Bytes read and written by the operations of one call."""
    with Traffic() as counter:
        function()
    return counter.bytes


def copy_bandwidth(device: torch.device, mebibytes: int = 512) -> float:
    """Bytes a second, read and written, of copying a large array."""
    source = torch.rand(mebibytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device, repeats=5)


def matrix_rate(
    device: torch.device, dtype: torch.dtype = torch.float32, side: int | None = None
) -> float:
    """Floating-point operations a second of a large square matrix product."""
    side = side or (8192 if device.type == "cuda" else 2048)
    first, second = torch.rand(2, side, side, device=device).to(dtype)
    return 2 * side**3 / seconds(lambda: first @ second, device, repeats=5)
