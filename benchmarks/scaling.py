"""Cost against size: seconds and peak memory of the fast backend, with a picture.

    python -m benchmarks.scaling --sizes 64 96 128 --picture docs/pictures/scaling.png
    python -m benchmarks.scaling --device cuda --dtype bfloat16 --embed-dim 96 --sizes 64 128 192

Each size runs in a process of its own. Below the table stands the power of the number of voxels
that each column grows with between the smallest and the largest size: 1 is linear, and what does
not depend on the size makes it less.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.common.measure import machine, parse_device
from benchmarks.step import DTYPES, measure_apart

COLUMNS = (("forward", "seconds"), ("step", "seconds"), ("forward", "GiB"), ("step", "GiB"))


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[64, 96, 128], help="voxels a side (64 96 128)"
    )
    parser.add_argument("--embed-dim", type=int, default=24, help="E (24)")
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="PNG to write")
    return parser


def measure_sizes(args: argparse.Namespace) -> dict[int, list[float]]:
    """For each size the columns of the table."""
    rows = {}
    for size in args.sizes:
        flags = {"size": size, "embed-dim": args.embed_dim, "repeats": args.repeats}
        flags |= {"device": args.device, "dtype": args.dtype}
        arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        result = measure_apart(arguments, "fast")
        rows[size] = [result[unit][name] for name, unit in COLUMNS]
    return rows


def powers(rows: dict[int, list[float]]) -> list[float]:
    """How each column grows with the voxels: p in cost ~ voxels^p, between the two ends."""
    smallest, largest = min(rows), max(rows)
    ratios = (large / small for small, large in zip(rows[smallest], rows[largest], strict=True))
    return [math.log(ratio) / (3 * math.log(largest / smallest)) for ratio in ratios]


def draw(rows: dict[int, list[float]], title: str, path: Path) -> None:
    """Seconds and memory over millions of voxels, seconds beside a line through 0."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    voxels = [size**3 / 1e6 for size in rows]
    for axes, unit in zip(figure.subplots(1, 2), ("seconds", "GiB"), strict=True):
        for column, (name, own) in enumerate(COLUMNS):
            if own == unit:
                values = [row[column] for row in rows.values()]
                (line,) = axes.plot(
                    voxels, values, "o-", label="training step" if name == "step" else "inference"
                )
                if unit == "seconds":
                    axes.plot(
                        [0, voxels[-1]], [0, values[-1]], ":", color=line.get_color(), alpha=0.6
                    )
        axes.set_xlabel("million voxels")
        axes.set_ylabel("seconds" if unit == "seconds" else "peak memory, GiB")
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
        axes.legend()
        top = axes.secondary_xaxis("top")
        top.set_xticks(voxels, [f"{size}³" for size in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure every size, print the table and draw the picture."""
    args = build_parser().parse_args()
    args.sizes.sort()
    rows = measure_sizes(args)
    about = f"DC2Fusion, E={args.embed_dim}, batch 1, {args.dtype}, fast backend"
    print(machine(args.device), about, "", sep="\n")
    print(
        "| size | million voxels | " + " | ".join(f"{name} {unit}" for name, unit in COLUMNS) + " |"
    )
    print("|---" * (2 + len(COLUMNS)) + "|")
    for size, row in rows.items():
        print(
            f"| {size} | {size**3 / 1e6:.3g} | "
            + " | ".join(f"{value:.3g}" for value in row)
            + " |"
        )
    if len(rows) > 1:
        print(
            "| power of voxels | | " + " | ".join(f"{power:.2f}" for power in powers(rows)) + " |"
        )
    if args.picture:
        draw(rows, f"{about}\n{machine(args.device)}", args.picture)


if __name__ == "__main__":
    main()
