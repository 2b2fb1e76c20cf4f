"""Score fusion methods on a list of subjects: tables, paired statistics and pictures.

A trained network and the fusions that need none:
    python evaluate.py --data /data/adni --list test.txt --methods dc2fusion=result/adni --out
    result/evaluation
The methods of the paper's Table 1, by their published weights or by runs of train_diff.py, and a
    classical one: python evaluate.py --data /data/adni --list test.txt --methods
    dc2fusion=result/adni swinfuse=result/swinfuse \
        laplacian --weights matr=model_10.pth dilran=last.pt u2fusion=model.ckpt
Volumes that any other program fused, named <subject>*.nii.gz:
    python evaluate.py --data /data/adni --list test.txt --methods dc2fusion=result/adni --fused
    mine=/data/mine
A copy of the MRI, the average, two mixes and the maximum are always in the table, because some
scores reward them. The same command goes on after an interruption; see docs/reproduce.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, device_numbers, positive_int, run
from utils.errors import InputError, notice


def build_parser() -> Parser:
    """The flags."""
    parser = Parser(prog="evaluate.py", description=__doc__)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="ROOT", type=Path, required=True, help="published layout or BIDS"
    )
    data.add_argument(
        "--list", metavar="FILE", type=Path, help="subjects to score, one a line (all)"
    )
    data.add_argument(
        "--rec", dest="recording", help="BIDS: which rec- label to take of several PETs"
    )
    data.add_argument("--run", help="BIDS: which run- number to take of several images")

    methods = parser.add_argument_group("methods")
    text = "LABEL=CHECKPOINT (run folder, .pt or released .pth), or the name of a fusion without one, as laplacian"
    methods.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help=text)
    text = "published weights: swinfuse, u2fusion, dilran or matr, with options METHOD:OPTION=VALUE,...=FILE"
    methods.add_argument("--weights", nargs="+", default=[], metavar="METHOD=FILE", help=text)
    text = "of the slices for published weights (axial); a run knows its own"
    methods.add_argument("--plane", choices=("axial", "coronal", "sagittal"), help=text)
    methods.add_argument(
        "--fused", nargs="+", default=[], metavar="LABEL=FOLDER", help="NIfTI files fused elsewhere"
    )
    methods.add_argument(
        "--no-trivial", action="store_true", help="leave out copy, average, mixes and maximum"
    )
    methods.add_argument(
        "--variant", choices=("paper", "released"), help="how to read a released .pth (released)"
    )
    methods.add_argument(
        "--gpus", type=device_numbers, default=(0,), metavar="N", help="CUDA device (0)"
    )

    scores = parser.add_argument_group("scores")
    text = "volume (3-D), published (slice 64 as the released code) or both (both)"
    scores.add_argument("--protocol", choices=("volume", "published", "both"), help=text)
    scores.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="only these, as named in docs/reproduce.md (all)",
    )
    scores.add_argument(
        "--mask", choices=("none", "head"), default="none", help="volume protocol: where (none)"
    )
    scores.add_argument(
        "--planes",
        type=int,
        choices=(1, 3),
        default=1,
        help="1 axial, 3 all, for slice metrics (1)",
    )
    scores.add_argument(
        "--size", type=positive_int, default=128, help="voxels a side of the network's grid (128)"
    )
    scores.add_argument(
        "--recipe", choices=("paper", "released"), default="paper", help="preprocessing (paper)"
    )
    text = "volume protocol: score on the network's grid or on the MRI's own (network)"
    scores.add_argument("--grid", choices=("network", "native"), default="network", help=text)

    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        default=Path("result/evaluation"),
        help="(%(default)s)",
    )
    output.add_argument(
        "--overwrite", action="store_true", help="score anew what is scored already"
    )
    return parser


def choose_protocols(args: argparse.Namespace) -> list[str]:
    """The protocols that the flags ask for.

    Raises:
        InputError: the published one on another grid than its own.
    """
    from evaluation.scoring import PUBLISHED_SIZE

    if args.size < 16:
        raise InputError("--size", f"{args.size} is below 16 voxels", "give 16 or more")
    if args.size == PUBLISHED_SIZE:
        return (
            [args.protocol] if args.protocol in ("volume", "published") else ["published", "volume"]
        )
    if args.protocol in ("published", "both"):
        problem = f"the published protocol scores a slice of {PUBLISHED_SIZE}^3 voxels, not of {args.size}^3"
        raise InputError("--size", problem, "leave --size out or take --protocol volume")
    if args.protocol is None:
        notice(f"--size {args.size}: the published protocol needs {PUBLISHED_SIZE} and is left out")
    return ["volume"]


def choose_metrics(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The metrics to compute, None for all.

    Raises:
        InputError: an unknown name.
    """
    from metrics import METRICS

    unknown = [name for name in names or () if name not in METRICS]
    if unknown:
        raise InputError(
            "--metrics", f"unknown: {', '.join(unknown)}", f"known are {', '.join(METRICS)}"
        )
    return tuple(name for name in METRICS if name in names) if names else None


