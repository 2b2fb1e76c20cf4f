"""Seconds that each fusion method takes for one volume.

    python -m benchmarks.methods [--size 128] [--weights METHOD=FILE ...]

A synthetic head, because SwinFuse and DILRAN skip what is black or cannot matter; untrained weights
where none are given, which decide the time only for DILRAN. Each method is run once, after one run
on a few slices. Prints seconds by the clock and of CPU time (all threads together), so that a busy
machine shows.
"""

import argparse
import time

import torch

from benchmarks.common.measure import machine, parse_device, seconds, synthetic_head
from inference.published import FORM, load_published, parse_published
from models import build_model, model_names
from utils.cli import positive_int
from utils.errors import InputError, report

WARM_UP = 16  # voxels along each axis


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=positive_int, default=128, help="voxels a side (128)")
    names = model_names()
    add("--methods", nargs="+", choices=names, default=names, metavar="METHOD")
    text = f"published weights, {FORM}"
    add("--weights", nargs="+", default=[], metavar="METHOD=FILE", help=text)
    add("--device", type=parse_device, default=torch.device("cpu"))
    return parser


def main() -> None:
    """Print a line for each method."""
    args = build_parser().parse_args()
    networks = {}
    try:
        for text in args.weights:
            given = parse_published(text, "--weights")
            loaded = load_published(given, "--weights", "axial", "paper", args.size)
            networks[given.method] = loaded.model
    except InputError as error:
        report(error)
        raise SystemExit(2) from error

    mri, pet = (volume.to(args.device) for volume in synthetic_head(args.size))
    middle = slice((args.size - WARM_UP) // 2, (args.size + WARM_UP) // 2)
    small_mri = mri[:, :, middle, middle, middle]  # B, 1, WARM_UP, WARM_UP, WARM_UP
    small_pet = pet[:, :, middle, middle, middle]
    print(f"{args.size}^3 voxels; {machine(args.device)}\n")
    print("| method | seconds | CPU seconds |\n|---|---|---|")
    for name in args.methods:
        model = networks.get(name, build_model(name)).eval().to(args.device)
        with torch.inference_mode():
            model(small_mri, small_pet)
            before = time.process_time()
            clock = seconds(lambda model=model: model(mri, pet), args.device, repeats=1, warm_up=0)
        print(f"| {name} | {clock:.3g} | {time.process_time() - before:.3g} |", flush=True)


if __name__ == "__main__":
    main()
