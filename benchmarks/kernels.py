"""Each Triton kernel against the PyTorch operations in its place, at the four grids of the network.

    python -m benchmarks.kernels --device cuda
    # Which pay in the whole network:
    python -m benchmarks.step --device cuda --kernels depthwise,attention

Agreement first, forward and all gradients: a kernel that disagrees is not timed. Times are those
that the device was busy with (not the launching, which CUDA graphs hide), of a forward pass and of
a backward pass. Bytes are the least that a pass must move: every input and output once; the last
columns are how fast that is beside a copy.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common.counting import copy_bandwidth
from benchmarks.common.measure import machine, parse_device, seconds
from models import ops
from models.dc2fusion import HEADS, PATCH
from models.ops import kernels
from models.ops.attention import window_attention
from models.ops.depthwise import blend_conv3d, depthwise_conv3d
from models.ops.norm_gelu import norm_gelu_linear
from models.ops.sampling import sample_partner

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Relative; in bfloat16 PyTorch rounds between its operations.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
SMALL = 1e-2  # a gradient below this is zero but for rounding
HEADINGS = ("operation", "C", "tokens", "difference")
TIMES = ("PyTorch, us", "kernel, us", "PyTorch / kernel", "GB/s", "of copy")

Case = tuple[Callable[..., torch.Tensor], list[torch.Tensor]]


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", type=parse_device, default="cuda")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--size", type=int, default=128, help="voxels a side (128)")
    parser.add_argument("--embed-dim", type=int, default=96, help="E (96)")
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[0, 1, 2, 3], help="stages, 0 the finest (all)"
    )
    parser.add_argument("--kernels", nargs="+", default=list(ops.KERNELS), choices=ops.KERNELS)
    parser.add_argument("--repeats", type=int, default=10)
    return parser


def cases(
    kernel: str, width: int, side: int, heads: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Case]:
    """What the network calls where it may take a kernel, and its differentiable inputs.

    Args:
        kernel: a name of `models.ops.KERNELS`.
        width: C.
        side: tokens a side.
        heads: attention heads.
        device: of the inputs.
        dtype: of the tokens. Offsets and parameters are float32.
    """

    def tokens(channels: int) -> torch.Tensor:
        return torch.randn(1, side, side, side, channels, device=device).to(dtype)

    def volume(channels: int) -> torch.Tensor:
        return tokens(channels).permute(0, 4, 1, 2, 3)

    def parameter(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device) / 10

    if kernel == "depthwise":
        wide = [parameter(2 * width, 1, 3, 3, 3), parameter(2 * width)]
        blend = [parameter(width, 2, 7, 7, 7), parameter(width)]
        return {
            "7x7x7 blend": (_convolution(blend_conv3d), [volume(width), volume(width), *blend]),
            "3x3x3 depthwise": (_convolution(depthwise_conv3d), [volume(2 * width), *wide]),
        }
    if kernel == "sampling":
        offsets = 2 * torch.tanh(torch.randn(1, side, side, side, 3, device=device)) / side
        return {"sampling": (lambda *i: sample_partner(*i, False), [tokens(width), offsets])}
    if kernel == "attention":
        window = (min(2, side),) * 3
        gate = torch.rand(1, width, device=device).to(dtype)
        inputs = [tokens(width), tokens(width), tokens(width), gate]
        return {"attention": (lambda *i: window_attention(*i, heads, window, False), inputs)}
    norm, linear = nn.LayerNorm(2 * width).to(device), nn.Linear(2 * width, 3).to(device)
    return {"LayerNorm, GELU, Linear to 3": (_in_type_of_input(norm, linear), [tokens(2 * width)])}


def _convolution(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The convolution with its parameters in the volumes' type, where autocast takes them."""

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        return function(*(tensor.to(inputs[0].dtype) for tensor in inputs))

    return call


