"""Paired statistics of two methods on the same subjects.

The unit is the participant. Two-sided Wilcoxon signed-rank test (exact up to 50 participants
without ties; zero differences by Pratt's rule), matched-pairs rank-biserial correlation,
Hodges-Lehmann shift, bootstrap interval of the mean difference, and Holm's correction for many
comparisons.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
BCA_FROM = 20  # participants; with fewer the correction's own estimates are too uncertain
LEAST_FOR_SIGNIFICANCE = 6  # with 5 the smallest two-sided p is 2 / 2^5 = 0.0625
_ROUNDING = 1e-9  # scores are stored to ten digits; smaller differences are no differences


@dataclass(frozen=True)
class Comparison:
    """What the differences d = a - b of paired scores say; NaN where there is nothing to say.

    Attributes:
        n: pairs with two finite scores; the others are left out.
        mean_difference, median_difference: of d.
        low, high: 95 % bootstrap interval of the mean difference.
        interval: "BCa" or "percentile".
        shift: Hodges-Lehmann, the median of (d_i + d_j) / 2 over i <= j.
        rank_biserial: (W+ - W-) / (W+ + W-), -1..1; W+ and W- sum the ranks of |d| by the sign of
            d.
        statistic: the smaller of W+ and W-.
        p: two-sided Wilcoxon signed-rank.
    """

    n: int
    mean_difference: float
    median_difference: float
    low: float
    high: float
    interval: str
    shift: float
    rank_biserial: float
    statistic: float
    p: float


def compare(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Compare two score vectors of the same participants in the same order.

    Raises:
        ValueError: vectors of different lengths.
    """
    a, b = (np.asarray(scores, dtype=np.float64) for scores in (a, b))
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two score vectors of one length, got {a.shape} and {b.shape}")
    finite = np.isfinite(a) & np.isfinite(b)
    d = a[finite] - b[finite]
    d[np.abs(d) < _ROUNDING] = 0.0
    if not d.size:
        return Comparison(0, *[np.nan] * 4, "", *[np.nan] * 4)
    low, high, interval = mean_interval(d)
    plus, minus = rank_sums(d)
    return Comparison(
        n=int(d.size),
        mean_difference=float(d.mean()),
        median_difference=float(np.median(d)),
        low=low,
        high=high,
        interval=interval,
        shift=hodges_lehmann(d),
        rank_biserial=(plus - minus) / (plus + minus) if d.any() else 0.0,
        statistic=min(plus, minus),
        p=wilcoxon_p(d),
    )


def rank_sums(d: np.ndarray) -> tuple[float, float]:
    """(W+, W-): ranks of |d| summed by the sign of d; zeros are ranked and then dropped (Pratt)."""
    ranks = stats.rankdata(np.abs(d))
    return float(ranks[d > 0].sum()), float(ranks[d < 0].sum())


def wilcoxon_p(d: np.ndarray) -> float:
    """Two-sided p of the signed-rank test; 1 where all differences are 0."""
    if not d.any():
        return 1.0
    return float(stats.wilcoxon(d, zero_method="pratt").pvalue)


def hodges_lehmann(d: np.ndarray) -> float:
    """The median of the Walsh averages (d_i + d_j) / 2, i <= j."""
    i, j = np.triu_indices(d.size)
    return float(np.median((d[i] + d[j]) / 2))


def mean_interval(d: np.ndarray) -> tuple[float, float, str]:
    """95 % bootstrap interval of the mean: (low, high, "BCa" or "percentile"), the same in every
    run.
    """
    if np.ptp(d) == 0:
        return float(d[0]), float(d[0]), "percentile"
    if d.size < BCA_FROM:
        low, high = np.quantile(
            d[_resamples(d.size)].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        )
        return float(low), float(high), "percentile"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (d,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="BCa",
            random_state=SEED,
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high), "BCa"


@cache
def _resamples(n: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p values; NaN is no comparison and stays NaN."""
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = [i for i in np.argsort(p) if np.isfinite(p[i])]
    scaled = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
