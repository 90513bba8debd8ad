"""Wilson's interval against numbers worked by hand."""

import math

import pytest

from actfocus_verl.reporting.statistics import wilson_interval

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
