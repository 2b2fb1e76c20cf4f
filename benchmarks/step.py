"""The whole network on both backends: inference and a training step, measured in one run.

    python -m benchmarks.step --size 128 --embed-dim 96 --operations
    python -m benchmarks.step --device cuda --dtype bfloat16 --steps 200

Each backend runs in a process of its own, so that its peak memory is its own. Prints seconds, peak
memory and their ratios; what was counted (FLOPs of the plain network's products, three times as
many for a step; bytes that the operations read and write) and which fraction of the machine's own
matrix rate and copy bandwidth that is; with --operations the time by kind of operation. With
--steps the last backend also trains that many steps on one synthetic head and the losses are
printed; what is timed runs on noise.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable

import torch

from benchmarks.common.counting import (
    STEP_BY_FORWARD,
    copy_bandwidth,
    matrix_rate,
    network_flops,
    traffic,
)
from benchmarks.common.measure import (
    machine,
    parse_device,
    run_module,
    seconds,
    synthetic_head,
)
from benchmarks.common.operations import operations_table, time_by_kind
from losses import build_objective
from models import build_model, ops
from models.dc2fusion import NETWORKS
from training.devices.graph import WARM_UP as RECORDED_AFTER
from training.devices.graph import StepGraph
from training.runlog import peak_memory_gib

DTYPES = ("float32", "tf32", "bfloat16")
PASSES = ("forward", "step")
WARM_UP = 2  # memory is still being taken from the system in the second step

Pair = tuple[torch.Tensor, torch.Tensor]  # MRI and PET


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="voxels a side (128)")
    parser.add_argument("--network", default="paper", choices=NETWORKS)
    parser.add_argument("--embed-dim", type=int, default=96, help="E (96)")
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="bfloat16 is autocast (float32)"
    )
    parser.add_argument(
        "--plain-dtype", choices=DTYPES, help="of the plain backend, where it differs"
    )
    parser.add_argument(
        "--compile",
        choices=("default", "reduce-overhead"),
        help="torch.compile mode, fast backend only",
    )
    parser.add_argument(
        "--graph", action="store_true", help="as a CUDA graph, as --cuda-graph trains; fast only"
    )
    parser.add_argument("--checkpoint-activations", action="store_true", help="fast backend only")
    enabled = os.environ.get(ops.VARIABLE) or "all"
    parser.add_argument(
        "--kernels", default=enabled, help="Triton kernels on a GPU: names and commas, all or none"
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="timed runs, the shortest counts (1)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch's choice)")
    parser.add_argument("--paths", nargs="+", default=list(ops.BACKENDS), choices=ops.BACKENDS)
    parser.add_argument("--passes", nargs="+", default=list(PASSES), choices=PASSES)
    parser.add_argument("--operations", action="store_true", help="time by kind of operation")
    parser.add_argument(
        "--steps", type=int, default=0, help="training steps with the last backend (0)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as one line of JSON only"
    )
    parser.add_argument(
        "--measure", help=argparse.SUPPRESS
    )  # the backend to measure in this process
    return parser


def passes(args: argparse.Namespace, fast: bool) -> dict[str, Callable[..., object]]:
    """The forward pass without gradients and the training step, of noise or of a given pair."""
    dtype = args.dtype if fast or not args.plain_dtype else args.plain_dtype
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    torch.manual_seed(0)
    # Not the identity, whose zeros could be cheaper than what a network holds after training.
    options = NETWORKS[args.network] | {"embed_dim": args.embed_dim, "init": "default"}
    options["checkpoint_activations"] = args.checkpoint_activations and fast
    model = build_model("dc2fusion", **options).to(args.device)
    network = torch.compile(model, mode=args.compile) if args.compile and fast else model
    objective = build_objective("ssim-gradient-intensity")
    graphed = args.graph and fast
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=fast, capturable=graphed)
    noise = tuple(torch.rand(2, 1, 1, *(args.size,) * 3, device=args.device))

    def fuse(pair: Pair) -> torch.Tensor:
        with torch.autocast(args.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            return network(*pair)

    @torch.no_grad()
    def fused(*pair: torch.Tensor) -> torch.Tensor:
        model.eval()
        return fuse(pair)

    def trained(*pair: torch.Tensor) -> torch.Tensor:
        model.train()
        loss, _ = objective(fuse(pair), *pair)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if graphed:
        fused, trained = StepGraph(fused, args.device), StepGraph(trained, args.device)

    def forward(pair: Pair = noise) -> None:
        fused(*pair)

    def step(pair: Pair = noise) -> float:
        return trained(*pair).item()

    return {"forward": forward, "step": step}


def measure(args: argparse.Namespace, backend: str) -> dict:
    """Seconds, peak GiB and bytes on one backend; memory is read after each pass."""
    if args.threads:
        torch.set_num_threads(args.threads)
    with ops.using(backend, args.kernels):
        return _measure(args, passes(args, backend == "fast"))


def _measure(args: argparse.Namespace, functions: dict[str, Callable[..., object]]) -> dict:
    results = {"seconds": {}, "GiB": {}, "bytes": {}, "operations": {}}
    for name in args.passes:
        function = functions[name]
        before = WARM_UP + (RECORDED_AFTER if args.graph else 0)
        results["seconds"][name] = seconds(function, args.device, args.repeats, before)
        results["GiB"][name] = peak_memory_gib(args.device)
        if not (args.compile or args.graph):
            results["bytes"][name] = traffic(function)
        if args.operations:
            results["operations"][name] = time_by_kind(function, args.device)
    results["losses"] = []
    if args.steps:
        pair = tuple(volume.to(args.device) for volume in synthetic_head(args.size))
        results["losses"] = [functions["step"](pair) for _ in range(args.steps)]
    return results


def measure_apart(arguments: list[str], backend: str) -> dict:
    """`measure` in a process of its own.

    Args:
        arguments: the flags.
        backend: "plain" or "fast".

    Raises:
        RuntimeError: it failed, see `run_module`.
    """
    output = run_module("benchmarks.step", *arguments, "--measure", backend)
    return json.loads(output.splitlines()[-1])


def ceilings(args: argparse.Namespace) -> dict[str, float]:
    """FLOPs of a forward pass, the machine's matrix rate and its copy bandwidth."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high" if args.dtype == "tf32" else "highest")
    dtype = torch.bfloat16 if args.dtype == "bfloat16" else torch.float32
    return {
        "flops": network_flops(args.embed_dim, args.size, args.network),
        "matrix rate": matrix_rate(args.device, dtype),
        "bandwidth": copy_bandwidth(args.device),
    }


