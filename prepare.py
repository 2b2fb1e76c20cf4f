"""Make aligned pairs of MRI and PET, ready for training, from what was downloaded.

An ADNI download, with the published list of images:
    python prepare.py --adni DOWNLOAD --ids ImageID.csv --out DATASET
A BIDS data set, or a table with the columns subject, mri, pet of NIfTI files and DICOM folders:
    python prepare.py --bids ROOT --out DATASET
    python prepare.py --pairs pairs.csv --out DATASET
Look at the pairing first (writes pairs.tsv, makes nothing):
    python prepare.py --adni DOWNLOAD --out DATASET --dry-run
On the machines of a Dask cluster:
    python prepare.py --bids ROOT --out DATASET --scheduler tcp://host:8786
The same command goes on after an interruption. Exit status: 0 all made, 1 some failed or flagged,
2 none; see docs/prepare.md. Needs requirements-prep.txt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.tracers import is_fdg
from preparation.flags import build_parser
from utils.cli import run
from utils.errors import InputError, notice
from utils.optional import REMEDY, check_installed, lazy, need
from utils.processes import default_jobs

adni = lazy("preparation.find.adni", REMEDY)
bids = lazy("preparation.find.bids", REMEDY)
cohort = lazy("preparation.cohort", REMEDY)
folders = lazy("preparation.output.folder", REMEDY)
report = lazy("preparation.report", REMEDY)
scan = lazy("preparation.read.scan", REMEDY)
scans = lazy("preparation.scans", REMEDY)
subject = lazy("preparation.subject", REMEDY)
table = lazy("preparation.find.table", REMEDY)
warp = lazy("preparation.align.warp", REMEDY)


def check_flags(args: argparse.Namespace) -> Path:
    """Refuse flags that do not go together; returns the input's folder or table.

    Raises:
        InputError: no input or two, flags of another input, or an output inside the input.
    """
    given = [flag for flag in ("adni", "bids", "pairs") if getattr(args, flag) is not None]
    if not given:
        raise InputError("--adni, --bids or --pairs", "is missing", "give one of the three")
    if len(given) > 1:
        problem = f"does not go with --{given[0]}"
        raise InputError(f"--{given[1]}", problem, "give one of the three")
    for flag in ("ids", "tables", "mri_description", "pet_description"):
        if getattr(args, flag) and not args.adni:
            raise InputError(f"--{flag.replace('_', '-')}", "goes with --adni only", "leave it out")
    if args.bids_filter and not args.bids:
        raise InputError("--bids-filter", "goes with --bids only", "leave it out")
    if not is_fdg(args.tracer):
        if args.layout != "bids":  # the other layout's names say FDG
            problem = f"the published layout is of FDG, not of {args.tracer}"
            raise InputError("--layout", problem, "pass --layout bids")
    if args.scheduler and args.jobs:
        problem = "does not go with --scheduler, whose workers' threads are the jobs"
        raise InputError("--jobs", problem, "leave one of them out")
    if args.template and not args.template.is_file():
        raise InputError(args.template, "no such file", "check the path")
    if args.warp and args.space != "mni":
        raise InputError("--warp", "goes with --space mni only", "pass it, or leave --warp out")
    if args.warp_python and not args.warp:
        raise InputError("--warp-python", "goes with --warp only", "leave it out")
    source = getattr(args, given[0])
    if not args.pairs:
        table.refuse_inside(args.out, source)
    return source


def find(args: argparse.Namespace) -> scans.Findings:
    """Everything that the input holds, paired and left out."""
    if args.bids:
        return bids.find_bids(args.bids, args.max_days, args.bids_filter, args.tracer)
    if args.pairs:
        return table.read_scan_pairs(args.pairs, args.max_days, args.tracer)
    patterns = args.mri_description, args.pet_description
    return adni.find_adni(args.adni, args.ids, args.tables, *patterns, args.max_days, args.tracer)


def check_inputs(findings: scans.Findings, out: Path) -> None:
    """Refuse inputs that lie where the results go, and results inside a listed folder.

    Raises:
        InputError: one does.
    """
    target = out.resolve()
    for pair in findings.pairs:
        for image in (pair.mri, pair.pet):
            if image.where.resolve().is_relative_to(target):
                problem = f"lies inside the output, {out}"
                raise InputError(image.where, problem, "choose another output folder")
            if image.listed:
                table.refuse_inside(out, image.listed)


def show(findings: scans.Findings, pairs_table: Path) -> int:
    """Print what was found; `pairs.tsv` has the rest.

    Returns:
        1 where something is wrong with it, else 0.
    """
    faults = report.faults_of(findings.left_out)
    for item in faults:
        print(f"error: {report.fault_line(item)}", file=sys.stderr)
    for note in findings.notes:
        notice(note)
    missing = findings.missing_ids
    if missing:
        first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        notice(f"{len(missing)} image ids of --ids were not found: {first}")
    left_out = f"{len(findings.left_out)} scans and subjects left out"
    print(f"{len(findings.pairs)} pairs, {left_out}: {pairs_table}")
    return 1 if faults else 0


def order_of(
    args: argparse.Namespace, folder: folders.PreparedFolder, source: Path
) -> cohort.Order:
    """What the flags ask for."""
    allowed = scan.Allowed(args.average_frames, args.fill_nonfinite, args.assume_ras, args.prefer)
    network = warp.Network(args.warp, args.warp_python) if args.warp else None
    options = subject.PrepareOptions(
        args.space, args.template, args.mask, args.layout, allowed, args.tracer, network
    )
    return cohort.Order(
        options,
        folder,
        source,
        jobs=args.jobs or default_jobs(cohort.BYTES_EACH),
        scheduler=args.scheduler,
        limit_s=60 * args.time_limit,
        force=args.force,
        strict=args.strict,
    )


def prepare_all(findings: scans.Findings, order: cohort.Order) -> int:
    """Make the pairs and the report; returns the exit status."""
    tqdm = need("tqdm").tqdm

    def bar(items: Iterable, total: int) -> Iterable:
        return tqdm(items, total=total, unit="subject", disable=None if total else True)

    def tell(line: str) -> None:
        tqdm.write(f"error: {line}", file=sys.stderr)

    root = order.folder.root
    items = cohort.prepare(findings.pairs, order, bar, tell)
    for item in items:
        if item.flags:
            notice(f"{item.name}: flagged: {'; '.join(item.flags)}")
    print(report.write_report(root, items, findings.left_out))
    print(f"look at {root / 'report.html'}")
    return report.exit_status(items, findings.left_out)


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> pairs -> one process for each -> data set, report; returns the exit status."""
    args = build_parser(__doc__).parse_args(argv)
    source = check_flags(args)
    findings = find(args)
    if args.participant_label:
        findings = findings.of(args.participant_label)
    check_inputs(findings, args.out)
    folder, pairs_table = folders.PreparedFolder(args.out), args.out / "pairs.tsv"
    with folder.locked():  # tables of a run that is at work are its own
        table.write_pairs_tsv(pairs_table, findings)
        status = show(findings, pairs_table)
        if args.dry_run:
            print(report.pairing_table(findings))
            return status
        if not findings.pairs:
            raise InputError(source, "no pair to prepare", f"see the reasons in {pairs_table}")
        check_installed(cohort.PACKAGES, "prepare.py")
        return prepare_all(findings, order_of(args, folder, source))


if __name__ == "__main__":
    run(main)