def choose_subjects(args: argparse.Namespace) -> tuple[list, list[str]]:
    """The subjects to score, and the names of the whole cohort."""
    from data import splits
    from data.subjects import find_subjects

    cohort = find_subjects(args.data, args.recording, args.run)
    print(cohort.summary())
    names = [subject.name for subject in cohort.subjects]
    if not args.list:
        return list(cohort.subjects), names
    return splits.select(cohort, splits.read_list(args.list), args.list), names


def choose_methods(args: argparse.Namespace, settings, device, names: Sequence[str]) -> list:
    """The rows of the table: what the flags name, then the trivial ones.

    Raises:
        InputError: a bad name or path, a label twice, a plane for nothing, or nothing to score.
    """
    from evaluation.methods import (
        TRIVIAL,
        Loading,
        folder_method,
        model_method,
        trivial_method,
        weights_method,
    )

    loading = Loading(settings.size, settings.recipe, device, args.variant, args.plane or "axial")
    methods = [model_method(text, loading) for text in args.methods]
    methods += [weights_method(text, loading, "--weights") for text in args.weights]
    if args.plane and not any(method.is_published for method in methods):
        raise InputError(
            "--plane", "is that of published weights, and none are given", "leave the flag out"
        )
    methods += [folder_method(text, names) for text in args.fused]
    labels = [method.label for method in methods]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        source = "--methods, --weights, --fused"
        raise InputError(source, f"the label {twice[0]} twice", "give each method its own label")
    if not args.no_trivial:
        methods += [trivial_method(label) for label in TRIVIAL if label not in labels]
    if not methods:
        raise InputError(
            "--no-trivial", "leaves nothing to score", "name methods by --methods or --fused"
        )
    return methods


def describe(protocol: str, settings) -> str:
    """One line of what a protocol scored."""
    size = f"{settings.size}³ voxels ({settings.recipe} recipe)"
    if protocol == "published":
        return f"Slice 64 of the last axis of {size}, no mask, no clipping, as the released code."
    grid = f"The network's grid, {size}" if settings.grid == "network" else "The MRI's own grid"
    planes = "axial slices" if settings.planes == 1 else "slices of all three planes"
    return (
        f"{grid}, clipped to [0, 1], mask: {settings.mask}; slice metrics are means over {planes}."
    )


def write_results(
    args: argparse.Namespace, book, subjects: list, methods: list, protocols: list, settings
) -> None:
    """Tables, statistics and pictures of the subjects that every method was scored on.

    Raises:
        InputError: there is none.
    """
    from evaluation.plots import save_box_plots, save_pages
    from evaluation.tables import Results, Row, write_tables

    rows = [Row(method.label, method.title, method.is_trivial) for method in methods]
    labels = [row.label for row in rows]
    complete = book.complete(protocols, labels, [subject.name for subject in subjects])
    if not complete:
        raise InputError("--data", "no subject was scored by every method", "see the errors above")
    participants: dict[str, list[str]] = {}
    for subject in subjects:
        if subject.name in complete:
            participants.setdefault(subject.group, []).append(subject.name)
    all_results = [
        Results(p, rows, book.values(p, labels, participants), describe(p, settings))
        for p in protocols
    ]
    write_tables(args.out, all_results)
    for results in all_results:
        save_box_plots(args.out, results)
    save_pages(
        args.out, complete, {"MRI": "MRI", "PET": "PET"} | {row.label: row.title for row in rows}
    )
    print(
        f"{len(complete)} subjects of {len(participants)} participants in {args.out / 'table.md'}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> subjects and methods -> scores -> tables and pictures; returns the exit status."""
    args = build_parser().parse_args(argv)

    from dataclasses import asdict

    from evaluation.scorebook import ScoreBook
    from evaluation.scoring import Settings, evaluate
    from training.distributed import choose_devices

    protocols, metrics = choose_protocols(args), choose_metrics(args.metrics)
    settings = Settings(args.size, args.recipe, args.grid, args.mask, args.planes, metrics)
    book = ScoreBook(args.out, asdict(settings), args.overwrite)
    device = choose_devices(args.gpus)[0]
    if device.type == "cpu":
        notice("no GPU: fusing and scoring on the CPU")
    subjects, names = choose_subjects(args)
    methods = choose_methods(args, settings, device, names)
    failed = evaluate(subjects, methods, protocols, settings, book, device)
    write_results(args, book, subjects, methods, protocols, settings)
    if failed:
        notice(f"{len(failed)} of {len(subjects)} subjects were left out: {', '.join(failed)}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
