"""Write a cohort of synthetic heads.

python -m data.phantom --out data/synthetic --subjects 8 --seed 3407 --voxel-mm 2
"""

from pathlib import Path

from tqdm import tqdm

from data.phantom.cohort import write_cohort
from utils.cli import Parser, non_negative_int, positive_float, positive_int, run


def main() -> None:
    """Write a cohort from the command line."""
    parser = Parser(prog="python -m data.phantom", description="Write a cohort of synthetic heads.")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the cohort")
    add("--subjects", type=positive_int, default=8, help="how many [8]")
    add("--seed", type=non_negative_int, default=3407, help="seed [3407]")
    add("--voxel-mm", type=positive_float, default=2.0, help="voxel edge in mm [2]")
    args = parser.parse_args()
    names = write_cohort(args.out, args.subjects, args.seed, args.voxel_mm, tqdm)
    print(f"{len(names)} subjects in {args.out}")


if __name__ == "__main__":
    run(main)
