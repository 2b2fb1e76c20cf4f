"""Results: what is ranked, what never is, and what is counted."""

import statistics

import numpy as np
import pytest

from evaluation.results import GROUPS, column, selection_scores
from evaluation.tables import markdown
from metrics import ALL_METRICS
from tests.helpers.score_tables import ROWS, example_scores, parts, results_of


@pytest.fixture
def values():
    return example_scores()


def test_every_metric_stands_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(ALL_METRICS)


def by_method(cells):
    return dict(zip([row.label for row in ROWS], cells, strict=True))


def test_cells_have_the_mean_and_the_population_deviation(values):
    cell = by_method(column(results_of(values), "psnr"))["net_1"]
    deviation = statistics.pstdev([19, 19.5, 20])
    assert cell.text == f"19.500±{deviation:.3f}"


def test_best_and_second_are_ranked_and_a_copy_never_is(values):
    cells = by_method(column(results_of(values), "ssim"))
    assert cells["copy-mri"].text.startswith("0.725") and cells["copy-mri"].rank is None
    assert {label: cell.rank for label, cell in cells.items()} == {
        "net_1": 1,  # 0.600, printed like the two others
        "other": 1,
        "average": 1,
        "copy-mri": None,
    }
    ranks = {
        label: cell.rank
        for label, cell in by_method(column(results_of(values), "psnr_min")).items()
    }
    assert ranks == {"net_1": 2, "other": None, "average": 1, "copy-mri": None}


def test_a_copy_is_told_by_its_psnr_whatever_its_name(values):
    values["other"] = parts("psnr", [80, 75, 90], [11, 11, 11]) | parts(
        "ssim", [1, 1, 1], [0.45, 0.45, 0.45]
    )
    shown = results_of(values)
    assert shown.copies == {"copy-mri", "other"}
    assert by_method(column(shown, "psnr"))["other"].rank is None
    values["other"]["psnr_mri"][0] = 59  # one participant that is not a copy
    assert results_of(values).copies == {"copy-mri"}


def test_infinite_scores_are_shown_and_not_averaged(values):
    values["other"]["psnr"][1] = np.inf
    cells = by_method(column(results_of(values), "psnr"))
    assert cells["copy-mri"].text == "∞"
    assert cells["other"].text == "∞ in 1" and cells["other"].rank is None


def test_missing_scores_are_counted_and_not_ranked(values):
    values["average"]["psnr_min"] = np.array([np.nan, 30.0, 40.0])
    values["other"]["ssim"][:] = np.nan
    shown = results_of(values)
    cells = by_method(column(shown, "psnr_min"))
    assert cells["average"].text == "35.000±5.000 (n=2)" and cells["average"].rank is None
    assert by_method(column(shown, "ssim"))["other"].text == "– (n=0)"
    text = markdown([shown])
    assert "average: PSNR (1 of 3)" in text and "other: SSIM (3 of 3)" in text


def test_metrics_without_a_reference_are_not_ranked():
    scores = {
        "net_1": {"sd": [30.0, 31.0], "psnr": [1.0, 2.0]},
        "other": {"sd": [50.0, 50.0], "psnr": [2.0, 2.0]},
    }
    shown = results_of(scores, rows=ROWS[:2])
    assert [cell.rank for cell in column(shown, "sd")] == [None, None]


def test_the_score_of_the_best_checkpoint_is_not_won_by_a_copy(values):
    chosen = selection_scores(results_of(values))
    assert chosen["net_1"] == pytest.approx(0.5) and chosen["average"] == pytest.approx(0.6)
    assert chosen["copy-mri"] == pytest.approx(0.45)
    assert max(chosen, key=chosen.get) == "average"
    assert "The score that chooses best.pt" in markdown([results_of(values)])
