"""What windows of native inference cost, and what they give.

    python -m benchmarks.windows --data pairs --windows 48:6 64:6 96:6 0

For every pair and kind of window, VOXELS:SHARED a side, 0 for the whole head at once: voxels
computed against those of the head, CPU seconds, and the loss of the run's objective, beside the
average's. All kinds take turns in one run.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.balances import CPU, read_head
from benchmarks.common.measure import machine
from data.subjects import find_subjects
from inference.fuse import OVERLAP, Head, run_network, window_side
from inference.optimum import parse_objective
from inference.trained import TrainedModel, load_model
from models.balance import NEUTRAL
from training.weights import SHIPPED
from utils.cli import positive_int, run


class Window(NamedTuple):
    """Voxels a side of a window, 0 for the whole head, and those that neighbours share."""

    side: int
    shared: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """VOXELS:SHARED, or VOXELS with the share that inference takes.

        Raises:
            ValueError: another form, or neighbours that would share everything.
        """
        side, _, shared = text.partition(":")
        window = cls(int(side), int(shared) if shared else int(OVERLAP * int(side)))
        if window.side < 0 or not 0 <= window.shared < max(window.side, 1):
            raise ValueError(
                f"{text}: neighbours share at least 0 voxels and fewer than a side has"
            )
        return window

    def __str__(self) -> str:
        return f"{self.side}^3, {self.shared} shared" if self.side else "the whole head"


class Result(NamedTuple):
    """Of one window on one pair: voxels computed by those of the head, CPU seconds, loss."""

    voxels: float
    seconds: float
    loss: float


@torch.no_grad()
def measure(trained: TrainedModel, head: Head, window: Window) -> Result:
    """One head fused in windows."""
    computed = []

    def inputs(part: tuple[slice, ...]) -> list[Tensor]:
        pair = head.inputs(part, CPU)
        if len(part) != 1:  # the gate asks for planes, of which nothing is computed
            computed.append(pair[0].numel())
        return pair

    side = window.side or max(head.shape)
    started = time.process_time()
    fused = run_network(trained.model, side, head.shape, inputs, overlap=window.shared / side)
    seconds = time.process_time() - started
    loss = loss_of(trained, fused, head)
    return Result(sum(computed) / math.prod(head.shape), seconds, loss)


@torch.no_grad()
def loss_of(trained: TrainedModel, fused: Tensor | None, head: Head) -> float:
    """The objective of a fused head, None for the average."""
    sources = head.inputs((), CPU)
    volume = sum(sources) / 2 if fused is None else fused.clamp(0, 1)
    return float(parse_objective(trained.objective, "--run")(volume, *sources)[0])


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of pairs")
    parser.add_argument(
        "--run", type=Path, default=SHIPPED, help="(default: the weights that come with the code)"
    )
    parser.add_argument("--windows", nargs="+", type=Window.parse, help="(what inference takes)")
    parser.add_argument("--threads", type=positive_int, default=1, help="CPU threads (1)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table for each pair."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    trained = load_model(args.run)
    if trained.turns:
        trained = trained.turned_to(NEUTRAL)
    windows = args.windows or [Window.parse(str(window_side(trained.size)))]
    print(machine(CPU))
    for subject in (subject for root in args.data for subject in find_subjects(root).subjects):
        head = read_head(subject)
        average = loss_of(trained, None, head)
        size = "x".join(map(str, head.shape))
        print(f"\n{subject.name}, a head of {size} voxels; loss of the average {average:.4f}\n")
        print("| windows | computed / head | CPU seconds | loss |\n|---|---|---|---|")
        for window in tqdm(windows, disable=None):
            result = measure(trained, head, window)
            print(f"| {window} | {result.voxels:.2f} | {result.seconds:.2f} | {result.loss:.4f} |")


if __name__ == "__main__":
    run(main)
