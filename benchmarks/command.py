"""From the command to finished files: what someone with one head waits for.

    python -m benchmarks.command --voxels 2 1 --repeats 2
    python -m benchmarks.command --mri t1.nii.gz --pet fdg.nii.gz

A synthetic head has 91x109x91 voxels at 2 mm and 182x218x182 at 1 mm. Everything runs in processes
of its own and takes turns in one run: importing PyTorch, which nothing here can do without; the
start, which is all imports and the shipped weights; the whole command. Prints the shortest wall
time, seconds of CPU time (all threads together), peak memory, and the time in imports of PyTorch.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.common.measure import machine
from data.phantom.cohort import write_cohort
from data.subjects import PUBLISHED_MRI, PUBLISHED_PET, published_file

ROOT = Path(__file__).resolve().parents[1]
PYTORCH = "import torch"
START = """
import inference.batch, inference.fuse, inference.optimum, inference.outputs
from inference.trained import load_model
from training.weights import SHIPPED
load_model(SHIPPED)
"""
# A process begins with the memory of the one that starts it, so a small one has to.
STOPWATCH = """
import os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
command = [sys.executable, *sys.argv[1:]]
started = time.perf_counter()
process = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
_, status, used = os.wait4(process, 0)
wall = time.perf_counter() - started
print(os.waitstatus_to_exitcode(status), wall, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


class Cost(NamedTuple):
    """What a process took."""

    wall: float  # seconds
    cpu: float  # seconds
    gib: float  # at its peak


def cost_of(arguments: Sequence[str], threads: int) -> Cost:
    """Run Python in a process of its own, in the root of the project.

    Raises:
        RuntimeError: it ended with another status than 0.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STOPWATCH, *arguments]
    ended = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    status, wall, cpu, peak = map(float, ended.stdout.split())
    if status:
        raise RuntimeError(f"{arguments[0]} ended with status {status:.0f}")
    return Cost(wall, cpu, peak / 2**20)


def commands(args: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """What is run, by the name of its row."""
    rows = {"import torch": ["-c", PYTORCH], "start": ["-c", START]}
    pairs = {"the pair": (args.mri, args.pet)} if args.mri else {}
    for edge in [] if args.mri else args.voxels:
        root = folder / f"{edge:g}mm"
        (name,) = write_cohort(root, 1, voxel_mm=edge)
        files = (published_file(root, name, ending) for ending in (PUBLISHED_MRI, PUBLISHED_PET))
        pairs[f"a head at {edge:g} mm"] = tuple(files)
    for name, (mri, pet) in pairs.items():
        flags = {"--mri": mri, "--pet": pet, "--output": folder / "fused.nii.gz"}
        texts = [str(text) for item in flags.items() for text in item]
        rows[name] = [str(ROOT / "infer_sigleImage.py"), *texts, "--overwrite"]
    return rows


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--voxels", type=float, nargs="+", default=[2.0, 1.0], help="mm a side (2 1)"
    )
    parser.add_argument("--mri", type=Path, help="a pair instead of synthetic heads")
    parser.add_argument("--pet", type=Path)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--repeats", type=int, default=2, help="runs, the best counts (2)")
    return parser


def main() -> None:
    """Measure and print the table."""
    args = build_parser().parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = commands(args, Path(folder))
        costs = {name: [] for name in rows}
        for _ in range(args.repeats):
            for name, arguments in rows.items():
                costs[name].append(cost_of(arguments, args.threads))
    best = {name: Cost(*map(min, zip(*found, strict=True))) for name, found in costs.items()}
    print(machine(torch.device("cpu")))
    print("| | seconds | CPU seconds | GiB | imports of PyTorch |\n|---|---|---|---|---|")
    for name, cost in best.items():
        ratio = cost.wall / best["import torch"].wall
        print(f"| {name} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.gib:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
