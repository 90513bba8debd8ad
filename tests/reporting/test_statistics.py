"""Intervals against numbers worked by hand, against scipy, and by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, rankdata, spearmanr, ttest_1samp, ttest_rel

from actfocus_verl.reporting.statistics import (
    cluster_interval,
    cluster_rate_interval,
    mean_interval,
    sign_test,
    spearman,
    spearman_within,
    wilson_interval,
)

# z = 1.959964, z² = 3.841459.
#  5 of 10:  centre (0.5 + 0.19207295) / 1.3841459 = 0.5; half sqrt(0.025 + 0.0096036475) * z / 1.3841459 = 0.2634066
#  0 of 10:  low 0; high z²/n / (1 + z²/n) = 0.3841459 / 1.3841459 = 0.2775328; 10 of 10 mirrors it
#  1 of 1:   low 1 / (1 + z²) = 0.2065493
HAND = [
    (5, 10, 0.2365934, 0.7634066),
    (0, 10, 0.0, 0.2775328),
    (10, 10, 0.7224672, 1.0),
    (1, 1, 0.2065493, 1.0),
]


@pytest.mark.parametrize(("successes", "n", "low", "high"), HAND)
def test_by_hand(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(138, 512), (231, 512), (3, 7)])
def test_against_the_formula(successes, n):
    z, p = 1.959963984540054, successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    interval = wilson_interval(successes, n)
    assert (interval.low, interval.high) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_more_confidence_is_wider():
    narrow, wide = wilson_interval(20, 50, confidence=0.8), wilson_interval(20, 50, confidence=0.99)
    assert wide.low < narrow.low < 0.4 < narrow.high < wide.high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"successes={successes}, n={n}: a rate needs"):
        wilson_interval(successes, n)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_impossible_confidence(confidence):
    with pytest.raises(ValueError, match=f"confidence={confidence}: choose a number between 0 and 1"):
        wilson_interval(1, 2, confidence)


def test_mean_interval_by_hand():
    # 1, 2, 3, 4: mean 2.5, s = sqrt(5/3), t(3) = 3.182446; half = 3.182446 * 1.290994 / 2 = 2.054260
    assert mean_interval([1, 2, 3, 4]) == pytest.approx((0.445740, 4.554260), abs=1e-6)


def test_mean_interval_against_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=37)
    for confidence in (0.5, 0.95, 0.99):
        expected = ttest_1samp(values, 0.0).confidence_interval(confidence)
        assert mean_interval(values, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_value_has_no_interval():
    assert all(math.isnan(end) for end in (*mean_interval([3.0]), *cluster_interval([3.0], [4])))


def test_clusters_of_one_size_against_scipy():
    """Then the rate is the mean of the clusters' rates, which scipy can bootstrap by itself."""
    means = np.random.default_rng(1).beta(1, 3, size=40)
    expected = bootstrap((means,), np.mean, method="BCa", n_resamples=20_000, rng=2).confidence_interval
    found = cluster_interval(means * 16, np.full(40, 16), resamples=20_000)
    # two bootstraps differ by their own chance: about 0.5 % of the width
    assert found == pytest.approx((expected.low, expected.high), abs=0.03 * (expected.high - expected.low))


def test_clusters_of_unequal_sizes_against_the_delta_method():
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 20, size=300).astype(float)
    totals = counts * rng.normal(1.0, 0.3, size=300)
    ratio = totals.sum() / counts.sum()
    error = math.sqrt(300 / 299 * ((totals - ratio * counts) ** 2).sum()) / counts.sum()
    found = cluster_interval(totals, counts)
    assert found == pytest.approx((ratio - 1.96 * error, ratio + 1.96 * error), abs=0.2 * error)


def test_a_cluster_counts_once_however_often_it_is_repeated():
    totals, counts = [1.0, 0.0, 3.0, 2.0, 2.0], [4, 4, 4, 3, 2]
    many = cluster_interval([100 * total for total in totals], [100 * count for count in counts])
    assert many == pytest.approx(cluster_interval(totals, counts), abs=1e-12)


def test_equal_arguments_give_equal_intervals():
    assert cluster_interval([1, 2, 0], [2, 2, 2]) == cluster_interval([1, 2, 0], [2, 2, 2])


def test_equal_values_have_no_interval():
    """They say nothing of the spread; no width would be a claim of certainty."""
    for interval in (mean_interval([0.3 - 0.1, 0.2, 0.2]), cluster_interval([1, 2, 3], [3, 6, 9])):
        assert all(math.isnan(end) for end in interval)


