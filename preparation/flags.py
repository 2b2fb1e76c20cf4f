"""The flags of prepare.py."""

from pathlib import Path

from data.tracers import FDG_NAME
from utils.cli import Parser, non_negative_int, positive_float, positive_int


def build_parser(description: str) -> Parser:
    """A parser of what to prepare, what to make of it, what to allow, and how to work."""
    parser = Parser(prog="prepare.py", description=description)
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
    text = "whose PETs to take, with --layout bids when it is not FDG (FDG)"
    source.add_argument("--tracer", metavar="NAME", default=FDG_NAME, help=text)
    text = "only these subjects, with or without sub- (all)"
    source.add_argument(
        "--participant-label", "--participant_label", metavar="LABEL", nargs="+", help=text
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
    text = "--space mni: bend by this network of train_diff.py --model transmorph, too"
    result.add_argument("--warp", metavar="CHECKPOINT", type=Path, help=text)
    text = "interpreter with PyTorch for --warp (this one)"
    result.add_argument("--warp-python", metavar="PYTHON", type=Path, help=text)
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
        "--fewer-slices",
        action="store_true",
        help="DICOM slices cut out of a longer scan, such as the head's of a whole-body PET",
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
    text = "a Dask cluster's address or scheduler file: its machines do the work"
    work.add_argument("--scheduler", metavar="ADDRESS", help=text)
    work.add_argument(
        "--time-limit", metavar="MINUTES", type=positive_float, default=10.0, help="a subject (10)"
    )
    work.add_argument("--force", action="store_true", help="make again what is there")
