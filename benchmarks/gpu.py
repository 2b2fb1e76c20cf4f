"""Everything that is to be known of a GPU in one go, written to a folder, with a short table last.

    python -m benchmarks.gpu --out result/gpu

Checks that both paths agree on the device, then measures the full model at 128^3: plain float32 against the fast path
in float32, TF32, bfloat16, compiled, compiled with CUDA graphs, with checkpointed activations and without each of the
Triton kernels; every kernel beside PyTorch's operations; the time by kind of operation; 300 training steps in bfloat16
beside float32; the 7x7x7 convolution alone; cost against size; an epoch with and without data. A part
that fails is named in the table and in the report, and the others still run.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import step
from benchmarks.measure import machine, parse_device
from benchmarks.operations import operations_table
from models import build_model
from models.kernels import KERNELS

BASE = "plain float32"
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    BASE: ("plain", []),
    "fast float32": ("fast", []),
    "fast TF32": ("fast", ["--dtype", "tf32"]),
    "fast bfloat16": ("fast", ["--dtype", "bfloat16"]),
    "fast bfloat16 checkpointed": ("fast", ["--dtype", "bfloat16", "--checkpoint-activations"]),
    "fast bfloat16 compiled": ("fast", ["--dtype", "bfloat16", "--compile", "default"]),
    "fast bfloat16 compiled, CUDA graphs": ("fast", ["--dtype", "bfloat16", "--compile", "reduce-overhead"]),
}
# Which kernels pay: the network without one of them, and without any.
CONFIGURATIONS |= {
    f"fast bfloat16 without {name}": ("fast", ["--dtype", "bfloat16", "--kernels", ",".join(others)])
    for name, others in {k: [other for other in KERNELS if other != k] for k in KERNELS}.items()
}
CONFIGURATIONS["fast bfloat16 without kernels"] = ("fast", ["--dtype", "bfloat16", "--kernels", "none"])
CURVES = {"float32": [], "bfloat16": ["--dtype", "bfloat16"]}


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("result/gpu"), help="folder to write (result/gpu)")
    parser.add_argument("--device", type=parse_device, default="cuda")
    parser.add_argument("--size", type=int, default=128, help="voxels a side (128)")
    parser.add_argument("--embed-dim", type=int, default=96, help="E (96)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="of the loss curves (300)")
    parser.add_argument("--sizes", nargs="*", default=["64", "96", "128", "160", "192"], help="cost against size")
    parser.add_argument("--configurations", nargs="+", default=list(CONFIGURATIONS), choices=CONFIGURATIONS)
    return parser


def agreement(device: torch.device, variant: str) -> dict[str, float]:
    """Relative differences of the fast path from the plain one after a step at E=24, float32 without TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    results = {}
    for path in ("plain", "fast"):
        torch.manual_seed(0)
        model = build_model("dc2fusion", embed_dim=24, variant=variant, path=path).to(device).eval()
        pair = torch.rand(2, 2, 1, 44, 40, 33, generator=torch.Generator().manual_seed(1)).to(device)
        fused = model(*pair)
        fused.square().mean().backward()
        results[path] = fused.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])
    pairs = zip(("forward", "gradients"), results["fast"], results["plain"], strict=True)
    return {name: ((ours - plain).norm() / plain.norm()).item() for name, ours, plain in pairs}


def attempt(failures: dict[str, str], name: str, part: Callable[[], object]) -> object:
    """The part's result, or None with the reason kept."""
    print(f"{name} ..", flush=True)
    try:
        return part()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        failures[name] = str(error).splitlines()[0]
        return None


def measure_all(args: argparse.Namespace, failures: dict[str, str]) -> dict:
    """Figures of every part by name."""
    common = ["--size", str(args.size), "--embed-dim", str(args.embed_dim), "--device", str(args.device)]
    timing = [*common, "--repeats", str(args.repeats), "--operations"]
    figures: dict = {"agreement": {}, "configurations": {}, "curves": {}, "ceilings": {}}
    for variant in ("paper", "released"):
        name = f"agreement, {variant}"
        figures["agreement"][variant] = attempt(failures, name, lambda v=variant: agreement(args.device, v))
    for name in args.configurations:
        path, flags = CONFIGURATIONS[name]
        result = attempt(failures, name, lambda p=path, f=flags: step.measure_apart([*timing, *f], p))
        figures["configurations"][name] = result
    for name, flags in CURVES.items() if args.steps else ():
        flags = [*common, *flags, "--passes", "forward", "--steps", str(args.steps)]
        result = attempt(failures, f"loss curve, {name}", lambda f=flags: step.measure_apart(f, "fast"))
        figures["curves"][name] = result and result["losses"]
    for dtype in step.DTYPES:
        options = step.build_parser().parse_args([*common, "--dtype", dtype])
        figures["ceilings"][dtype] = attempt(failures, f"ceilings, {dtype}", lambda o=options: step.ceilings(o))
    return figures