def _in_type_of_input(
    norm: nn.LayerNorm, linear: nn.Linear
) -> Callable[[torch.Tensor], torch.Tensor]:
    def call(features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(
            features.device.type, torch.bfloat16, enabled=features.dtype == torch.bfloat16
        ):
            return norm_gelu_linear(features, norm, linear)

    return call


def differentiated(
    case: Case,
) -> tuple[list[torch.Tensor], Callable[[], object], Callable[[], object]]:
    """Output and gradients of a case; its forward pass without gradients; its backward pass."""
    function, inputs = case
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*inputs)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(
        out.device, out.dtype
    )

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(out, inputs, upstream, retain_graph=True)

    return [out.detach(), *backward()], forward, backward


def busy_seconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one call that a CUDA device computes; on a CPU, by the clock."""
    if device.type != "cuda":
        return seconds(function, device, repeats)
    for _ in range(3):
        function()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            function()
        torch.cuda.synchronize(device)
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CUDA]
    return sum(event.self_device_time_total for event in events) / 1e6 / repeats


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """||ours - theirs|| / ||theirs||, or over `SMALL` where theirs is smaller."""
    ours, theirs = ours.double(), theirs.double()
    return ((ours - theirs).norm() / theirs.norm().clamp_min(SMALL)).item()


def compare(
    case: Case, kernel: str, dtype: str, args: argparse.Namespace, bandwidth: float
) -> list[str]:
    """Cells of a row: the largest difference, then what `TIMES` says, forward and backward."""
    with ops.using("fast", kernels="none"):
        expected, *passes = differentiated(case)
        times = [busy_seconds(function, args.device, args.repeats) for function in passes]
    with ops.using("fast", kernels=kernel):
        received, *passes = differentiated(case)
        difference = max(map(relative_difference, received, expected))
        if not difference <= TOLERANCE[dtype]:
            return [f"**{difference:.1e}, disagrees**"] + [""] * 2 * len(TIMES)
        own = [busy_seconds(function, args.device, args.repeats) for function in passes]
    inputs = sum(tensor.nbytes for tensor in case[1])
    least = inputs + received[0].nbytes, 2 * inputs + received[0].nbytes
    cells = [f"{difference:.1e}"]
    for theirs, ours, moved in zip(times, own, least, strict=True):
        rate = moved / ours
        cells += [f"{theirs * 1e6:.0f}", f"{ours * 1e6:.0f}", f"{theirs / ours:.2f}"]
        cells += [f"{rate / 1e9:.0f}", f"{100 * rate / bandwidth:.0f} %"]
    return cells


def table(dtype: str, args: argparse.Namespace, bandwidth: float) -> Iterator[str]:
    """Lines of the table of one type, each as soon as it is measured."""
    headings = [
        *HEADINGS,
        *(f"{name} {time}" for name in ("forward", "backward") for time in TIMES),
    ]
    yield "| " + " | ".join(headings) + " |"
    yield "|---" * len(headings) + "|"
    for kernel in args.kernels:
        for level in args.levels:
            torch.manual_seed(0)
            width, side = args.embed_dim * 2**level, -(-args.size // (PATCH * 2**level))
            side += side % 2 if side > 1 else 0  # whole windows, as the network pads
            for name, case in cases(
                kernel, width, side, HEADS[level], args.device, DTYPES[dtype]
            ).items():
                cells = [
                    name,
                    str(width),
                    f"{side}^3",
                    *compare(case, kernel, dtype, args, bandwidth),
                ]
                yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    args = build_parser().parse_args()
    if not kernels.available("sampling", torch.empty(0, device=args.device)):
        raise SystemExit(
            f"error: --device {args.device}: the kernels need a CUDA device and Triton; "
            f"leave {ops.VARIABLE} unset"
        )
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    bandwidth = copy_bandwidth(args.device)
    print(machine(args.device), f"Copy bandwidth {bandwidth / 1e9:.0f} GB/s.", sep="\n")
    for dtype in args.dtypes:
        print(f"\n{dtype}\n")
        for line in table(dtype, args, bandwidth):
            print(line, flush=True)


if __name__ == "__main__":
    main()
