"""Give damaged inputs to a reader: each ends in a result or in one line, soon and in little memory.

A case is known by its kind, the seed and its number, and can be made again by these alone.
"""

import contextlib
import io
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import InputError, hearing

MOST_SECONDS, MOST_BYTES = 10.0, 2 << 30  # of one case
_HANGS_AFTER_S = 60
_PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: for the table.
        prepare: (folder) -> what all cases share, made once.
        run: (shared, folder, generator) -> None: makes a case in the empty folder and reads it.
    """

    name: str
    prepare: Callable[[Path], object]
    run: Callable[[object, Path, np.random.Generator], None]


@dataclass
class Outcome:
    """What came of the cases of one kind.

    Attributes:
        faults: a line for each case that ended otherwise than it should.
        peak: the most bytes that a case added to what the process held.
    """

    name: str
    cases: int = 0
    results: int = 0
    refused: int = 0
    slowest: float = 0.0
    peak: int = 0
    faults: list[str] = field(default_factory=list)


class _Hangs(BaseException):
    """Raised by the alarm; no `except Exception` catches it."""


def fuzz(
    kind: Kind,
    count: int,
    seed: int,
    folder: Path,
    first: int = 0,
    most_seconds: float = MOST_SECONDS,
    most_bytes: int = MOST_BYTES,
) -> Outcome:
    """Run cases `first` to `first + count - 1` of a kind."""
    outcome = Outcome(kind.name)
    shared = kind.prepare(_empty(folder / "shared"))
    for number in range(first, first + count):
        generator = np.random.default_rng([seed, number, *kind.name.encode()])
        place = _empty(folder / "a" / "b" / "case")  # deep enough for a path with ../..
        held, started = _resident(), time.monotonic()
        problem = _problem(outcome, kind, shared, place, generator)
        seconds, added = time.monotonic() - started, max(0, _peak() - held)
        outcome.cases += 1
        outcome.slowest = max(outcome.slowest, seconds)
        if seconds > most_seconds and not problem:
            problem = f"took {seconds:.1f} s"
        # The peak is the process's own: it tells of a case only where that one raised it.
        if _raised(added, outcome):
            if added > most_bytes and not problem:
                problem = f"held {added / 2**20:.0f} MiB"
        if problem:
            outcome.faults.append(f"{kind.name}, case {number} of seed {seed}: {problem}")
    return outcome


def _raised(added: int, outcome: Outcome) -> bool:
    if added <= outcome.peak:
        return False
    outcome.peak = added
    return True


def _problem(
    outcome: Outcome, kind: Kind, shared: object, place: Path, generator: np.random.Generator
) -> str:
    """Run one case; what is wrong with how it ended."""
    printed = io.StringIO()
    try:
        with _alarm(), contextlib.redirect_stderr(printed), hearing():
            kind.run(shared, place, generator)
    except InputError as error:
        outcome.refused += 1
        if "\n" in str(error):
            return f"not one line: {error}"
    except _Hangs:
        return f"hangs, stopped after {_HANGS_AFTER_S} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        return f"{type(error).__name__}: {error}"
    else:
        outcome.results += 1
    said = [line for line in printed.getvalue().splitlines() if not line.startswith("notice: ")]
    return f"printed: {said[0]}" if said else ""


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _resident() -> int:
    """Bytes that the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _peak() -> int:
    """The most bytes that the process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