def times_table(results: dict[str, dict]) -> list[str]:
    """Lines of a table: seconds and peak memory of each pass and backend, their ratio."""
    lines = ["| | " + " | ".join(results) + " | plain / fast |", "|---" * (len(results) + 2) + "|"]
    for unit in ("seconds", "GiB"):
        for name in next(iter(results.values()))[unit]:
            values = [result[unit][name] for result in results.values()]
            ratio = f"{values[0] / values[1]:.2f}" if len(values) == 2 else ""
            lines.append(
                f"| {name} {unit} | "
                + " | ".join(f"{value:.3g}" for value in values)
                + f" | {ratio} |"
            )
    return lines


def fractions_table(results: dict[str, dict], limits: dict[str, float]) -> list[str]:
    """Lines of a table: what each pass does a second, beside what the machine can."""
    lines = [
        "| | TFLOP | TFLOP/s | of matrix rate | GB moved | GB/s | of copy bandwidth |",
        "|---" * 7 + "|",
    ]
    for backend, result in results.items():
        for name, elapsed in result["seconds"].items():
            flops = limits["flops"] * (STEP_BY_FORWARD if name == "step" else 1)
            cells = [f"{flops / 1e12:.3g}", f"{flops / elapsed / 1e12:.3g}"]
            cells.append(f"{100 * flops / elapsed / limits['matrix rate']:.0f} %")
            moved = result["bytes"].get(name)
            if moved:
                cells += [f"{moved / 1e9:.3g}", f"{moved / elapsed / 1e9:.3g}"]
                cells.append(f"{100 * moved / elapsed / limits['bandwidth']:.0f} %")
            else:
                cells += ["-"] * 3
            lines.append(f"| {backend} {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure each backend in its own process, and print the tables."""
    args = build_parser().parse_args()
    if args.measure:
        print(json.dumps(measure(args, args.measure)))
        return
    results = {}
    for backend in args.paths:
        steps = args.steps if backend == args.paths[-1] else 0
        results[backend] = measure_apart([*sys.argv[1:], "--steps", str(steps)], backend)
    limits = ceilings(args)
    if args.json:
        print(json.dumps({"ceilings": limits, **results}))
        return
    report(args, results, limits)


def report(args: argparse.Namespace, results: dict[str, dict], limits: dict[str, float]) -> None:
    """Print the tables."""
    print(machine(args.device))
    print(
        f"DC2Fusion, {args.network}, E={args.embed_dim}, {args.size}^3, batch 1, {args.dtype}",
        end="",
    )
    print(f" (plain: {args.plain_dtype})\n" if args.plain_dtype else "\n")
    print(*times_table(results), sep="\n", end="\n\n")
    floor = limits["flops"] / limits["matrix rate"]
    rate, bandwidth = limits["matrix rate"] / 1e12, limits["bandwidth"] / 1e9
    print(f"Matrix rate {rate:.3g} TFLOP/s, copy bandwidth {bandwidth:.3g} GB/s;")
    print(f"the products alone would take {floor:.3g} s forward, ", end="")
    print(f"{STEP_BY_FORWARD * floor:.3g} s a step.\n")
    print(*fractions_table(results, limits), sep="\n")
    for name in args.passes if args.operations else []:
        times = {backend: result["operations"][name] for backend, result in results.items()}
        print(f"\n{name}\n", *operations_table(times), sep="\n")
    if args.steps:
        losses = results[args.paths[-1]]["losses"]
        shown = " ".join(f"{loss:.3f}" for loss in losses[::20])
        print(f"\nloss every 20 steps: {shown} .. {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
