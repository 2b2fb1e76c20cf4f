"""The loss on held-out pairs from the first step on, one curve for each initialisation.

    python -m benchmarks.convergence --pairs FOLDER --out result/convergence
    python -m benchmarks.convergence --network paper --lr 1e-4 --warm-up 0 --init identity default
    python -m benchmarks.convergence --drawn 103 --fusion average --switch R10 --ema 0.985 --decay

Trains on synthetic heads with the paper's recipe, one pair a step, and measures every few steps the
loss of the head that follows them, which no training sees, and of the pairs in --pairs. With
--drawn as many pairs are drawn from procedural heads in each pass, as `train_diff.py --synthesis
heads` does. Writes `convergence.csv` (a line for each step that was measured) and `convergence.png`
to --out, and prints for each curve the seconds of its training, its start, its highest point over
the start, its end, and where --optimum is given the excess: (loss - optimum) / (average's loss -
optimum).
"""

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset
from tqdm import tqdm

from benchmarks.common.measure import machine, parse_device
from data.dataset import PairDataset
from data.phantom.cohort import write_cohort
from data.settings import Cache, Preprocessing
from data.subjects import find_subjects
from data.synthesis.anatomy import find_anatomies
from data.synthesis.dataset import MixedPairs, SyntheticPairs
from inference.optimum import excess, parse_objective, refine
from losses import Objective
from models import build_model
from models.dc2fusion import NETWORKS
from models.initialisation import INITIALISATIONS
from utils.cli import decay
from utils.errors import InputError, report

Pair = tuple[Tensor, Tensor]  # MRI and PET, (1, 1, size, size, size) each
Curve = dict[int, dict[str, float]]  # step -> held-out pair -> loss


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("result/convergence"))
    parser.add_argument("--init", nargs="+", default=["identity"], choices=INITIALISATIONS)
    parser.add_argument("--network", default="compact", choices=NETWORKS)
    parser.add_argument("--embed-dim", type=int, help="E (the network's)")
    parser.add_argument("--depths", type=int, nargs="+", help="blocks a stage (the network's)")
    parser.add_argument(
        "--objective", default="ssim-gradient-intensity:2:1", help="NAME:MRI:PET (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-4, help="of Adam (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=10, help="steps (%(default)s)")
    parser.add_argument(
        "--decay", action="store_true", help="let the rate fall to 0, (1 - step / steps)^0.9"
    )
    parser.add_argument("--every", type=int, default=5, help="steps between measurements (5)")
    parser.add_argument("--size", type=int, default=64, help="voxels a side (64)")
    parser.add_argument("--heads", type=int, default=7, help="synthetic heads to train on (7)")
    parser.add_argument("--voxel-mm", type=float, default=3.5, help="of the heads (3.5)")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="held-out pairs, folders")
    parser.add_argument("--optimum", type=int, default=0, help="steps to the optima (0: without)")
    parser.add_argument("--drawn", type=int, default=0, help="pairs that are drawn a pass (0)")
    parser.add_argument("--crop", type=int, help="voxels a side in training (--size)")
    parser.add_argument("--fusion", help="fusion strategy (the variant's own)")
    parser.add_argument("--switch", nargs="+", default=[], help="as train_diff.py's (none)")
    parser.add_argument("--ema", type=decay, default=0.0, help="as train_diff.py's (0, none)")
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    return parser


def read_pairs(args: argparse.Namespace) -> tuple[PairDataset | MixedPairs, dict[str, Pair]]:
    """The pairs to train on, and the held-out ones by name."""
    heads_folder = args.out / "heads"
    write_cohort(heads_folder, args.heads + 1, args.seed, args.voxel_mm, tqdm)
    heads = find_subjects(heads_folder).subjects
    side = args.crop or args.size
    rest = Cache("memory"), args.seed
    train = PairDataset(heads[: args.heads], Preprocessing(size=side), *rest, augment=True)
    if args.drawn:
        anatomies = find_anatomies("heads", None, args.out / "cache")
        train = MixedPairs(train, SyntheticPairs(anatomies, side, args.drawn, args.seed))
    held_out = list(heads[args.heads :])
    for folder in args.pairs:
        held_out += find_subjects(folder).subjects
    items = PairDataset(held_out, Preprocessing(size=args.size), *rest)
    measured = [items[0, index] for index in range(len(items))]
    return train, {item["name"]: as_pair(item, args.device) for item in measured}


def as_pair(item: dict, device: torch.device) -> Pair:
    """MRI and PET of an item of a data set as a batch of one."""
    return item["mri"][None].to(device), item["pet"][None].to(device)


def rate(step: int, args: argparse.Namespace) -> float:
    """The learning rate of a step, counted from 0."""
    warm = min(1.0, (step + 1) / args.warm_up) if args.warm_up else 1.0
    decayed = (1 - step / args.steps) ** 0.9 if args.decay else 1.0
    return args.lr * warm * decayed


