"""Everything that is to be known of a GPU in one go, written to a folder, with a short table last.

    python -m benchmarks.gpu --out result/gpu

Checks that both backends agree on the device, then measures the full model at 128^3: plain float32
against the fast path in float32, TF32, bfloat16, compiled, compiled with CUDA graphs, with
checkpointed activations and without each of the Triton kernels; every kernel beside PyTorch's
operations; the time by kind of operation; 300 training steps in bfloat16 beside float32; the 7x7x7
convolution alone; cost against size; an epoch with and without data. A part that fails is named in
the table and in the report, and the others still run. The report is written anew after each.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks import step
from benchmarks.common.measure import machine, parse_device, run_module
from benchmarks.common.operations import operations_table
from models import build_model, ops
from models.ops import KERNELS

BASE = "plain float32"
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    BASE: ("plain", []),
    "fast float32": ("fast", []),
    "fast TF32": ("fast", ["--dtype", "tf32"]),
    "fast bfloat16": ("fast", ["--dtype", "bfloat16"]),
    "fast bfloat16 checkpointed": ("fast", ["--dtype", "bfloat16", "--checkpoint-activations"]),
    "fast TF32, CUDA graph": ("fast", ["--dtype", "tf32", "--graph"]),
    "fast bfloat16, CUDA graph": ("fast", ["--dtype", "bfloat16", "--graph"]),
    "fast bfloat16 compiled": ("fast", ["--dtype", "bfloat16", "--compile", "default"]),
    "fast bfloat16 compiled, CUDA graphs": (
        "fast",
        ["--dtype", "bfloat16", "--compile", "reduce-overhead"],
    ),
}
# Which kernels pay: the network without one of them, and without any.
CONFIGURATIONS |= {
    f"fast bfloat16 without {name}": (
        "fast",
        ["--dtype", "bfloat16", "--kernels", ",".join(others)],
    )
    for name, others in {k: [other for other in KERNELS if other != k] for k in KERNELS}.items()
}
CONFIGURATIONS["fast bfloat16 without kernels"] = (
    "fast",
    ["--dtype", "bfloat16", "--kernels", "none"],
)
CURVES = {"float32": [], "bfloat16": ["--dtype", "bfloat16"]}
SECTIONS = ("agreement", "configurations", "curves", "ceilings", "benchmarks")

Figures = dict[str, dict]  # what each part of a section found, None where it failed


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("result/gpu"), help="folder to write (result/gpu)"
    )
    parser.add_argument("--device", type=parse_device, default="cuda")
    parser.add_argument("--size", type=int, default=128, help="voxels a side (128)")
    parser.add_argument("--embed-dim", type=int, default=96, help="E (96)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="of the loss curves (300)")
    parser.add_argument(
        "--sizes", nargs="*", default=["64", "96", "128", "160", "192"], help="cost against size"
    )
    parser.add_argument(
        "--configurations", nargs="+", default=list(CONFIGURATIONS), choices=CONFIGURATIONS
    )
    parser.add_argument(
        "--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS, help="what (all)"
    )
    return parser


def agreement(device: torch.device, variant: str) -> dict[str, float]:
    """Relative differences of fast from plain after a step at E=24, in float32 without TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    results = {}
    for backend in ops.BACKENDS:
        torch.manual_seed(0)
        options = {"embed_dim": 24, "variant": variant, "init": "default"}
        model = build_model("dc2fusion", **options).to(device).eval()
        pair = torch.rand(2, 2, 1, 44, 40, 33, generator=torch.Generator().manual_seed(1))
        with ops.using(backend):
            fused = model(*pair.to(device))
        fused.square().mean().backward()
        results[backend] = fused.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])
    pairs = zip(("forward", "gradients"), results["fast"], results["plain"], strict=True)
    return {name: ((ours - plain).norm() / plain.norm()).item() for name, ours, plain in pairs}


def attempt(failures: dict[str, str], name: str, part: Callable[[], object]) -> object:
    """The part's result; None, with the reason kept, if it fails: the parts after it are to run."""
    print(f"{name} ..", flush=True)
    try:
        return part()
    except Exception as error:
        failures[name] = (str(error).strip() or repr(error)).splitlines()[0]
        return None


