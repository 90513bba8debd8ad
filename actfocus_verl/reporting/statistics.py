"""Intervals for success rates."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import binomtest


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


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
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: choose a number between 0 and 1, such as 0.95")
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))
