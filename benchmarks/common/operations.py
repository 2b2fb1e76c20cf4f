"""Where the time of a pass goes, by kind of operation, from PyTorch's profiler."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The first kind whose pattern occurs in an operation's name takes it.
KINDS = {
    "optimizer": ("adam", "Optimizer", "lerp_", "addcdiv", "addcmul", "_foreach"),
    "matrix products": ("mm", "linear", "baddbmm", "matmul"),
    "sampling": (
        *("grid_sampler", "embedding_bag", "searchsorted", "sort"),
        *("WeightedRows", "fusion::sample"),
    ),
    "attention": ("scaled_dot_product", "softmax", "_attention"),
    "GELU": ("gelu",),
    "norms": ("layer_norm", "batch_norm", "_norm"),
    "copies": (
        *("copy_", "cat", "clone", "fill_", "constant_pad"),
        *("stack", "contiguous", "zero_", "index_select", "flip"),
    ),
    "elementwise and sums": (
        *("add", "mul", "div", "sub", "sum", "mean"),
        *("tanh", "sigmoid", "pow", "sqrt", "abs", "neg"),
    ),
}


def time_by_kind(function: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of one call by kind of operation, the largest first.

    Depthwise convolutions stand apart from others.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    totals = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.device_type != DeviceType.CPU:
            continue  # a kernel on the GPU: its time is that of the operation that started it, too
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        totals[kind(event.key, event.input_shapes)] += own / 1e6
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def kind(name: str, shapes: list) -> str:
    """The row of the table that an operation belongs to."""
    if "conv" in name.lower() or "epthwise" in name:
        return "depthwise convolutions" if _is_depthwise(name, shapes) else "other convolutions"
    for row, patterns in KINDS.items():
        if any(pattern in name for pattern in patterns):
            return row
    return "everything else"


def _is_depthwise(name: str, shapes: list) -> bool:
    """Whether a convolution has one or two input channels a group, and many groups."""
    if "epthwise" in name:
        return True
    kernels = [shape for shape in shapes[1:3] if len(shape) == 5]
    return any(kernel[0] >= 24 and kernel[1] <= 2 for kernel in kernels)


def operations_table(times: dict[str, dict[str, float]]) -> list[str]:
    """Lines of a table: kinds of operation, and for each path milliseconds and share.

    Args:
        times: for each path what `time_by_kind` gave.
    """
    rows = []  # in the order of the first path, without what occurs twice
    for by_kind in times.values():
        rows += [row for row in by_kind if row not in rows]
    lines = ["| operations | " + " | ".join(f"{path}, ms | share" for path in times) + " |"]
    lines.append("|---" * (1 + 2 * len(times)) + "|")
    for row in rows:
        cells = []
        for by_kind in times.values():
            own = by_kind.get(row, 0.0)
            cells += [f"{own * 1e3:.1f}", f"{100 * own / sum(by_kind.values()):.1f} %"]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    totals = [f"{sum(by_kind.values()) * 1e3:.1f} | 100 %" for by_kind in times.values()]
    return [*lines, "| together | " + " | ".join(totals) + " |"]
