"""Paired statistics of an evaluation: which rows are compared, and what the files say."""

import csv

import numpy as np
import pytest

from evaluation.comparisons import pairings, statistics_csv, statistics_markdown
from tests.helpers.score_tables import example_scores, results_of


@pytest.fixture
def values():
    return example_scores()


def test_statistics_compare_methods_with_all_rows_but_not_trivial_ones_among_themselves(values):
    shown = results_of(values)
    found = pairings(shown)
    pairs = {(p.a.label, p.b.label) for p in found}
    assert pairs == {
        ("net_1", "other"),
        ("net_1", "average"),
        ("net_1", "copy-mri"),
        ("other", "average"),
        ("other", "copy-mri"),
    }
    text = statistics_csv({"volume": found})
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(found) == 5 * 4
    row = next(
        r for r in rows if (r["metric"], r["source"], r["method_b"]) == ("ssim", "min", "average")
    )
    assert float(row["mean_difference"]) == pytest.approx(-0.1)
    infinite = next(
        r for r in rows if (r["metric"], r["source"], r["method_b"]) == ("psnr", "mean", "copy-mri")
    )
    assert infinite["n"] == "0" and infinite["p"] == "nan"
    assert all(float(r["p_holm"]) >= float(r["p"]) for r in rows if r["p"] != "nan")


def test_few_participants_are_said_to_prove_nothing(values):
    shown = results_of(values)
    assert "nothing here can be significant" in statistics_markdown(
        [shown], {"volume": pairings(shown)}
    )
    many = {
        m: {k: np.tile(v, 2) + np.arange(6) / 100 for k, v in s.items()} for m, s in values.items()
    }
    shown = results_of(many)
    assert "nothing here can be significant" not in statistics_markdown(
        [shown], {"volume": pairings(shown)}
    )
