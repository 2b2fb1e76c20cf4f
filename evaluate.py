"""Score fusion methods on a list of subjects: tables, paired statistics and pictures.

The weights that come with the code, and the fusions that need none:
    python evaluate.py --data /data/adni --list test.txt --methods dc2fusion \\
        --out result/evaluation
A network of your own beside them:
    python evaluate.py --data /data/adni --list test.txt --methods dc2fusion mine=result/adni
The methods of the paper's Table 1, by their published weights or by runs of train_diff.py, and a
classical one:
    python evaluate.py --data /data/adni --list test.txt \\
        --methods dc2fusion=result/adni swinfuse=result/swinfuse laplacian \\
        --weights matr=model_10.pth dilran=last.pt u2fusion=model.ckpt
Volumes that any other program fused, named <subject>*.nii.gz:
    python evaluate.py --data /data/adni --list test.txt --methods dc2fusion=result/adni \\
        --fused mine=/data/mine
Under torchrun (docs/training.md) each process scores its share of the subjects.
A copy of the MRI, the average, two mixes and the maximum are always in the table, because some
scores reward them. The same command goes on after an interruption; see docs/reproduce.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from evaluation.flags import build_parser
from utils.cli import run
from utils.errors import InputError, notice
from utils.locks import alone_in
from utils.optional import lazy
from utils.ranks import place_from_environment

# They import torch or matplotlib, for which --help need not wait.
choices = lazy("evaluation.choices")
comparisons = lazy("evaluation.comparisons")
distributed = lazy("training.devices.distributed")
lesions = lazy("evaluation.lesions")
methods = lazy("evaluation.methods")
pages = lazy("evaluation.pages")
plots = lazy("evaluation.plots")
results = lazy("evaluation.results")
scorebook = lazy("evaluation.scorebook")
scoring = lazy("evaluation.scoring")
tables = lazy("evaluation.tables")


def export(args: argparse.Namespace, settings: scoring.Settings) -> int:
    """--export-lesions: write the lesioned pairs; returns the exit status."""
    subjects, _ = choices.choose_subjects(args)
    read = partial(scoring.Case, settings=settings)
    number, failed = lesions.export_lesions(subjects, read, args.export_lesions)
    print(f"{number} pairs with lesions in {args.export_lesions}; see docs/measures.md")
    if failed:
        notice(f"{len(failed)} of {len(subjects)} subjects were left out: {', '.join(failed)}")
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> one process, or those that torchrun has started -> scores; the exit status."""
    place = place_from_environment()
    if place and place.rank:
        distributed.follow(place)
        return 0
    args = build_parser(__doc__).parse_args(argv)
    protocols = choices.choose_protocols(args.protocol, args.size)
    names = choices.choose_metrics(args.metrics)
    if args.lesions and "volume" not in protocols:
        raise InputError("--lesions", "is of the volume protocol", "take --protocol volume or both")
    settings = scoring.Settings(
        args.size, args.recipe, args.grid, args.mask, args.planes, names, args.lesions
    )
    if args.export_lesions:
        return export(args, settings)
    with distributed.leading(place) as group:
        with alone_in(args.out, "wait for it, or choose another --out"):
            devices = [group.process.device] if group else distributed.choose_devices(args.gpus)
            if devices[0].type == "cpu":
                notice("no GPU: fusing and scoring on the CPU")
            work = evaluate, devices[:1], args, protocols, settings
            return distributed.launch(*work, group=group)


def evaluate(
    process: distributed.Process,
    args: argparse.Namespace,
    protocols: Sequence[str],
    settings: scoring.Settings,
) -> int:
    """Subjects and methods -> scores -> tables and pictures, which the first process writes.

    Returns:
        the exit status.
    """
    book = None
    if process.is_main:
        book = scorebook.ScoreBook(args.out, asdict(settings), args.overwrite)
    device = process.device
    subjects, cohort = choices.choose_subjects(args)
    loading = methods.Loading(
        args.size,
        args.recipe,
        device,
        args.variant,
        args.plane or "axial",
        refine=args.refine,
    )
    chosen = choices.choose_methods(args, loading, cohort)
    try:
        failed = scoring.evaluate(subjects, chosen, protocols, settings, book, args.out, process)
    finally:
        if book:
            book.close()
    if not process.is_main:
        return 0

    rows = [results.Row(method.label, method.title, method.is_trivial) for method in chosen]
    complete, shown = results.collect(book, subjects, rows, protocols, settings.describe)
    tables.write_tables(args.out, shown)
    comparisons.write_statistics(args.out, shown)
    plots.save_box_plots(args.out, shown)
    plots.save_pages(args.out, complete, rows)
    if args.page:
        scored = [subject for subject in subjects if subject.name in complete]
        pages.save_pages(scored, chosen, protocols[-1], settings, book, device)
        print(f"to look at: {args.out / pages.FOLDER}")
    if args.lesions:
        lesions.write_lesions(lesions.LesionRecord(args.out), complete, rows)
    print(f"{len(complete)} subjects of {shown[0].n} participants in {args.out / 'table.md'}")
    if failed:
        notice(f"{len(failed)} of {len(subjects)} subjects were left out: {', '.join(failed)}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
