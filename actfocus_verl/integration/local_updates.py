"""The local updates of a step whose weights stay with the trainer (`separate_async`): their metrics, joined.

verl joins what its updates log by words in the names: `stop/max_turns` would become a maximum, so that shares add up to
more than 1, and a count a mean. Ours are joined here by what they are; verl's own stay as verl joins them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from actfocus_verl.credit.early_stop import EMPTY

_PREFIXES: Final = (
    *("episode/", "stop/", "response_tokens/", "rollout/", "filter/", "reward/"),
    *("estimator/", "credit/", "staleness/", "diagnose/", "rollout_corr/steps_without_update"),
)
"""Of the names of our metrics."""

_SUMMED: Final = frozenset(
    (
        *("filter/kept_groups", "filter/dropped_groups", "filter/zero_std_groups", "rollout/replay_mismatches"),
        *("reward/nonfinite_episodes", "reward/dropped_groups", "diagnose/groups", "estimator/critical_draws"),
        *("estimator/information_gains", "estimator/steps_without_update", "rollout_corr/steps_without_update"),
    )
)
_LARGEST: Final = frozenset(("filter/group_std/max",))
_SMALLEST: Final = frozenset((EMPTY,))
"""Nothing was left in a step when nothing was left in any of its updates."""
_SHARES: Final = "stop/"
"""A reason that no episode of an update stopped for is not in its metrics, and its share is 0."""


class LocalUpdates:
    """What the updates of one step logged, in their order."""

    def __init__(self) -> None:
        self._metrics: list[dict[str, float]] = []
        self._episodes: list[int] = []

    def add(self, metrics: Mapping[str, Any], episodes: int) -> None:
        """metrics: of one update; those that are not ours are passed over. episodes: what its means are over."""
        ours = {key: float(value) for key, value in metrics.items() if key.startswith(_PREFIXES)}
        self._metrics.append(ours)
        self._episodes.append(episodes)

    def joined(self) -> dict[str, float]:
        """Our metrics of the step: counts add up, shares and means are weighted by episodes, where there are some."""
        keys = sorted({key for metrics in self._metrics for key in metrics})
        return {key: self._join(key) for key in keys}

    def lines(self) -> list[dict[str, float]]:
        """One flat object per update: `local_update`, from 0, its episodes, and our metrics of it."""
        numbered = enumerate(zip(self._metrics, self._episodes, strict=True))
        return [{"local_update": number, "episodes": count} | found for number, (found, count) in numbered]

    def _join(self, key: str) -> float:
        pairs = [
            (metrics.get(key, 0.0), episodes)
            for metrics, episodes in zip(self._metrics, self._episodes, strict=True)
            if key in metrics or key.startswith(_SHARES)
        ]
        values, weights = (np.array(each, dtype=float) for each in zip(*pairs, strict=True))
        if key in _SUMMED:
            return float(values.sum())
        if key in _LARGEST:
            return float(values.max())
        if key in _SMALLEST:
            return float(values.min())
        return float(np.average(values, weights=weights if weights.sum() > 0 else None))
