"""How far a network for any balance is from the optimum at each of several balances.

    python -m benchmarks.balances --data pairs pairs_icbm --out result/balances

Without --run, of the weights that come with the code. For every pair and balance the excess, 0 for
the voxelwise optimum of the training's objective and 100 % for the average (`inference.optimum`):
on the network's grid, and of the whole head at native voxels, fused in windows as
`infer_sigleImage.py` does it; of the network alone, after the steps over the voxels that its output
is to have, and after --refine of them. Written to `balances.md` in --out after each pair. The
optima's losses, which take most of the time and do not depend on the network, are kept in
`optima.json` there for the next run.

A part of a head has another optimum: gradients determine a volume but for a constant, which the air
around a head fixes and the border of a part leaves free.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import losses
from benchmarks.common.measure import machine
from data.foreground import foreground, without_hot_voxels
from data.settings import RECIPES
from data.subjects import Subject, find_subjects
from data.volume import read_pair
from evaluation.scoring import Case, Settings
from inference import optimum
from inference.fuse import Head, run_network, window_side
from inference.optimum import FROM_NETWORK, STEPS, excess, parse_objective, refine
from inference.trained import TrainedModel, load_model
from training.weights import SHIPPED
from utils.cli import positive_int, run, share
from utils.files import replacing

BALANCES = (0.25, 0.4, 0.5, 0.6, 0.75)
GRIDS = ("network", "native")
CPU = torch.device("cpu")

Row = list[float]  # percent, one a balance


@dataclass(frozen=True)
class Pair:
    """A pair on one grid: its sources where they are compared, and how a network fuses them there.

    Attributes:
        mri, pet: (1, 1, D, H, W) in [0, 1].
        fuse: the network's output there as it is written, in [0, 1], the same shape.
    """

    mri: Tensor
    pet: Tensor
    fuse: Callable[[TrainedModel], Tensor]


def network_pair(subject: Subject, size: int) -> Pair:
    """A pair on the network's grid of `size` voxels a side."""
    mri, pet = (volume.float() for volume in Case(subject, Settings(size=size)).inputs)
    return Pair(mri, pet, lambda trained: trained.model(mri, pet).clamp(0, 1))


def read_head(subject: Subject) -> Head:
    """The head of a pair as native inference takes it."""
    recipe = RECIPES["paper"]
    pair = without_hot_voxels(read_pair(subject.mri, subject.pet), recipe.robust)
    return Head(pair, foreground(pair[0].array, recipe))


def native_pair(subject: Subject) -> Pair:
    """A pair's whole head, at its own voxels."""
    head = read_head(subject)

    def fuse(trained: TrainedModel) -> Tensor:
        def inputs(part: tuple[slice, ...]) -> list[Tensor]:
            return head.inputs(part, CPU)

        side = window_side(trained.size)
        return run_network(trained.model, side, head.shape, inputs).clamp(0, 1)

    return Pair(*head.inputs((), CPU), fuse)


class Optima:
    """What the optima of pairs have for a loss, found once and kept in a file.

    Args:
        path: of the file, JSON; need not exist.
        steps: of the descent.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.steps = steps
        self.known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def loss(self, pair: Pair, name: str) -> float:
        """The optimum's loss under an objective, NAME:MRI:PET.

        It is known if voxels, steps and the code that they go through are the same.
        """
        digest = hashlib.sha256(f"{name} {self.steps}".encode())
        for file in (*sorted(Path(losses.__file__).parent.glob("*.py")), Path(optimum.__file__)):
            digest.update(file.read_bytes())
        for source in (pair.mri, pair.pet):
            digest.update(source.contiguous().numpy())
        key = digest.hexdigest()
        if key not in self.known:
            objective = parse_objective(name, "--run")
            average = (pair.mri + pair.pet) / 2
            best = refine(average, pair.mri, pair.pet, objective, self.steps)
            self.known[key] = float(objective(best, pair.mri, pair.pet)[0])
            with replacing(self.path) as part:
                part.write_text(json.dumps(self.known, indent=1))
        return self.known[key]


@torch.no_grad()
def measure(pair: Pair, trained: TrainedModel, optima: Optima, steps: Sequence[int]) -> Row:
    """The excess in percent after each of some numbers of steps from the network's output."""
    objective = parse_objective(trained.objective, "--run")
    sources = pair.mri, pair.pet
    fused = pair.fuse(trained).float()
    average = float(objective((pair.mri + pair.pet) / 2, *sources)[0])
    least = optima.loss(pair, trained.objective)
    found = []
    for number in steps:
        refined = refine(fused, *sources, objective, number, FROM_NETWORK)
        found.append(100 * excess(float(objective(refined, *sources)[0]), least, average))
    return found


def row_name(where: str, steps: int) -> str:
    """Of a row of the table."""
    return f"{where}, refined by {steps}" if steps else where


def markdown(rows: dict[str, Row], balances: Sequence[float], steps: Sequence[int]) -> str:
    """A table in Markdown, with the mean of all cells for each number of steps."""
    lines = [f"| excess in % | {' | '.join(f't = {t:g}' for t in balances)} |"]
    lines.append("|---" * (len(balances) + 1) + "|")
    for name, values in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")
    for place, number in enumerate(steps):
        cells = [value for values in list(rows.values())[place :: len(steps)] for value in values]
        after = f"After {number} steps: mean" if number else "Mean"
        lines += ["", f"{after} {sum(cells) / len(cells):.1f} %, largest {max(cells):.1f} %."]
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders of pairs")
    parser.add_argument(
        "--run", type=Path, default=SHIPPED, help="(default: the weights that come with the code)"
    )
    parser.add_argument("--balances", nargs="+", type=share, default=list(BALANCES), metavar="T")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--size", type=positive_int, default=64, help="of the network's grid (64)")
    parser.add_argument(
        "--steps", type=positive_int, default=STEPS, help=f"to the optimum ({STEPS})"
    )
    parser.add_argument("--refine", type=positive_int, default=30, help="steps of refinement (30)")
    parser.add_argument("--out", type=Path, default=Path("result/balances"))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write everything.

    Raises:
        InputError: bad data, or a run that was trained for one balance.
    """
    args = build_parser().parse_args(argv)
    trained = load_model(args.run)
    subjects = [subject for root in args.data for subject in find_subjects(root).subjects]
    for t in args.balances:  # whatever is refused is refused before the first hour
        parse_objective(trained.turned_to(t).objective, "--balances")
    optima = Optima(args.out / "optima.json", args.steps)
    steps = sorted({0, trained.refine, args.refine})
    rows: dict[str, Row] = {}
    bar = tqdm(total=len(subjects) * len(args.grids) * len(args.balances), disable=None)
    for subject in subjects:
        for grid in args.grids:
            if grid == "network":
                pair, where = network_pair(subject, args.size), f"{args.size}^3"
            else:
                pair, where = native_pair(subject), "native"
            name = f"{subject.name}, {where}"
            names = [row_name(name, number) for number in steps]
            rows |= {name: [] for name in names}
            for t in args.balances:
                found = measure(pair, trained.turned_to(t), optima, steps)
                for name, value in zip(names, found, strict=True):
                    rows[name].append(value)
                bar.update()
        how = f"{args.steps} steps to the optimum"
        head = f"{trained.description}; {how}; {machine(CPU)}"
        with replacing(args.out / "balances.md") as part:
            part.write_text(f"{head}\n\n{markdown(rows, args.balances, steps)}\n")
    bar.close()
    print((args.out / "balances.md").read_text(), end="")


if __name__ == "__main__":
    run(main)