def order(train: Dataset, seed: int) -> Iterator[tuple[int, int]]:
    """(epoch, index) without end, each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    epoch = 0
    while True:
        for index in torch.randperm(len(train), generator=generator).tolist():
            yield epoch, index
        epoch += 1


def curve_of(
    init: str,
    objective: Objective,
    train: Dataset,
    held_out: dict[str, Pair],
    args: argparse.Namespace,
) -> tuple[Curve, float]:
    """Train one network and measure it on the way: its curve, and the seconds of the training."""
    torch.manual_seed(args.seed)
    size = NETWORKS[args.network]
    options = {
        "embed_dim": args.embed_dim or size["embed_dim"],
        "depths": args.depths or size["depths"],
        "head": size["head"],
        "fusion": args.fusion,
        "switched": tuple(args.switch),
    }
    model = build_model("dc2fusion", init=init, **options).to(args.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args.ema)) if args.ema else model
    draws = order(train, args.seed)
    curve = {0: measure(model, objective, held_out)}
    seconds = 0.0
    for step in tqdm(range(args.steps), init, unit="step"):
        started = time.perf_counter()
        pair = as_pair(train[next(draws)], args.device)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args)
        model.train()
        loss, _ = objective(model(*pair), *pair)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if args.ema:
            mean.update_parameters(model)
        seconds += time.perf_counter() - started
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            curve[step + 1] = measure(mean, objective, held_out)
    return curve, seconds


@torch.no_grad()
def measure(model: nn.Module, objective: Objective, held_out: dict[str, Pair]) -> dict[str, float]:
    """The loss of each held-out pair, fused as it is written."""
    model.eval()
    losses = {}
    for name, pair in held_out.items():
        losses[name] = objective(model(*pair).clamp(0, 1), *pair)[0].item()
    return losses


def references(
    objective: Objective, held_out: dict[str, Pair], steps: int
) -> dict[str, dict[str, float]]:
    """For each pair the loss of the average, and of the voxelwise optimum if it gets steps."""
    found = {}
    for name, (mri, pet) in held_out.items():
        average = (mri + pet) / 2
        found[name] = {"average": objective(average, mri, pet)[0].item()}
        if steps:
            best = refine(average, mri, pet, objective, steps)
            found[name]["optimum"] = objective(best, mri, pet)[0].item()
    return found


def write_csv(path: Path, curves: dict[str, Curve]) -> None:
    """A line for each measured step, a column for each initialisation and pair."""
    first = next(iter(curves.values()))
    columns = [(init, name) for init in curves for name in first[0]]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *(f"{init} {name}" for init, name in columns)])
        for step in first:
            writer.writerow([step, *(f"{curves[init][step][name]:.5f}" for init, name in columns)])


def draw(
    path: Path, curves: dict[str, Curve], lines: dict[str, dict[str, float]], title: str
) -> None:
    """One panel for each pair, with the average's and the optimum's losses as level lines."""
    figure = Figure(figsize=(4 * len(lines), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=9, wrap=True)  # one panel is narrower than it
    panels = figure.subplots(1, len(lines), squeeze=False)[0]
    for axes, (name, levels) in zip(panels, lines.items(), strict=True):
        for init, curve in curves.items():
            axes.plot(list(curve), [losses[name] for losses in curve.values()], label=init)
        for (level, loss), style in zip(levels.items(), ("--", ":"), strict=False):
            axes.axhline(loss, color="grey", linestyle=style, label=level)
        axes.set(title=name, xlabel="step", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def table(curves: dict[str, Curve], lines: dict[str, dict[str, float]]) -> Iterator[str]:
    """Lines of the printed table."""
    yield "| pair | average | optimum | init | start | highest / start | end | excess |"
    yield "|---" * 8 + "|"
    for name, levels in lines.items():
        for init, curve in curves.items():
            losses = [measured[name] for measured in curve.values()]
            start, end, average = losses[0], losses[-1], levels["average"]
            best = levels.get("optimum")
            cells = [name, f"{average:.3f}", f"{best:.3f}" if best else "", init, f"{start:.3f}"]
            cells += [f"{max(losses) / start:.3f}", f"{end:.3f}"]
            cells.append(f"{100 * excess(end, best, average):.0f} %" if best else "")
            yield "| " + " | ".join(cells) + " |"


def run(args: argparse.Namespace) -> None:
    """Train, measure, write and print."""
    objective = parse_objective(args.objective, "--objective")
    args.out.mkdir(parents=True, exist_ok=True)
    train, held_out = read_pairs(args)
    lines = references(objective, held_out, args.optimum)
    found = {init: curve_of(init, objective, train, held_out, args) for init in args.init}
    curves = {init: curve for init, (curve, _) in found.items()}
    rate = f"lr {args.lr:g}, warm-up {args.warm_up}"
    title = f"{args.network}, {args.objective}, {rate}, {args.size}^3"
    write_csv(args.out / "convergence.csv", curves)
    draw(args.out / "convergence.png", curves, lines, title)
    print(machine(args.device), title, sep="\n")
    for init, (_, seconds) in found.items():
        print(f"{init}: {args.steps} steps in {seconds:.0f} s without measuring")
    print("", *table(curves, lines), sep="\n")


def main() -> None:
    """The command line."""
    try:
        run(build_parser().parse_args())
    except InputError as error:
        report(error)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
