"""Learned registration against affine and ANTs SyN, on synthetic heads with known labels.

python -m benchmarks.registration --folder DIR               makes the heads (once)
python -m benchmarks.registration --folder DIR --run RUN     the table of a trained network
python -m benchmarks.registration --speed                    one forward pass at 160 x 192 x 224

The heads are `data.phantom`'s at 3 mm on 64^3 voxels, those to validate on and to score brought
onto the first one by ANTs (affine): what is left between two of them is what is to be learned.
Train on `DIR/heads` with `--train-list DIR/train.txt --val-list DIR/validation.txt`; the pairs of
the table are those of `DIR/held-out.txt`, each head onto the next.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import torch
from tqdm import tqdm

from data import splits
from data.displacement import read_displacement
from data.grids import Image, sample
from data.phantom.cohort import subject_seed, write_image
from data.phantom.head import TISSUES, Phantom, make_subject
from data.registration import HeadPairs
from data.settings import Cache
from data.subjects import PUBLISHED_LABELS, PUBLISHED_MRI, find_heads, published_file
from data.template_space import Space
from inference.register import Registration, load_registration
from metrics.registration import folded_fraction, mean_dice
from models.registration import build_registration
from models.registration.warp import warp_labels
from preparation.align.registration import register, to_ants, working_copy
from training.runlog import peak_memory_gib
from utils.cli import Parser, positive_int, run
from utils.errors import InputError
from utils.optional import need

Method = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (moving, fixed) -> displacement

SEED = 20261126
VOXEL_MM = 3.0
PUBLISHED_SIZE = 160, 192, 224
SPACE = Space(64, VOXEL_MM)
LISTS = {"validation": 4, "held-out": 20, "train": 400}  # heads
BRAIN = tuple(label for name, (label, _, _) in TISSUES.items() if label > 11)
DEEP = tuple(
    TISSUES[name][0] for name in ("caudate", "putamen", "pallidum", "thalamus", "hippocampus")
)


def build_parser() -> Parser:
    """The flags."""
    parser = Parser(prog="python -m benchmarks.registration", description=__doc__)
    parser.add_argument("--folder", type=Path, help="of the heads")
    text = "seconds and memory of a published network at the published size, and no more"
    parser.add_argument("--speed", action="store_true", help=text)
    parser.add_argument("--model", default="transmorph", help="of --speed (transmorph)")
    parser.add_argument("--run", type=Path, help="run folder or checkpoint of a trained network")
    parser.add_argument("--pairs", type=positive_int, default=20, help="that are scored (20)")
    text = "leave ANTs SyN out, which takes some seconds a pair"
    parser.add_argument("--no-syn", dest="syn", action="store_false", help=text)
    return parser


def make_heads(folder: Path) -> None:
    """Write the three lists and the heads that are not there yet."""
    names = [f"head-{number:03d}" for number in range(1, 1 + sum(LISTS.values()))]
    folder.mkdir(parents=True, exist_ok=True)
    lists = {}
    for title, count in LISTS.items():
        lists[title] = names[sum(map(len, lists.values())) :][:count]
        (folder / f"{title}.txt").write_text("".join(f"{name}\n" for name in lists[title]))
    reference = head_of(0)
    for number, name in enumerate(tqdm(names, "heads", disable=None), start=1):
        if published_file(folder / "heads", name, PUBLISHED_LABELS).is_file():
            continue
        head = head_of(number)
        matrix = np.eye(4)  # of those to train on: they may lie as they were made
        if name not in lists["train"]:
            matrix = affine_onto(reference, Image(head.mri, head.affine))
        write_head(folder / "heads", name, head, matrix)


def head_of(number: int) -> Phantom:
    """The head of a number; 0 is the reference."""
    return make_subject(subject_seed(SEED, number), VOXEL_MM)


def write_head(root: Path, name: str, head: Phantom, matrix: np.ndarray) -> None:
    """Write MRI and labels on the grid, moved by a (4, 4) matrix."""
    images = {PUBLISHED_MRI: (head.mri, 1), PUBLISHED_LABELS: (head.labels, 0)}
    for ending, (array, order) in images.items():
        values = sample(Image(array, head.affine), SPACE.shape, SPACE.affine, matrix, order)
        write_image(published_file(root, name, ending), np.rint(values), SPACE.affine)


def affine_onto(reference: Phantom, moving: Image) -> np.ndarray:
    """The affine transform by ANTs, or none where that agrees better inside the brain.

    The heads are made in one space: some lie better as they are than where whole heads match.
    """
    fixed = Image(reference.mri, reference.affine)
    brain = np.isin(reference.labels, BRAIN)
    copies = working_copy(fixed, VOXEL_MM), working_copy(moving, VOXEL_MM)
    found = register(*copies, kind="Affine", start=np.eye(4))

    def agreement(matrix: np.ndarray) -> float:
        there = sample(moving, fixed.array.shape, fixed.affine, matrix)[brain]
        return float(np.corrcoef(fixed.array[brain], there)[0, 1])

    return max((np.eye(4), found), key=agreement)


@dataclass(frozen=True)
class Result:
    """One method on one pair.

    Attributes:
        dice, deep: means over all labels and over the deep nuclei.
        folded: share of voxels.
        moved: mean length of the displacement in voxels.
        seconds: wall clock.
    """

    dice: float
    deep: float
    folded: float = 0.0
    moved: float = 0.0
    seconds: float = 0.0


def score(pairs: HeadPairs, index: int, method: Method | None) -> Result:
    """A method on the pair of an index; None leaves it as it is."""
    item = pairs[0, index]
    volumes = [item[name][None] for name in ("moving", "fixed")]  # 1, 1, D, H, W
    labels = [item[f"{name}_labels"][None] for name in ("moving", "fixed")]
    started = time.perf_counter()
    displacement = method(*volumes) if method else torch.zeros(1, 3, *SPACE.shape)
    seconds = time.perf_counter() - started
    warped = warp_labels(labels[0], displacement) if method else labels[0]
    return Result(
        mean_dice(warped, labels[1]).item(),
        mean_dice(warped, labels[1], DEEP).item(),
        folded_fraction(displacement).item(),
        displacement.norm(dim=1).mean().item(),
        seconds,
    )


def by_network(trained: Registration) -> Method:
    """The network's displacement."""

    @torch.no_grad()
    def register(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return trained.model.displacement(moving, fixed)

    return register


def by_syn(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """The displacement of ANTs SyN (mutual information, as `type_of_transform="SyNOnly"`)."""
    ants = need("antspyx")
    images = (Image(volume[0, 0].numpy(), SPACE.affine) for volume in (fixed, moving))
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(
            *map(to_ants, images),
            type_of_transform="SyNOnly",
            initial_transform="identity",
            outprefix=f"{folder}/out",
        )
        field = read_displacement(found["fwdtransforms"][0])
    voxels = torch.from_numpy(field.vectors / np.float32(VOXEL_MM))
    return voxels.movedim(-1, 0)[None]


def table(results: dict[str, list[Result]]) -> str:
    """Means over the pairs, in Markdown."""
    lines = [
        "| | Dice, all labels | Dice, deep nuclei | folded, % | moved, voxels | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in results.items():
        dice = [row.dice for row in rows]
        mean = {key: fmean(getattr(row, key) for row in rows) for key in Result.__annotations__}
        lines.append(
            f"| {name} | {mean['dice']:.3f} ± {pstdev(dice):.3f} | {mean['deep']:.3f} "
            f"| {100 * mean['folded']:.3f} | {mean['moved']:.2f} | {mean['seconds']:.1f} |"
        )
    return "\n".join(lines)


@torch.no_grad()
def speed(model: str) -> str:
    """One forward pass of a network as published, in evaluation mode: a line."""
    network = build_registration(model, PUBLISHED_SIZE).eval()
    moving, fixed = torch.rand(2, 1, 1, *PUBLISHED_SIZE)
    wall, processor = time.perf_counter(), time.process_time()
    network.displacement(moving, fixed)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    memory = peak_memory_gib(torch.device("cpu"))
    threads = f"{torch.get_num_threads()} threads"
    return (
        f"{model} at {PUBLISHED_SIZE}: {wall:.1f} s, {processor:.1f} s of processor time, "
        f"{threads}, {memory:.1f} GiB at most"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Flags -> heads, and the table of a network."""
    args = build_parser().parse_args(argv)
    if args.speed:
        print(speed(args.model))
        return
    if args.folder is None:
        raise InputError("--folder", "is missing", "give it, or --speed")
    make_heads(args.folder)
    if args.run is None:
        return
    trained = load_registration(args.run)
    heads = {head.name: head for head in find_heads(args.folder / "heads").subjects}
    chosen = [heads[name] for name in splits.read_list(args.folder / "held-out.txt")]
    pairs = HeadPairs(chosen, SPACE, cache=Cache("memory"))
    pairs.prepare("heads")
    methods = {"affine": None, "network": by_network(trained)}
    if args.syn:
        methods["ANTs SyN"] = by_syn
    results = {name: [] for name in methods}
    for index in tqdm(range(min(args.pairs, len(chosen))), "pairs", disable=None):
        for name, method in methods.items():
            results[name].append(score(pairs, index, method))
    print(
        f"{trained.description}; {len(results['affine'])} pairs, {torch.get_num_threads()} thread"
    )
    print(table(results))
    head = pairs[0, 0]["moving"][None]
    moved = by_network(trained)(head, head).norm(dim=1)
    print(f"a head onto itself moves by {moved.mean():.3f} voxel, at most {moved.max():.3f}")


if __name__ == "__main__":
    run(main)
