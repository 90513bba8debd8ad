"""Which prompt groups of a step are trained on (StarPO-S): the top fraction by the standard deviation of returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actfocus_verl.errors import ConfigurationError

KeepGroups = Callable[[Mapping[str, Sequence[float]]], list[str]]


@dataclass(frozen=True)
class GroupFilter:
    """A filter by name with its ratio; call it with the returns of each group to get the kept groups' ids."""

    name: str
    ratio: float = 1.0

    def __call__(self, returns_by_group: Mapping[str, Sequence[float]]) -> list[str]:
        return _FILTERS[self.name](returns_by_group, self.ratio)


@dataclass
class FilterOutcome:
    """What a filter did in one step, as metrics."""

    kept: int
    dropped: int
    standard_deviations: list[float] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        return {
            "filter/kept_groups": float(self.kept),
            "filter/dropped_groups": float(self.dropped),
            "filter/group_std/mean": float(np.mean(self.standard_deviations)),
            "filter/group_std/max": float(np.max(self.standard_deviations)),
            "filter/zero_std_groups": float(sum(std < 1e-8 for std in self.standard_deviations)),
        }


def group_std(returns: Sequence[float]) -> float:
    """Unbiased standard deviation of a group's returns; 0 for a group of one."""
    return float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0


def _keep_all(returns_by_group: Mapping[str, Sequence[float]], ratio: float) -> list[str]:
    return list(returns_by_group)


def _reward_variance(returns_by_group: Mapping[str, Sequence[float]], ratio: float) -> list[str]:
    """The max(int(ratio * P), 1) groups of largest std; ties go by group id, so the order of arrival cannot matter."""
    keep = max(int(ratio * len(returns_by_group)), 1)
    ranked = sorted(returns_by_group, key=lambda group: (-group_std(returns_by_group[group]), group))
    return ranked[:keep]


_FILTERS: dict[str, Callable[[Mapping[str, Sequence[float]], float], list[str]]] = {
    "none": _keep_all,
    "reward_variance": _reward_variance,
}


def build_filter(config: Mapping[str, object]) -> GroupFilter:
    """Return the filter of the `filter` section {name, ratio}.

    Raises:
        ConfigurationError: an unknown name or key, or a ratio outside (0, 1].
    """
    unknown = sorted(set(config) - {"name", "ratio"})
    if unknown:
        raise ConfigurationError(f"filter.{unknown[0]}", config[unknown[0]], "unknown key", "Use name and ratio.")
    name, ratio = config.get("name"), config.get("ratio", 1.0)
    if name not in _FILTERS:
        raise ConfigurationError("filter.name", name, "unknown filter", f"Choose one of {sorted(_FILTERS)}.")
    if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ConfigurationError("filter.ratio", ratio, "not in (0, 1]", "It is the fraction of groups to keep.")
    return GroupFilter(str(name), float(ratio))


def apply_filter(
    keys: Sequence[str], returns: Sequence[float], group_filter: GroupFilter
) -> tuple[list[int], FilterOutcome]:
    """Return the positions of the kept rows and what was dropped.

    Args:
        keys: verl's row keys `{uid}_{session}_{index}`; rows of one uid are a group.
        returns: the return of each row's episode.
    """
    by_group: dict[str, list[float]] = defaultdict(list)
    for key, value in zip(keys, returns, strict=True):
        by_group[key.split("_")[0]].append(float(value))
    kept = set(group_filter(by_group))
    positions = [position for position, key in enumerate(keys) if key.split("_")[0] in kept]
    outcome = FilterOutcome(len(kept), len(by_group) - len(kept), [group_std(values) for values in by_group.values()])
    return positions, outcome