def run_others(args: argparse.Namespace, failures: dict[str, str]) -> dict[str, str]:
    """What the other benchmarks print, by name."""
    device = ["--device", str(args.device)]
    commands = {"blend_conv": device, "epoch": [*device, "--embed-dim", str(args.embed_dim), "--size", str(args.size)]}
    if args.device.type == "cuda":
        commands["epoch"].append("--amp")
        commands["kernels"] = [*device, "--embed-dim", str(args.embed_dim), "--size", str(args.size)]
    if args.sizes:
        picture = str(args.out / "scaling.png")
        commands["scaling"] = [
            *device,
            "--embed-dim",
            str(args.embed_dim),
            "--picture",
            picture,
            "--sizes",
            *args.sizes,
        ]
        commands["scaling"] += ["--dtype", "bfloat16"] if args.device.type == "cuda" else []

    def output(name: str) -> str:
        command = [sys.executable, "-m", f"benchmarks.{name}", *commands[name]]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    texts = {name: attempt(failures, name, lambda n=name: output(n)) for name in commands}
    return {name: text for name, text in texts.items() if text}


def write_report(args: argparse.Namespace, figures: dict, texts: dict[str, str], summary: list[str]) -> None:
    """report.md, figures.json and losses.csv in the folder."""
    (args.out / "figures.json").write_text(json.dumps(figures, indent=1))
    lines = ["# " + machine(args.device), "", *summary]
    measured = {name: result for name, result in figures["configurations"].items() if result}
    limits = figures["ceilings"].get("float32")
    if limits:
        lines += ["", f"Of the ceilings in float32 ({limits['matrix rate'] / 1e12:.3g} TFLOP/s):", ""]
        lines += step.fractions_table(measured, limits)
    for name in step.PASSES:
        times = {configuration: result["operations"][name] for configuration, result in measured.items()}
        if times:
            lines += ["", f"## {name}, by kind of operation", "", *operations_table(times)]
    for name, text in texts.items():
        lines += ["", f"## benchmarks.{name}", "", text]
    (args.out / "report.md").write_text("\n".join(lines) + "\n")
    curves = {name: losses for name, losses in figures["curves"].items() if losses}
    with open(args.out / "losses.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *curves])
        writer.writerows([index + 1, *losses] for index, losses in enumerate(zip(*curves.values(), strict=False)))


def summarise(args: argparse.Namespace, figures: dict, failures: dict[str, str]) -> list[str]:
    """The short table, with the agreement above it and what failed below."""
    lines = []
    for variant, differences in figures["agreement"].items():
        if differences:
            values = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
            lines.append(f"fast against plain, {variant}, float32: {values}")
    lines += ["", f"E={args.embed_dim}, {args.size}^3, batch 1; times faster and share of memory are of {BASE}", ""]
    lines += ["| | forward s | faster | step s | faster | peak GiB | share |", "|---" * 7 + "|"]
    base = figures["configurations"].get(BASE)
    for name, result in figures["configurations"].items():
        if result:
            forward, whole, peak = *result["seconds"].values(), result["GiB"]["step"]
            ratios = [""] * 3
            if base:
                ratios = [f"{base['seconds']['forward'] / forward:.1f}", f"{base['seconds']['step'] / whole:.1f}"]
                ratios.append(f"{peak / base['GiB']['step']:.2f}")
            lines.append(
                f"| {name} | {forward:.4g} | {ratios[0]} | {whole:.4g} | {ratios[1]} | {peak:.3g} | {ratios[2]} |"
            )
    for name, losses in figures["curves"].items():
        if losses:
            last = losses[-20:]
            lines.append(f"\n{name}: loss {losses[0]:.3f} -> {sum(last) / len(last):.4f} after {len(losses)} steps")
    return lines + [f"\nfailed: {name}: {reason}" for name, reason in failures.items()]


def main() -> None:
    """Measure everything, write the folder, print the short table."""
    args = build_parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    figures = measure_all(args, failures)
    texts = run_others(args, failures)
    summary = summarise(args, figures, failures)
    write_report(args, figures, texts, summary)
    print(f"\n{machine(args.device)}\neverything is in {args.out}/\n")
    print(*summary, sep="\n")


if __name__ == "__main__":
    main()
