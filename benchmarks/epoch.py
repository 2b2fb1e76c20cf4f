"""A real epoch of training, with and without loading data, by the trainer's own loop.

    python -m benchmarks.epoch --subjects 8 --size 128 --embed-dim 24
    python -m benchmarks.epoch --device cuda --data /data/adni --embed-dim 96 --amp --workers 8
    python -m benchmarks.epoch --shipped --labels /data/labels --subjects 20 --workers 0 1 2

Without: the first batch of an epoch again and again, augmented and on the device already, so that
loading counts everything that a step does before the network. Both kinds of epoch take turns and
the shortest of each counts. The data come from the disk cache, filled beforehand, as in every epoch
of a run after its first. With --shipped the configuration is that of the weights that come with the
code, whose pairs are drawn anew for every step; then it also prints how many of 96^3 voxels are
drawn in a second.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common.measure import machine, parse_device
from data.phantom.cohort import write_cohort
from data.subjects import find_subjects
from data.synthesis.dataset import SyntheticPairs
from training.config import TrainConfig
from training.datasets import build_datasets
from training.devices.distributed import Process
from training.trainer import Trainer, build_trainer
from training.weights import SHIPPED, read

DRAWN_SIZE = 96  # voxels a side


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="data set (synthetic subjects)")
    parser.add_argument("--subjects", type=int, default=8, help="pairs an epoch (8)")
    parser.add_argument("--size", type=int, default=128, help="voxels a side (128)")
    parser.add_argument("--embed-dim", type=int, default=24, help="E (24)")
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[2], help="processes that load data (2)"
    )
    parser.add_argument(
        "--shipped", action="store_true", help="the network, size and drawn pairs of the weights"
    )
    parser.add_argument("--labels", type=Path, help="label maps that pairs are drawn from, too")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each kind (3)")
    return parser


def prepare_trainer(args: argparse.Namespace, folder: Path, workers: int) -> Trainer:
    """A trainer on the first pairs of the data set, its cache filled; it writes to `folder`."""
    options = {"epochs": 2 * args.epochs + 1, "workers": workers, "out": str(folder)}
    if args.shipped:
        source = "both" if args.labels else "heads"
        options |= {"synthesis": source, "labels": args.labels and str(args.labels)}
        # of one size: an epoch is held against one of its batches, repeated
        options |= {"drawn": args.subjects, "drawn_sizes": (), "name": f"workers-{workers}"}
        config = replace(read(SHIPPED).config, **options)
        return build_trainer(Process(0, 1, args.device), config, build_datasets(config, [], []))
    if args.data is None and not (folder / "data").exists():
        write_cohort(folder / "data", args.subjects)
    subjects = find_subjects(args.data or folder / "data").subjects[: args.subjects]
    config = TrainConfig(
        embed_dim=args.embed_dim,
        size=args.size,
        amp=args.amp,
        **options,
    )
    datasets = build_datasets(config, subjects, subjects[:1])
    return build_trainer(Process(0, 1, args.device), config, datasets)


def epoch_seconds(trainer: Trainer, epochs: int) -> tuple[float, float]:
    """The shortest epoch with loading, and the shortest on one repeated batch."""
    loader, deferred = trainer.loader, trainer.train.deferred
    first = next(iter(loader))
    finished = dict(zip(trainer.published.inputs, trainer._images(first), strict=True))
    repeated = [first | finished] * len(loader)
    times = {True: [], False: []}
    trainer.train_epoch(0)  # starts the workers
    for epoch in range(epochs):
        for loading in (True, False):
            trainer.loader = loader if loading else repeated
            # Not seen by the loading processes, which have their own copy and are idle during a
            # repeated epoch.
            trainer.train.deferred = deferred and loading
            if trainer.process.device.type == "cuda":
                torch.cuda.synchronize(trainer.process.device)
            started = time.perf_counter()
            trainer.train_epoch(1 + epoch)
            times[loading].append(time.perf_counter() - started)
    return min(times[True]), min(times[False])


def drawn_a_second(drawn: SyntheticPairs, device: torch.device) -> float:
    """Pairs of DRAWN_SIZE^3 of these anatomies that are drawn in a second, by all threads."""
    pairs = SyntheticPairs(drawn.anatomies, DRAWN_SIZE, len(drawn), seed=0)
    pairs.defer_to(device)
    started = time.perf_counter()
    for index in range(len(pairs)):
        pairs.finish({}, 0, index)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return len(pairs) / (time.perf_counter() - started)


def main() -> None:
    """Measure and print, for each number of loading processes."""
    args = build_parser().parse_args()
    print(machine(args.device))
    with tempfile.TemporaryDirectory() as folder:
        for number, workers in enumerate(args.workers):
            trainer = prepare_trainer(args, Path(folder), workers)
            if args.shipped and number == 0:
                rate = drawn_a_second(trainer.train, args.device)
                print(f"{rate:.2f} drawn pairs of {DRAWN_SIZE}^3 a second")
            report(args, trainer)


def report(args: argparse.Namespace, trainer: Trainer) -> None:
    """Measure and print both epochs of a trainer and their ratio."""
    config, pairs = trainer.config, len(trainer.loader.dataset)
    loading, repeated = epoch_seconds(trainer, args.epochs)
    if trainer.log:
        trainer.log.close()
    depths = "-".join(map(str, config.depths))
    network = f"DC2Fusion, E={config.embed_dim}, {depths} blocks, {config.size}^3, batch 1"
    precision = "bfloat16 autocast" if config.amp else "float32"
    print(f"{network}, {precision}, {config.workers} workers, {pairs} pairs")
    print("| an epoch | seconds |\n|---|---|")
    print(f"| with loading | {loading:.4g} |")
    print(f"| one repeated batch | {repeated:.4g} |")
    print(f"| ratio | {loading / repeated:.3f} |")


if __name__ == "__main__":
    main()
