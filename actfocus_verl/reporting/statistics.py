"""Intervals: Wilson's for a rate of independent trials, Student's for a mean, a bootstrap over clusters for either.

And Spearman's rank correlation with its p-value and a bootstrap interval, and the sign test of paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, rankdata, spearmanr
from scipy.stats import t as student

Values = Sequence[float] | NDArray[np.float64]

RESAMPLES = 10_000
_BATCH_CELLS = 2_000_000
"""Bounds the memory of the bootstrap: resamples times clusters drawn at once."""
_NO_SPREAD = 1e-9
"""Above what rounding leaves of equal ranks."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Correlation(NamedTuple):
    """A rank correlation of ``n`` pairs, its two-sided p-value, and its confidence interval; NaN where undefined."""

    rho: float
    p: float
    low: float
    high: float
    n: int


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval, without continuity correction, for a rate of ``successes`` out of ``n``.

    With p = successes / n and z the normal quantile of (1 + confidence) / 2, its ends are
    ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)``. It assumes independent trials, stays inside [0, 1], and
    keeps a width at rates of 0 and 1.

    Raises:
        ValueError: ``n`` is not positive, ``successes`` is outside 0..n, or ``confidence`` outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n}: a rate needs n of at least 1 and 0 <= successes <= n")
    _require_confidence(confidence)
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent ``values``: mean ± t(n-1) s / sqrt(n).

    (nan, nan) where there is one value, or all are equal: they say nothing of the spread.

    Raises:
        ValueError: there is no value, one is not finite, or ``confidence`` is outside (0, 1).
    """
    _require_confidence(confidence)
    sample = _finite("values", values)
    if _are_equal(sample):
        return Interval(math.nan, math.nan)
    half = float(student.ppf((1 + confidence) / 2, len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample)))
    mean = float(sample.mean())
    return Interval(mean - half, mean + half)


def cluster_interval(
    totals: Values,
    counts: Values,
    confidence: float = 0.95,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """BCa bootstrap interval for ``sum(totals) / sum(counts)``, resampling whole clusters.

    A cluster is what is drawn independently, a board for instance; cluster k holds ``counts[k]`` values that add up to
    ``totals[k]``. The values within it may depend on each other in any way. With few clusters the interval is a little
    too narrow, as every bootstrap's. Equal arguments give equal intervals. (nan, nan) where there is one cluster, or
    all have the same mean: they say nothing of the spread.

    Raises:
        ValueError: no cluster, unequal lengths, a count that is not positive, a value that is not finite, or
            ``confidence`` outside (0, 1).
    """
    _require_confidence(confidence)
    sums, sizes = _finite("totals", totals), _finite("counts", counts)
    if len(sums) != len(sizes) or (sizes <= 0).any():
        raise ValueError(f"{len(sums)} totals, {len(sizes)} counts: every cluster needs a total and a positive count")
    if _are_equal(sums / sizes):
        return Interval(math.nan, math.nan)
    found = bootstrap(
        (sums, sizes),
        _ratio,
        paired=True,
        vectorized=True,
        method="BCa",
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, _BATCH_CELLS // len(sums)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def cluster_rate_interval(successes: Values, trials: Values, confidence: float = 0.95, *, seed: int = 0) -> Interval:
    """:func:`cluster_interval` for a rate: cluster k had ``successes[k]`` in ``trials[k]``.

    Where no trial, or every trial, is a success there is nothing to resample. Then it is Wilson's interval with one
    trial a cluster: as wide as if the trials of a cluster always agreed.

    Raises:
        ValueError: as :func:`cluster_interval`, or a cluster has less than 0 or more successes than trials.
    """
    hits, tries = _finite("successes", successes), _finite("trials", trials)
    if len(hits) == len(tries) and ((hits < 0) | (hits > tries)).any():
        raise ValueError("a cluster has less than 0 successes, or more than trials")
    if len(hits) == len(tries) and (tries > 0).all() and hits.sum() in (0.0, tries.sum()):
        return wilson_interval(len(hits) if hits.sum() else 0, len(hits), confidence)
    return cluster_interval(successes, trials, confidence, seed=seed)


def spearman(
    x: Values, y: Values, confidence: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0
) -> Correlation:
    """Spearman's rho of the pairs ``(x[k], y[k])``, equal values sharing their mean rank.

    The p-value is scipy's, from Student's t, and too low for a handful of pairs. The interval is a percentile bootstrap
    over pairs, from the resamples in which neither side is constant. Both take pairs as independent. Equal arguments
    give equal intervals. All NaN with fewer than three pairs, or where one side is constant.

    Raises:
        ValueError: no pair, unequal lengths, a value that is not finite, or ``confidence`` outside (0, 1).
    """
    _require_confidence(confidence)
    pair = _pairs(x=x, y=y)
    n = len(pair[0])
    if n < 3 or not all(np.ptp(values) > 0 for values in pair):
        return Correlation(math.nan, math.nan, math.nan, math.nan, n)
    found = spearmanr(*pair)
    rng = np.random.default_rng(seed)
    drawn = [_rank_correlation(*(values[index] for values in pair)) for index in _resamples(rng, n, resamples)]
    return Correlation(float(found.statistic), float(found.pvalue), *_middle(np.concatenate(drawn), confidence), n)


def spearman_within(
    x: Values, y: Values, strata: Values, confidence: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0
) -> Correlation:
    """Spearman's rho among pairs of one stratum: what is left of `spearman` where the stratum explains both sides.

    Ranks are those among all pairs; from each, the mean rank of its stratum is subtracted, and rho is Pearson's
    correlation of what remains. The p-value is two-sided, from ``resamples`` permutations of ``y`` within strata. The
    interval is a percentile bootstrap over pairs, which keep their strata. All NaN with fewer than three pairs, or
    where no stratum has two values of one side.

    Raises:
        ValueError: as `spearman`.
    """
    _require_confidence(confidence)
    x, y, strata = _pairs(x=x, y=y, strata=strata)
    n = len(x)
    rho = float(_rank_correlation(x[None], y[None], strata[None])[0]) if n >= 3 else math.nan
    if math.isnan(rho):
        return Correlation(math.nan, math.nan, math.nan, math.nan, n)
    rng = np.random.default_rng(seed)
    drawn, by_chance = [], []
    places = np.argsort(strata)
    for index in _resamples(rng, n, resamples):
        drawn.append(_rank_correlation(x[index], y[index], strata[index]))
        everywhere = np.broadcast_to(strata, index.shape)
        shuffled = np.lexsort((rng.random(index.shape), everywhere))  # stratum after stratum, in each at random
        permuted = np.empty(index.shape)
        permuted[:, places] = y[shuffled]
        by_chance.append(_rank_correlation(np.broadcast_to(x, index.shape), permuted, everywhere))
    extreme = np.abs(np.concatenate(by_chance)) >= abs(rho) - _NO_SPREAD
    p = (1 + int(extreme.sum())) / (1 + resamples)
    return Correlation(rho, p, *_middle(np.concatenate(drawn), confidence), n)


def _pairs(**sides: Values) -> list[NDArray[np.float64]]:
    """Each side, finite and equally long."""
    found = [_finite(name, values) for name, values in sides.items()]
    if len({len(values) for values in found}) > 1:
        counts = ", ".join(f"{len(values)} of {name}" for name, values in zip(sides, found, strict=True))
        raise ValueError(f"{counts.replace(' of', ' values of', 1)}: they are pairs")
    return found


def _resamples(rng: np.random.Generator, n: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of pairs drawn with replacement, (m, n) at a time, ``resamples`` rows in all."""
    rows = max(1, _BATCH_CELLS // n)
    for start in range(0, resamples, rows):
        yield rng.integers(n, size=(min(rows, resamples - start), n))


def _middle(drawn: NDArray[np.float64], confidence: float) -> Interval:
    """The percentile interval of what was drawn, without NaN."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _rank_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], strata: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Spearman's rho of each row of (m, n) values, (m,), within strata if given; NaN where one side is constant."""
    ranks = [rankdata(values, axis=1) for values in (x, y)]
    a, b = (rank - _mean_of_each(rank, strata) for rank in ranks)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    rho: NDArray[np.float64] = (a * b).sum(axis=1) / np.where(scale > _NO_SPREAD, scale, np.nan)
    return rho


def _mean_of_each(ranks: NDArray[np.float64], strata: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The mean of a row's ranks, or of those in each one's stratum; broadcasts to (m, n)."""
    if strata is None:
        return np.asarray(ranks.mean(axis=1, keepdims=True))
    means = np.zeros_like(ranks)
    for stratum in np.unique(strata):
        inside = strata == stratum
        count = np.maximum(inside.sum(axis=1, keepdims=True), 1)
        means += inside * (np.where(inside, ranks, 0.0).sum(axis=1, keepdims=True) / count)
    return means


def sign_test(differences: Values) -> float:
    """Two-sided exact p-value of "a difference is as often above 0 as below it".

    Differences of 0 are left out; 1 where none is left. With n of one sign only it is 2 / 2^n, so three pairs can give
    no less than 0.25.

    Raises:
        ValueError: there is no difference, or one is not finite.
    """
    sample = _finite("differences", differences)
    above, below = int((sample > 0).sum()), int((sample < 0).sum())
    return float(binomtest(above, above + below).pvalue) if above + below else 1.0


def _ratio(totals: NDArray[np.float64], counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = totals.sum(axis=axis) / counts.sum(axis=axis)
    return ratio


def _are_equal(values: NDArray[np.float64]) -> bool:
    """Whether they are, but for rounding; one value is."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _finite(name: str, values: Values) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name}: needs at least one value, and finite ones only")
    return array


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: choose a number between 0 and 1, such as 0.95")
