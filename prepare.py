"""Make aligned pairs of MRI and FDG-PET, ready for training, from what was downloaded.

An ADNI download, with the published list of images:
    python prepare.py --adni DOWNLOAD --ids ImageID.csv --out DATASET
A BIDS data set, or a table with the columns subject, mri, pet of NIfTI files and DICOM folders:
    python prepare.py --bids ROOT --out DATASET
    python prepare.py --pairs pairs.csv --out DATASET
Look at the pairing first (writes pairs.tsv, makes nothing):
    python prepare.py --adni DOWNLOAD --out DATASET --dry-run
The same command goes on after an interruption. Exit status: 0 all made, 1 some failed or flagged, 2
    none; see
docs/prepare.md. Needs requirements-prep.txt.
"""

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.cli import Parser, non_negative_int, positive_float, positive_int, run
from utils.errors import InputError, notice
from utils.optional import check_installed


def build_parser() -> Parser:
    """The flags."""
    parser = Parser(prog="prepare.py", description=__doc__)
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

    work = parser.add_argument_group("work")
    work.add_argument("--dry-run", action="store_true", help="find and pair, write pairs.tsv, stop")
    work.add_argument(
        "--jobs", type=positive_int, help="subjects at a time (as cores and memory allow)"
    )
    work.add_argument(
        "--time-limit", metavar="MINUTES", type=positive_float, default=10.0, help="a subject (10)"
    )
    work.add_argument("--force", action="store_true", help="make again what is there")
    return parser


def check_flags(args: argparse.Namespace) -> Path:
    """Refuse flags that do not go together; returns the input's folder or table.

    Raises:
        InputError: no input or two, flags of another input, or an output inside the input.
    """
    from preparation.find.table import refuse_inside

    given = [flag for flag in ("adni", "bids", "pairs") if getattr(args, flag) is not None]
    if len(given) != 1:
        problem = f"goes not with --{given[0]}" if given else "is missing"
        raise InputError(
            f"--{given[1]}" if given else "--adni, --bids or --pairs",
            problem,
            "give one of the three",
        )
    for flag in ("ids", "tables", "mri_description", "pet_description"):
        if getattr(args, flag) and not args.adni:
            raise InputError(f"--{flag.replace('_', '-')}", "goes with --adni only", "leave it out")
    if args.bids_filter and not args.bids:
        raise InputError("--bids-filter", "goes with --bids only", "leave it out")
    if args.template and not args.template.is_file():
        raise InputError(args.template, "no such file", "check the path")
    source = getattr(args, given[0])
    if given[0] != "pairs":
        refuse_inside(args.out, source)
    return source


def find(args: argparse.Namespace):
    """Everything that the input holds, paired and left out (`preparation.scans.Findings`)."""
    from preparation.find.adni import find_adni
    from preparation.find.table import find_bids, read_scan_pairs

    if args.bids:
        return find_bids(args.bids, args.max_days, args.bids_filter)
    if args.pairs:
        return read_scan_pairs(args.pairs, args.max_days)
    return find_adni(
        args.adni, args.ids, args.tables, args.mri_description, args.pet_description, args.max_days
    )


def check_inputs(findings, out: Path) -> None:
    """Refuse inputs that lie where the results go, and results that would lie in a listed folder.

    Raises:
        InputError: one does.
    """
    from preparation.find.table import refuse_inside

    target = out.resolve()
    for pair in findings.pairs:
        for scan in (pair.mri, pair.pet):
            if scan.where.resolve().is_relative_to(target):
                raise InputError(
                    scan.where, f"lies inside the output, {out}", "choose another output folder"
                )
            if scan.listed:
                refuse_inside(out, scan.listed)


def show(findings, table: Path) -> int:
    """Print what was found, `pairs.tsv` has the rest; returns 1 where something is wrong with it,
    else 0.
    """
    from preparation.report import fault_line, faults_of

    faults = faults_of(findings.left_out)
    for item in faults:
        print(f"error: {fault_line(item)}", file=sys.stderr)
    for note in findings.notes:
        notice(note)
    if findings.missing_ids:
        first = ", ".join(findings.missing_ids[:5]) + (
            ", ..." if len(findings.missing_ids) > 5 else ""
        )
        notice(f"{len(findings.missing_ids)} image ids of --ids were not found: {first}")
    print(
        f"{len(findings.pairs)} pairs, {len(findings.left_out)} scans and subjects left out: {table}"
    )
    return 1 if faults else 0


def prepare_all(args: argparse.Namespace, findings, folder, source: Path) -> int:
    """Make the pairs and the report; returns the exit status."""
    from tqdm import tqdm

    from preparation.cohort import BYTES_EACH, prepare
    from preparation.read.scan import Allowed
    from preparation.report import exit_status, write_report
    from preparation.subject import PrepareOptions
    from utils.processes import default_jobs

    def bar(outcomes: Iterable, total: int) -> Iterable:
        return tqdm(outcomes, total=total, unit="subject", disable=None if total else True)

    def tell(line: str) -> None:
        tqdm.write(f"error: {line}", file=sys.stderr)

    allowed = Allowed(args.average_frames, args.fill_nonfinite, args.assume_ras, args.prefer)
    options = PrepareOptions(args.space, args.template, args.mask, args.layout, allowed)
    jobs = args.jobs or default_jobs(BYTES_EACH)
    limit_s = 60 * args.time_limit
    items = prepare(
        findings.pairs, options, folder, source, jobs, limit_s, args.force, args.strict, bar, tell
    )
    for item in items:
        if item.flags:
            notice(f"{item.pair.name}: flagged: {'; '.join(item.flags)}")
    print(write_report(args.out, items, findings.left_out))
    print(f"look at {args.out / 'report.html'}")
    return exit_status(items, findings.left_out)


def stop_on_termination() -> None:
    """Let SIGTERM end the run as Ctrl-C does, so that no process of it stays behind."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> pairs -> one process for each -> data set, report; returns the exit status."""
    args = build_parser().parse_args(argv)
    source = check_flags(args)

    from preparation.cohort import PACKAGES
    from preparation.find.table import write_pairs_tsv
    from preparation.output.folder import PreparedFolder
    from preparation.report import pairing_table

    findings = find(args)
    check_inputs(findings, args.out)
    folder, table = PreparedFolder(args.out), args.out / "pairs.tsv"
    with folder.locked():  # tables of a run that is at work are its own
        write_pairs_tsv(table, findings)
        status = show(findings, table)
        if args.dry_run:
            print(pairing_table(findings))
            return status
        if not findings.pairs:
            raise InputError(source, "no pair to prepare", f"see the reasons in {table}")
        check_installed(PACKAGES, "prepare.py")
        stop_on_termination()
        return prepare_all(args, findings, folder, source)


if __name__ == "__main__":
    run(main)
