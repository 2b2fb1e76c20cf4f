"""What the flags of evaluate.py ask for: protocols, metrics, subjects and methods."""

import argparse
import math
from collections.abc import Sequence

from data import splits
from data.subjects import Subject, find_subjects
from evaluation import methods, scoring
from metrics import METRICS
from utils.errors import InputError, notice


def choose_protocols(protocol: str | None, size: int) -> list[str]:
    """The protocols that the flags ask for.

    Raises:
        InputError: the published one on another grid than its own.
    """
    if size < 16:
        raise InputError("--size", f"{size} is below 16 voxels", "give 16 or more")
    published = scoring.PUBLISHED_SIZE
    if size == published:
        return [protocol] if protocol in ("volume", "published") else ["published", "volume"]
    if protocol in ("published", "both"):
        problem = f"the published protocol scores a slice of {published}^3 voxels, not of {size}^3"
        raise InputError("--size", problem, "leave --size out or take --protocol volume")
    if protocol is None:
        notice(f"--size {size}: the published protocol needs {published} and is left out")
    return ["volume"]


def choose_metrics(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The metrics to compute, None for all.

    Raises:
        InputError: an unknown name.
    """
    if not names:
        return None
    known = METRICS
    unknown = [name for name in names if name not in known]
    if unknown:
        remedy = f"known are {', '.join(known)}"
        raise InputError("--metrics", f"unknown: {', '.join(unknown)}", remedy)
    return tuple(name for name in known if name in names)


def choose_subjects(args: argparse.Namespace) -> tuple[list[Subject], list[str]]:
    """The subjects to score, and the names of the whole cohort."""
    cohort = find_subjects(args.data, args.recording, args.run, args.tracer)
    print(cohort.summary())
    names = [subject.name for subject in cohort.subjects]
    if not args.list:
        return list(cohort.subjects), names
    return splits.select(cohort, splits.read_list(args.list), args.list), names


def choose_methods(
    args: argparse.Namespace, loading: methods.Loading, names: Sequence[str]
) -> list[methods.Method]:
    """The rows of the table: what the flags name, then the trivial ones.

    Args:
        names: of the whole cohort.

    Raises:
        InputError: a bad name or path, a label twice, a plane for nothing, or nothing to score.
    """
    chosen = []
    for text in args.methods:
        chosen += methods.balanced_methods(text, loading, args.balance)
    if args.balance and all(method.balance is None for method in chosen):
        problem = "is of networks trained for any, and none is given"
        raise InputError("--balance", problem, "leave the flag out or name one by --methods")
    chosen += [methods.weights_method(text, loading, "--weights") for text in args.weights]
    if args.plane and not any(method.is_published for method in chosen):
        problem = "is that of published weights, and none are given"
        raise InputError("--plane", problem, "leave the flag out")
    scale = choose_range(args)
    chosen += [methods.folder_method(text, names, scale) for text in args.fused]
    labels = [method.label for method in chosen]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        source = "--methods, --weights, --fused"
        raise InputError(source, f"the label {twice[0]} twice", "give each method its own label")
    if not args.no_trivial:
        chosen += [methods.trivial_method(name) for name in methods.TRIVIAL if name not in labels]
    if not chosen:
        remedy = "name methods by --methods or --fused"
        raise InputError("--no-trivial", "leaves nothing to score", remedy)
    return chosen


def choose_range(args: argparse.Namespace) -> tuple[float, float] | None:
    """What 0 and 1 are in the volumes fused elsewhere, None where these are.

    Raises:
        InputError: no range, or no volumes that it is of.
    """
    if not args.fused_range:
        return None
    low, high = args.fused_range
    if not args.fused:
        raise InputError("--fused-range", "is that of --fused", "leave the flag out")
    if not -math.inf < low < high < math.inf:
        problem = f"{low:g} to {high:g} is no range"
        raise InputError("--fused-range", problem, "give the lower value first")
    return low, high