def test_a_rate_without_variation_is_wilsons_with_one_trial_a_cluster():
    low, high = 0.0, 0.2775328  # 0 of 10, see HAND
    assert cluster_rate_interval([0] * 10, [16] * 10) == pytest.approx((low, high), abs=1e-6)
    assert cluster_rate_interval([16] * 10, [16] * 10) == pytest.approx((1 - high, 1 - low), abs=1e-6)
    assert cluster_rate_interval([0], [16]).high == pytest.approx(1 - 0.2065493, abs=1e-6)


def test_a_rate_with_variation_is_the_bootstraps():
    hits, tries = [3, 0, 1, 4], [4, 4, 4, 4]
    assert cluster_rate_interval(hits, tries) == cluster_interval(hits, tries)


@pytest.mark.parametrize(
    ("totals", "counts"), [([], []), ([1.0], [1, 2]), ([1.0, 0.0], [1, 0]), ([math.nan, 1.0], [1, 1])]
)
def test_impossible_clusters(totals, counts):
    with pytest.raises(ValueError, match="needs"):
        cluster_interval(totals, counts)
    with pytest.raises(ValueError, match="needs"):
        cluster_rate_interval(totals, counts)


def test_impossible_rates_and_means():
    with pytest.raises(ValueError, match="more than trials"):
        cluster_rate_interval([3, 1], [2, 2])
    with pytest.raises(ValueError, match="values: needs at least one value"):
        mean_interval([])
    for interval in (mean_interval, lambda values, level: cluster_interval(values, values, level)):
        with pytest.raises(ValueError, match="confidence=1"):
            interval([1.0, 2.0], 1)


def coverage(a, b, simulations=1000):
    """The share of intervals that hold the true rate: the bootstrap's over boards, and Wilson's over rollouts.

    The paper's design, 32 boards of 16 rollouts; the success rates of boards are drawn from Beta(a, b).
    """
    rng = np.random.default_rng(4)
    rate, held = a / (a + b), np.zeros(2)
    for _ in range(simulations):
        hits = rng.binomial(16, rng.beta(a, b, size=32))
        intervals = cluster_interval(hits, np.full(32, 16), resamples=500), wilson_interval(hits.sum(), 512)
        held += [low <= rate <= high for low, high in intervals]
    return held / simulations


@pytest.mark.nightly
def test_coverage_of_the_cluster_bootstrap():
    """Within three binomial standard errors, 2.1 points, of 95 %.

    Wilson's interval, which takes the rollouts as independent, is far from that: the test can tell the two apart.
    """
    bootstrapped, independent = coverage(1, 3)
    tolerance = 3 * math.sqrt(0.95 * 0.05 / 1000)
    assert bootstrapped == pytest.approx(0.95, abs=tolerance)
    assert independent < 0.95 - 5 * tolerance


@pytest.mark.nightly
def test_coverage_is_lower_where_few_boards_have_all_the_successes():
    """The limit of a bootstrap of 32 boards, which the documentation states: about 90 % instead of 95 %.

    Three binomial standard errors are 2.8 points.
    """
    assert coverage(0.2, 4)[0] == pytest.approx(0.9, abs=0.028)


class TestSpearman:
    def test_by_hand(self):
        # ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8; t = 0.8 sqrt(3 / 0.36) = 2.309401, 3 degrees
        # of freedom: with u = t / sqrt(3) = 4/3, p = 1 - 2/pi (atan(u) + u / (1 + u²)) = 0.104088
        found = spearman([10, 20, 30, 40, 50], [3, 1, 8, 7, 90])
        assert (found.rho, found.p, found.n) == (pytest.approx(0.8), pytest.approx(0.104088, abs=1e-6), 5)

    def test_against_scipy_with_ties(self):
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=60), rng.integers(0, 5, size=60)
        expected = spearmanr(x, y)
        found = spearman(x, y, resamples=100)
        assert (found.rho, found.p) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-12)

    def test_the_interval_against_a_loop(self):
        rng = np.random.default_rng(4)
        x = rng.normal(size=40)
        y = np.round(x + rng.normal(size=40))
        drawn = []
        for _ in range(3000):
            chosen = rng.integers(40, size=40)
            drawn.append(spearmanr(x[chosen], y[chosen]).statistic)
        found = spearman(x, y, 0.9)
        # two bootstraps differ by their own chance: the standard error of these quantiles is below 0.01
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=0.03)
        assert found == spearman(x, y, 0.9)

    def test_resamples_that_are_constant_are_left_out(self):
        found = spearman([1, 2, 3, 4], [0, 0, 0, 1])
        # ranks 1 2 3 4 and 2 2 2 4: products of deviations sum to 3, their squares to 5 and 3
        assert found.rho == pytest.approx(3 / math.sqrt(15))
        assert found.low <= found.rho <= found.high <= 1.0

    @pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [5, 5, 5]), ([7, 7, 7, 7], [1, 2, 3, 4])])
    def test_what_is_undefined(self, x, y):
        found = spearman(x, y)
        assert found.n == len(x)
        assert all(math.isnan(value) for value in found[:4])

    def test_impossible_pairs(self):
        with pytest.raises(ValueError, match="3 values of x, 2 of y"):
            spearman([1, 2, 3], [1, 2])
        with pytest.raises(ValueError, match="finite ones only"):
            spearman([1, 2, math.nan], [1, 2, 3])


