"""Damaged inputs in great number: each ends in a result or in one line, soon, in little memory.

    python -m tests.fuzz --count 13000 --seed 0               scans
    python -m tests.fuzz --what networks --count 2600         checkpoints, weights, scores

Prints a table and each fault with the number of its case; exit status 1 when there is one.
`--only KIND --first NUMBER --count 1` runs one case again.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.harness import Outcome, fuzz
from tests.fuzz.kinds import SHARES
from tests.fuzz.networks import NETWORKS
from utils.cli import Parser, non_negative_int, positive_int, run

WHAT = {"scans": SHARES, "networks": NETWORKS}


def _parse_args() -> argparse.Namespace:
    parser = Parser(prog="python -m tests.fuzz", description="Read damaged inputs.")
    parser.add_argument("--count", type=positive_int, default=1300, help="cases in all [1300]")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the cases [0]")
    parser.add_argument("--what", choices=WHAT, default="scans", help="to damage [scans]")
    names = [kind.name for kinds in WHAT.values() for kind in kinds]
    parser.add_argument("--only", choices=names, help="one kind [all]")
    parser.add_argument("--first", type=non_negative_int, default=0, help="number to begin with")
    return parser.parse_args()


def main() -> None:
    """Run the cases and print what came of them."""
    args = _parse_args()
    kinds = {
        kind: share for kind, share in WHAT[args.what].items() if args.only in (None, kind.name)
    }
    whole, outcomes, started = sum(kinds.values()), [], time.process_time()
    with tempfile.TemporaryDirectory(prefix="dc2fusion-fuzz-") as folder:
        for kind, share in kinds.items():
            count = max(1, args.count * share // whole)
            outcomes.append(fuzz(kind, count, args.seed, Path(folder), args.first))
    print(table(outcomes))
    print(f"\n{time.process_time() - started:.0f} s of processor time")
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


def table(outcomes: list[Outcome]) -> str:
    """One row for each kind."""
    columns = "input", "cases", "read", "refused in one line", "faults", "slowest, s", "memory, MiB"
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for one in outcomes:
        cells = one.name, one.cases, one.results, one.refused, len(one.faults)
        measured = f"{one.slowest:.2f}", f"{one.peak / 2**20:.0f}"
        rows.append(f"| {' | '.join(map(str, (*cells, *measured)))} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run(main)
