"""Paired statistics: the golden example, scipy, and what has to hold for any scores."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import compare, holm, mean_interval
from tests.helpers.golden import golden


@pytest.fixture
def scores():
    rng = np.random.default_rng(7)
    a = rng.gamma(2.0, 1.0, 30)
    return a, a - rng.exponential(0.4, 30) + 0.2


def test_the_golden_example_is_met():
    with np.load(golden("metrics/paired_stats.npz")) as file:
        want = dict(file)
    got = compare(want["b"], want["a"])
    assert got.n == 15
    assert got.statistic == want["wilcoxon_stat"] == want["w_minus"]
    assert got.p == pytest.approx(float(want["wilcoxon_p_exact"]), rel=1e-9)
    assert got.rank_biserial == pytest.approx(float(want["rank_biserial"]), rel=1e-9)
    assert got.shift == pytest.approx(float(want["hodges_lehmann"]), rel=1e-9)
    assert got.mean_difference == pytest.approx(float(want["mean_diff"]), rel=1e-9)
    assert (got.low, got.high) == pytest.approx(tuple(want["boot_ci95"]), rel=1e-6)
    assert got.interval == "percentile"


def test_scipy_agrees_on_p_and_statistic(scores):
    a, b = scores
    reference = stats.wilcoxon(a, b, alternative="two-sided", method="exact")
    got = compare(a, b)
    assert (got.p, got.statistic) == pytest.approx((reference.pvalue, reference.statistic))


def test_zero_differences_follow_pratt():
    a, b = (
        np.array([3.0, 1.0, 2.0, 5.0, 4.0, 6.5, 8.0]),
        np.array([3.0, 1.5, 2.2, 4.0, 4.0, 5.0, 6.0]),
    )
    got = compare(a, b)
    assert got.n == 7
    reference = stats.wilcoxon(a, b, zero_method="pratt")
    assert (got.statistic, got.p) == (reference.statistic, reference.pvalue)
    assert got.p != stats.wilcoxon(a, b, zero_method="wilcox").pvalue
    # |d| = 0, .5, .2, 1, 0, 1.5, 2 has the ranks 1.5, 4, 3, 5, 1.5, 6, 7; .5 and .2 are negative.
    assert got.rank_biserial == pytest.approx((18 - 7) / (18 + 7))


def test_hodges_lehmann_is_the_median_of_all_pair_means():
    d = np.array([0.3, -0.1, 2.0, 0.7])
    walsh = [(d[i] + d[j]) / 2 for i in range(4) for j in range(i, 4)]
    assert compare(d, np.zeros(4)).shift == pytest.approx(np.median(walsh))


def test_swapping_the_methods_turns_every_sign(scores):
    ab, ba = compare(*scores), compare(*scores[::-1])
    assert ab.p == ba.p
    assert (ab.mean_difference, ab.shift, ab.rank_biserial) == pytest.approx(
        (-ba.mean_difference, -ba.shift, -ba.rank_biserial)
    )


def bca_by_the_book(d: np.ndarray) -> tuple[float, float]:
    """Efron 1987, written out: bias from the share below, acceleration from the jackknife."""
    means = np.random.default_rng(99).choice(d, (20_000, d.size)).mean(axis=1)
    bias = stats.norm.ppf((means < d.mean()).mean())
    left_out = (d.sum() - d) / (d.size - 1)
    u = left_out.mean() - left_out
    acceleration = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    return tuple(np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z))))


def test_from_twenty_participants_on_the_interval_is_bca():
    d = np.random.default_rng(3).exponential(1.0, 25)
    low, high, kind = mean_interval(d)
    assert kind == "BCa"
    assert (low, high) == pytest.approx(bca_by_the_book(d), abs=0.02)
    assert mean_interval(d) == (low, high, kind)  # the same in every run
    assert mean_interval(d[:19])[2] == "percentile"


def test_pairs_without_a_finite_score_are_left_out_and_counted():
    a = [1.0, np.inf, np.nan, 2.0, 3.0]
    b = [0.5, 1.0, 1.0, np.nan, 1.0]
    got = compare(a, b)
    assert got.n == 2 and got.mean_difference == pytest.approx(1.25)
    nothing = compare([np.inf, np.nan], [1.0, 1.0])
    assert nothing.n == 0 and np.isnan([nothing.p, nothing.low, nothing.shift]).all()


def test_equal_scores_differ_by_nothing():
    got = compare([0.1 + 0.2, 0.5], [0.3, 0.5])  # 0.1 + 0.2 is not 0.3 in binary
    assert (got.p, got.rank_biserial, got.shift, got.low, got.high) == (1.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("n", "smallest"), [(5, 0.0625), (6, 0.03125), (10, 0.001953125)])
def test_the_smallest_p_is_bound_by_the_number_of_participants(n, smallest):
    assert compare(np.arange(1.0, n + 1), np.zeros(n)).p == pytest.approx(smallest)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    with_gap = holm([0.01, np.nan, 0.02])
    assert with_gap[[0, 2]] == pytest.approx([0.02, 0.02]) and np.isnan(with_gap[1])


def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        compare([1.0, 2.0], [1.0])
