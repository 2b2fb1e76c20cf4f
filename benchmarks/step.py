"""The whole network: inference and a training step, the fast path against the plain one, in one run.

    python -m benchmarks.step --size 128 --embed-dim 96
    python -m benchmarks.step --device cuda --amp --steps 200

Each path runs in a process of its own, so that its peak memory is its own. With --steps the fast path also trains
that many steps on one synthetic pair and the losses are printed.
"""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks.measure import machine, parse_device, peak_memory_gib, seconds
from losses import build_objective
from models import build_model


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="voxels a side (128)")
    parser.add_argument("--embed-dim", type=int, default=96, help="E (96)")
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs, the shortest counts (1)")
    parser.add_argument("--paths", nargs="+", default=["plain", "fast"], choices=["plain", "fast"])
    parser.add_argument("--passes", nargs="+", default=["forward", "step"], choices=["forward", "step"])
    parser.add_argument("--steps", type=int, default=0, help="training steps with the fast path (0)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the path to measure in this process
    return parser


def measure(args: argparse.Namespace) -> dict:
    """Seconds and peak GiB of one path; memory is read after each pass."""
    torch.manual_seed(0)
    model = build_model("dc2fusion", embed_dim=args.embed_dim, path=args.measure).to(args.device)
    objective = build_objective("ssim-gradient-intensity")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    mri, pet = torch.rand(2, 1, 1, *(args.size,) * 3, device=args.device)

    def forward() -> torch.Tensor:
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.amp):
            return model(mri, pet)

    def step() -> float:
        loss, _ = objective(forward(), mri, pet)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    results = {}
    if "forward" in args.passes:
        model.eval()
        with torch.no_grad():
            results["forward seconds"] = seconds(forward, args.device, args.repeats)
        results["forward GiB"] = peak_memory_gib(args.device)
    model.train()
    if "step" in args.passes:
        results["step seconds"] = seconds(step, args.device, args.repeats)
        results["step GiB"] = peak_memory_gib(args.device)
    if args.steps:
        results["losses"] = [step() for _ in range(args.steps)]
    return results


def main() -> None:
    """Measure both paths, each in its own process, and print the table."""
    args = build_parser().parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    results = {}
    for path in args.paths:
        steps = str(args.steps if path == "fast" else 0)
        command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], "--steps", steps, "--measure", path]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[path] = json.loads(output.splitlines()[-1])
    print(machine(args.device))
    print(f"DC2Fusion, E={args.embed_dim}, {args.size}^3, batch 1, {'bfloat16 autocast' if args.amp else 'float32'}")
    print("| | " + " | ".join(results) + " | plain / fast |\n|---|" + "---|" * (len(results) + 1))
    for key in next(iter(results.values())):
        if key != "losses":
            values = [result[key] for result in results.values()]
            ratio = f"{values[0] / values[1]:.2f}" if len(values) == 2 else ""
            print(f"| {key} | " + " | ".join(f"{value:.3g}" for value in values) + f" | {ratio} |")
    if args.steps:
        losses = results["fast"]["losses"]
        print("loss every 20 steps: " + " ".join(f"{loss:.3f}" for loss in losses[::20]) + f" .. {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
