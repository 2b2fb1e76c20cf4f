"""Write synthetic pairs as files, in the published layout:

python -m data.synthesis --out DIR --subjects N [--labels FOLDER] [--size 128] [--seed 3407]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.phantom.cohort import write_image
from data.subjects import PUBLISHED_MRI, PUBLISHED_PET, published_file
from data.synthesis.anatomy import SOURCES, find_anatomies
from data.synthesis.pair import draw_pair
from utils.cli import Parser, cube_side, non_negative_int, positive_int, run
from utils.errors import InputError


def build_parser() -> Parser:
    """The flags."""
    parser = Parser(prog="python -m data.synthesis", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--subjects", type=positive_int, default=8, help="how many (8)")
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="label maps")
    text = "anatomies to draw from (labels with --labels, else heads)"
    parser.add_argument("--synthesis", choices=SOURCES, help=text)
    parser.add_argument("--size", type=cube_side, default=128, help="voxels a side (128)")
    parser.add_argument("--seed", type=non_negative_int, default=3407, help="seed (3407)")
    parser.add_argument("--cache", type=Path, default=Path("result/cache"), help="(result/cache)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Flags -> anatomies -> pairs on disk."""
    args = build_parser().parse_args(argv)
    if args.out.exists() and any(args.out.iterdir()):
        raise InputError(args.out, "is not empty", "give a new folder")
    source = args.synthesis or ("labels" if args.labels else "heads")
    anatomies = find_anatomies(source, args.labels, args.cache)
    for index in tqdm(range(args.subjects), "pairs", disable=None):
        pair, voxel_mm = draw_pair(anatomies, args.size, (args.seed, 0, index))
        name = f"synthesis-{index + 1:04d}"
        for ending, image in zip((PUBLISHED_MRI, PUBLISHED_PET), pair, strict=True):
            thousandths = np.rint(1000 * image.numpy())
            path = published_file(args.out, name, ending)
            write_image(path, thousandths, _centred(thousandths.shape, voxel_mm), "scanner")
    print(f"{args.subjects} pairs in {args.out}")


def _centred(shape: tuple[int, ...], voxel_mm: np.ndarray) -> np.ndarray:
    """(4, 4) affine of a volume whose middle lies at the origin, RAS+."""
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = -voxel_mm * (np.array(shape) - 1) / 2
    return affine


if __name__ == "__main__":
    run(main)