def parts(args: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Section, name and function of everything that is measured, in order."""
    common = [
        "--size",
        str(args.size),
        "--embed-dim",
        str(args.embed_dim),
        "--device",
        str(args.device),
    ]
    for variant in ("paper", "released"):
        yield "agreement", variant, partial(agreement, args.device, variant)
    for name in args.configurations:
        backend, flags = CONFIGURATIONS[name]
        timing = [*common, "--repeats", str(args.repeats), "--operations", *flags]
        yield "configurations", name, partial(step.measure_apart, timing, backend)
    for name, flags in CURVES.items() if args.steps else ():
        training = [*common, *flags, "--passes", "forward", "--steps", str(args.steps)]
        yield "curves", name, partial(train_losses, training)
    for dtype in step.DTYPES:
        yield (
            "ceilings",
            dtype,
            partial(step.ceilings, step.build_parser().parse_args([*common, "--dtype", dtype])),
        )
    for name, flags in other_benchmarks(args).items():
        yield "benchmarks", name, partial(run_module, f"benchmarks.{name}", *flags)


def train_losses(flags: list[str]) -> list[float]:
    """Of every training step on the fast backend."""
    return step.measure_apart(flags, "fast")["losses"]


def other_benchmarks(args: argparse.Namespace) -> dict[str, list[str]]:
    """Flags of the other benchmarks by name."""
    device, network = ["--device", str(args.device)], ["--embed-dim", str(args.embed_dim)]
    on_gpu = args.device.type == "cuda"
    sized = [*device, *network, "--size", str(args.size)]
    benchmarks = {"blend_conv": device, "epoch": [*sized, "--amp"] if on_gpu else sized}
    if on_gpu:
        benchmarks["kernels"] = sized
    if args.sizes:
        picture = ["--picture", str(args.out / "scaling.png")]
        dtype = ["--dtype", "bfloat16"] if on_gpu else []
        benchmarks["scaling"] = [*device, *network, *picture, "--sizes", *args.sizes, *dtype]
    return benchmarks


def write_report(args: argparse.Namespace, figures: Figures, summary: list[str]) -> None:
    """report.md, figures.json and losses.csv in the folder."""
    (args.out / "figures.json").write_text(json.dumps(figures, indent=1))
    lines = ["# " + machine(args.device), "", *summary]
    measured = {name: result for name, result in figures["configurations"].items() if result}
    for dtype, limits in figures["ceilings"].items():
        of_dtype = {name: result for name, result in measured.items() if dtype_of(name) == dtype}
        if limits and of_dtype:
            lines += [
                "",
                f"Of the ceilings in {dtype} ({limits['matrix rate'] / 1e12:.3g} TFLOP/s):",
                "",
            ]
            lines += step.fractions_table(of_dtype, limits)
    for name in step.PASSES:
        times = {
            configuration: result["operations"][name] for configuration, result in measured.items()
        }
        if times:
            lines += ["", f"## {name}, by kind of operation", "", *operations_table(times)]
    for name, text in figures["benchmarks"].items():
        lines += ["", f"## benchmarks.{name}", "", text] if text else []
    (args.out / "report.md").write_text("\n".join(lines) + "\n")
    curves = {name: losses for name, losses in figures["curves"].items() if losses}
    with open(args.out / "losses.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *curves])
        writer.writerows(
            [index + 1, *losses] for index, losses in enumerate(zip(*curves.values(), strict=False))
        )


def dtype_of(configuration: str) -> str:
    """What a configuration computes in, one of `step.DTYPES`."""
    return step.build_parser().parse_args(CONFIGURATIONS[configuration][1]).dtype


def summarise(args: argparse.Namespace, figures: Figures, failures: dict[str, str]) -> list[str]:
    """The short table, with the agreement above it and what failed below."""
    lines = []
    for variant, differences in figures["agreement"].items():
        if differences:
            values = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
            lines.append(f"fast against plain, {variant}, float32: {values}")
    network = f"E={args.embed_dim}, {args.size}^3, batch 1"
    lines += ["", f"{network}; times faster and share of memory are of {BASE}", ""]
    lines += ["| | forward s | faster | step s | faster | peak GiB | share |", "|---" * 7 + "|"]
    base = figures["configurations"].get(BASE)
    for name, result in figures["configurations"].items():
        if result:
            forward, whole, peak = *result["seconds"].values(), result["GiB"]["step"]
            ratios = [""] * 3
            if base:
                ratios = [
                    f"{base['seconds']['forward'] / forward:.1f}",
                    f"{base['seconds']['step'] / whole:.1f}",
                ]
                ratios.append(f"{peak / base['GiB']['step']:.2f}")
            cells = [name, f"{forward:.4g}", ratios[0], f"{whole:.4g}", ratios[1]]
            lines.append("| " + " | ".join([*cells, f"{peak:.3g}", ratios[2]]) + " |")
    for name, losses in figures["curves"].items():
        if losses:
            last = sum(losses[-20:]) / len(losses[-20:])
            steps = len(losses)
            lines.append(f"\n{name}: loss {losses[0]:.3f} -> {last:.4f} after {steps} steps")
    return lines + [f"\nfailed: {name}: {reason}" for name, reason in failures.items()]


def main() -> None:
    """Measure everything, write the folder, print the short table."""
    args = build_parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    figures: Figures = {section: {} for section in SECTIONS}
    for section, name, part in parts(args):
        if section not in args.sections:
            continue
        figures[section][name] = attempt(failures, f"{section}, {name}", part)
        summary = summarise(args, figures, failures)
        write_report(args, figures, summary)
    print(f"\n{machine(args.device)}\neverything is in {args.out}/\n")
    print(*summary, sep="\n")


if __name__ == "__main__":
    main()