class TestSpearmanWithin:
    def test_by_hand(self):
        """Rising from stratum to stratum, falling within both; 2 of 36 permutations are as extreme."""
        found = spearman_within([1, 2, 3, 5, 6, 7], [0.2, 0.1, 0.0, 0.5, 0.4, 0.3], [4, 4, 4, 1, 1, 1])
        assert (found.rho, found.n) == (pytest.approx(-1), 6)
        assert found.p == pytest.approx(2 / 36, abs=0.01)  # of 10,000 random ones: four standard errors

    def test_against_a_loop(self):
        rng = np.random.default_rng(5)
        strata = rng.integers(0, 4, size=50)
        x, y = np.round(strata + rng.normal(size=50), 1), np.round(2 * strata + rng.normal(size=50), 1)

        def slow(x, y, strata):
            ranks = [rankdata(x), rankdata(y)]
            for side in ranks:
                for stratum in set(strata.tolist()):
                    side[strata == stratum] -= side[strata == stratum].mean()
            return np.corrcoef(*ranks)[0, 1]

        found = spearman_within(x, y, strata)
        assert found.rho == pytest.approx(slow(x, y, strata), abs=1e-12)
        drawn, by_chance = [], []
        for _ in range(3000):
            chosen = rng.integers(50, size=50)
            drawn.append(slow(x[chosen], y[chosen], strata[chosen]))
            permuted = y.copy()
            for stratum in range(4):
                permuted[strata == stratum] = rng.permutation(y[strata == stratum])
            by_chance.append(abs(slow(x, permuted, strata)) >= abs(found.rho))
        # each bootstrap has its own chance: the standard error of these quantiles is below 0.01
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03)
        assert found.p == pytest.approx(np.mean(by_chance), abs=0.04)
        assert found == spearman_within(x, y, strata)

    def test_one_stratum_is_none(self):
        x, y = [10, 20, 30, 40, 50], [3, 1, 8, 7, 90]
        found, plain = spearman_within(x, y, [7] * 5), spearman(x, y)
        assert (found.rho, found.low, found.high) == pytest.approx((plain.rho, plain.low, plain.high))

    @pytest.mark.parametrize(
        ("x", "y", "strata"),
        [([1, 2], [1, 2], [0, 0]), ([1, 2, 3], [3, 4, 5], [0, 1, 2]), ([1, 1, 3], [3, 4, 5], [0, 0, 2])],
    )
    def test_what_is_undefined(self, x, y, strata):
        assert all(math.isnan(value) for value in spearman_within(x, y, strata)[:4])

    def test_impossible_strata(self):
        with pytest.raises(ValueError, match="3 values of x, 3 of y, 2 of strata"):
            spearman_within([1, 2, 3], [1, 2, 3], [0, 1])


def test_coverage_of_the_t_interval_of_three_seeds():
    """Of 4,000 intervals 95 % hold the true mean; three standard errors are 1.03 %."""
    draws = np.random.default_rng(3).normal(0.4, 0.1, size=(4000, 3))
    held = np.mean([low <= 0.4 <= high for low, high in map(mean_interval, draws)])
    assert held == pytest.approx(0.95, abs=0.0103)


def test_the_interval_of_paired_differences_is_that_of_the_paired_t_test():
    one, other = np.random.default_rng(4).normal(size=(2, 6))
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert mean_interval(one - other) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1, 0.2, 0.3], 0.25),  # 2 / 2^3
        ([-1.0, -2.0], 0.5),
        ([1.0, 2.0, 3.0, 4.0, -1.0], 0.375),  # 2 * (1 + 5) / 2^5
        ([1.0, -1.0], 1.0),
        ([1.0, 0.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.03125),  # six of one sign, the zeros left out
        ([0.0, 0.0], 1.0),
    ],
)
def test_sign_test_by_hand(differences, p):
    assert sign_test(differences) == pytest.approx(p)


@pytest.mark.nightly
def test_the_sign_test_errs_as_rarely_as_it_says():
    """Of eight fair signs p < 0.05 needs all alike, 2 in 256; with one apart it is 18 / 256."""
    signs = np.random.default_rng(5).choice([-1.0, 1.0], size=(3000, 8))
    found = np.mean([sign_test(row) < 0.05 for row in signs])
    assert found == pytest.approx(2 / 256, abs=0.004)


def test_a_sign_test_of_nothing():
    with pytest.raises(ValueError, match="differences: needs at least one value"):
        sign_test([])
