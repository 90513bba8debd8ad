"""How numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actfocus_verl.reporting.statistics import mean_interval, wilson_interval

NONE = "–"


def percent(rate: float | None) -> str:
    return NONE if rate is None else f"{100 * rate:.1f}"


def mean_of(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean over seeds with its 95 % t interval; without one where there is one seed, or all are equal."""
    if not values:
        return NONE
    scaled = [scale * value for value in values]
    mean = f"{math.fsum(scaled) / len(scaled):.{digits}f}"
    low, high = mean_interval(scaled)
    return mean if math.isnan(low) else f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"


def rate_of(successes: int, episodes: int) -> str:
    """A run's success in percent with its Wilson interval."""
    low, high = wilson_interval(successes, episodes)
    return f"{percent(successes / episodes)} [{percent(low)}, {percent(high)}]"
