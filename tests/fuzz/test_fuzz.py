"""The short form of `python -m tests.fuzz`, and whether the harness can see a fault."""

import sys
import time
import warnings

import pytest

from tests.fuzz import harness
from tests.fuzz.harness import Kind, fuzz
from tests.fuzz.kinds import DICOM, SHARES
from tests.fuzz.networks import ATTACKS, SCORES
from utils.errors import InputError

pytest.importorskip("pydicom", reason="pydicom is not installed (requirements-prep.txt)")


@pytest.mark.parametrize("kind", SHARES, ids=lambda kind: kind.name)
def test_a_result_or_one_line(kind, tmp_path):
    outcome = fuzz(kind, 10 if kind is DICOM else 40 * SHARES[kind], 7, tmp_path)
    assert outcome.faults == []
    assert outcome.cases == outcome.results + outcome.refused
    assert outcome.results and (outcome.refused or kind.name == "BIDS sidecars")


@pytest.mark.parametrize("kind", [ATTACKS, SCORES], ids=lambda kind: kind.name)
def test_networks_run_no_code_and_scores_end_in_a_line(kind, tmp_path):
    outcome = fuzz(kind, 8, 7, tmp_path)
    assert outcome.faults == []
    assert outcome.refused


class TwoLines(InputError):
    def __str__(self):
        return "two\nlines"


def raises(error):
    def run(*_):
        raise error

    return run


@pytest.mark.parametrize(
    "run, words",
    [
        (raises(ValueError("odd")), "ValueError: odd"),
        (raises(MemoryError()), "MemoryError"),
        (raises(TwoLines("a", "b", "c")), "not one line"),
        (lambda *_: warnings.warn("raw", stacklevel=1), "printed: "),
        (lambda *_: time.sleep(0.3), "took 0.3 s"),
    ],
    ids=["error", "memory", "lines", "warning", "slow"],
)
def test_faults_are_seen(tmp_path, run, words):
    kind = Kind("spoilt", lambda folder: None, run)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
        outcome = fuzz(kind, 2, 0, tmp_path, most_seconds=0.25)
    assert len(outcome.faults) == 2
    assert outcome.faults[1].startswith("spoilt, case 1 of seed 0: ") and words in outcome.faults[1]


def test_a_case_that_takes_memory_is_seen(tmp_path, monkeypatch):
    held = iter((1 << 30, 2 << 30))
    monkeypatch.setattr(harness, "_resident", lambda: next(held))
    monkeypatch.setattr(harness, "_peak", lambda: 7 << 29)
    outcome = fuzz(Kind("large", lambda folder: None, lambda *_: None), 2, 0, tmp_path)
    assert outcome.faults == ["large, case 0 of seed 0: held 2560 MiB"]


def test_the_same_number_is_the_same_case(tmp_path):
    seen = []
    kind = Kind("numbers", lambda folder: None, lambda _, __, generator: seen.append(generator))
    fuzz(kind, 3, 5, tmp_path)
    fuzz(kind, 1, 5, tmp_path, first=2)
    assert seen[2].integers(1 << 60) == seen[3].integers(1 << 60) != seen[0].integers(1 << 60)
