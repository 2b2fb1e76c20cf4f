"""Make aligned pairs of MRI and FDG-PET, ready for training, from what was downloaded.

An ADNI download, with the published list of images:
    python prepare.py --adni DOWNLOAD --ids ImageID.csv --out DATASET
A BIDS data set, or a table with the columns subject, mri, pet of NIfTI files and DICOM folders:
    python prepare.py --bids ROOT --out DATASET
    python prepare.py --pairs pairs.csv --out DATASET
Look at the pairing first (writes pairs.tsv, makes nothing):
    python prepare.py --adni DOWNLOAD --out DATASET --dry-run
The same command goes on after an interruption. Exit status: 0 all made, 1 some failed or flagged,
2 none; see docs/prepare.md. Needs requirements-prep.txt.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from utils.cli import Parser, non_negative_int, positive_float, positive_int, run
from utils.errors import InputError, notice
from utils.optional import check_installed, lazy
from utils.processes import default_jobs

adni = lazy("preparation.find.adni")
bids = lazy("preparation.find.bids")
cohort = lazy("preparation.cohort")
folders = lazy("preparation.output.folder")
report = lazy("preparation.report")
scan = lazy("preparation.read.scan")
scans = lazy("preparation.scans")
subject = lazy("preparation.subject")
table = lazy("preparation.find.table")


def build_parser() -> Parser:
    """The flags."""
    parser = Parser(prog="prepare.py", description=__doc__)
    _add_source(parser)
    _add_result(parser)
    _add_allowances(parser)
    _add_work(parser)
    return parser


def _add_source(parser: Parser) -> None:
    """Where the scans are, and which of them to take."""
    source = parser.add_argument_group("what to prepare (one of the first three)")
    source.add_argument(
        "--adni", metavar="DOWNLOAD", type=Path, help="folder of an ADNI download, unpacked"
    )
    source.add_argument("--bids", metavar="ROOT", type=Path, help="BIDS data set")
    source.add_argument(
        "--pairs", metavar="CSV", type=Path, help="table of NIfTI files or DICOM folders"
    )
    source.add_argument(
        "--ids", metavar="FILE", type=Path, help="ADNI: only the image ids in this list"
    )
    source.add_argument(
        "--tables", metavar="CSV", nargs="+", type=Path, default=[], help="ADNI: collection tables"
    )
    source.add_argument("--mri-description", metavar="REGEX", help="ADNI: which MRI series to take")
    source.add_argument(
        "--pet-description", metavar="REGEX", help="ADNI: which PET version to take"
    )
    source.add_argument(
        "--bids-filter", metavar="JSON", type=Path, help="BIDS: entities that the files must have"
    )
    source.add_argument(
        "--max-days", metavar="N", type=non_negative_int, default=365, help="MRI to PET (365)"
    )


def _add_result(parser: Parser) -> None:
    """What comes out."""
    result = parser.add_argument_group("what to make of it")
    result.add_argument(
        "--out", metavar="DATASET", type=Path, required=True, help="folder to make or to continue"
    )
    text = "grid of the result: the MRI's own, or a template's at 1 mm (mri)"
    result.add_argument("--space", choices=("mri", "mni"), default="mri", help=text)
    result.add_argument(
        "--template", metavar="FILE", type=Path, help="T1 template, with skull for heads with skull"
    )
    result.add_argument(
        "--mask", choices=("none", "head", "brain"), default="none", help="cut away (none)"
    )
    result.add_argument(
        "--layout", choices=("pairs", "bids"), default="pairs", help="published, or BIDS (pairs)"
    )
    result.add_argument(
        "--strict", action="store_true", help="flag a low NMI in the brain whatever the cohort has"
    )


def _add_allowances(parser: Parser) -> None:
    """What counts as an error unless a flag says otherwise."""
    allow = parser.add_argument_group("what is refused unless allowed")
    allow.add_argument(
        "--average-frames",
        action="store_true",
        help="PET frames of unknown duration count the same",
    )
    allow.add_argument("--fill-nonfinite", action="store_true", help="NaN and infinity become 0")
    allow.add_argument(
        "--assume-ras", action="store_true", help="a NIfTI without orientation is RAS+"
    )
    allow.add_argument(
        "--prefer", choices=("sform", "qform"), help="where the two of a NIfTI differ"
    )


def _add_work(parser: Parser) -> None:
    """How the work is done."""
    work = parser.add_argument_group("work")
    work.add_argument("--dry-run", action="store_true", help="find and pair, write pairs.tsv, stop")
    work.add_argument(
        "--jobs", type=positive_int, help="subjects at a time (as cores and memory allow)"
    )
    work.add_argument(
        "--time-limit", metavar="MINUTES", type=positive_float, default=10.0, help="a subject (10)"
    )
    work.add_argument("--force", action="store_true", help="make again what is there")


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
    if args.template and not args.template.is_file():
        raise InputError(args.template, "no such file", "check the path")
    source = getattr(args, given[0])
    if not args.pairs:
        table.refuse_inside(args.out, source)
    return source


def find(args: argparse.Namespace) -> scans.Findings:
    """Everything that the input holds, paired and left out."""
    if args.bids:
        return bids.find_bids(args.bids, args.max_days, args.bids_filter)
    if args.pairs:
        return table.read_scan_pairs(args.pairs, args.max_days)
    return adni.find_adni(
        args.adni, args.ids, args.tables, args.mri_description, args.pet_description, args.max_days
    )


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
    return cohort.Order(
        subject.PrepareOptions(args.space, args.template, args.mask, args.layout, allowed),
        folder,
        source,
        jobs=args.jobs or default_jobs(cohort.BYTES_EACH),
        limit_s=60 * args.time_limit,
        force=args.force,
        strict=args.strict,
    )


def prepare_all(findings: scans.Findings, order: cohort.Order) -> int:
    """Make the pairs and the report; returns the exit status."""

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


def stop_on_termination() -> None:
    """Let SIGTERM end the run as Ctrl-C does, so that no process of it stays behind."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> pairs -> one process for each -> data set, report; returns the exit status."""
    args = build_parser().parse_args(argv)
    source = check_flags(args)
    findings = find(args)
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
        stop_on_termination()
        return prepare_all(findings, order_of(args, folder, source))


if __name__ == "__main__":
    run(main)
