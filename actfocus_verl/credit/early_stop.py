"""RAGEN-2's rules for ending a run that has nothing left to learn from, or never learns (arXiv 2604.06268)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from actfocus_verl.credit.checks import check_count, check_number
from actfocus_verl.errors import ConfigurationError

REASON: Final = "early_stop/reason"
"""In the line of metrics.jsonl of the step before the last."""
DEVIATION: Final = "filter/group_std/mean"
EMPTY: Final = "filter/nothing_left"
"""Metrics of a step that the rules read."""


@dataclass(frozen=True)
class EarlyStop:
    """The `early_stop` section. A rule whose number is None is off."""

    name: str = "none"
    success_below: float | None = None
    evaluations: int = 5
    std_share_below: float | None = None
    steps: int = 10
    empty_steps: int | None = None

    def reason(self, history: History) -> str | None:
        """Say which rule holds at the end of a history; None: go on."""
        rates = history.success_rates[-self.evaluations :]
        if self.success_below is not None and _all(rates, self.evaluations, lambda rate: rate < self.success_below):
            return f"success was below {self.success_below:g} in {self.evaluations} evaluations in a row"
        first, last = history.deviations[: self.steps], history.deviations[-self.steps :]
        if self.std_share_below is not None and first:
            limit = self.std_share_below * sum(first) / len(first)
            if _all(last, self.steps, lambda deviation: deviation < limit):
                return (
                    f"returns differed within groups by less than {self.std_share_below:g} of what they differed by at "
                    f"first, {self.steps} steps in a row"
                )
        if self.empty_steps is not None and _all(history.empty[-self.empty_steps :], self.empty_steps, bool):
            return f"the filter left nothing to train on, {self.empty_steps} steps in a row"
        return None


@dataclass
class History:
    """What the rules look at, oldest first."""

    success_rates: list[float] = field(default_factory=list)
    """Of each evaluation, over all its episodes."""
    deviations: list[float] = field(default_factory=list)
    """Mean over the prompt groups of each step of the standard deviation of their returns."""
    empty: list[bool] = field(default_factory=list)
    """Whether the filter left nothing of a step."""

    def add_step(self, metrics: Mapping[str, Any]) -> None:
        """Append a step's metrics, as the trainer logs them or metrics.jsonl has them, where null is no number."""
        if metrics.get(DEVIATION) is not None:
            self.deviations.append(float(metrics[DEVIATION]))
            self.empty.append(bool(metrics[EMPTY]))

    def add_evaluations(self, evaluations: Iterable[Mapping[str, Any]]) -> None:
        """Append lines of evaluations.jsonl, of which those of one step are one evaluation."""
        for _, lines in groupby(evaluations, key=itemgetter("step")):
            found = list(lines)
            self.success_rates.append(
                sum(line["successes"] for line in found) / sum(line["episodes"] for line in found)
            )


def build_early_stop(config: Mapping[str, Any]) -> EarlyStop:
    """Return the rules of the `early_stop` section; an empty section has none.

    Raises:
        ConfigurationError: an unknown key, or a value that cannot be.
    """
    known = [entry.name for entry in fields(EarlyStop)]
    for key, value in config.items():
        if key not in known:
            raise ConfigurationError(f"early_stop.{key}", value, "is unknown", f"Known keys: {', '.join(known)}")
    rules = EarlyStop(**config)
    for key, value in asdict(rules).items():
        if key in ("evaluations", "steps") or (key == "empty_steps" and value is not None):
            check_count(f"early_stop.{key}", value)
        elif key in ("success_below", "std_share_below") and value is not None:
            check_number(f"early_stop.{key}", value, low=0, high=1, open_low=True)
    return rules


def _all(values: Sequence[Any], count: int, holds: Callable[[Any], bool]) -> bool:
    return len(values) == count and all(holds(value) for value in values)
