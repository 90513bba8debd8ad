"""RAGEN-2's early-stop rules: for a run that has nothing left to learn from, or never learns (arXiv 2604.06268).

A rule is a function ``(history, *, parameters) -> reason``: why the run should end, or None. Its keyword-only
parameters are keys of the ``early_stop`` section; its defaults leave it off, since all built-in rules are evaluated.
Set ``early_stop.name`` to ``package.module:function`` to add a rule of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from actfocus_verl.checks import require_integer, require_number
from actfocus_verl.credit.registry import F, Method, Params, Registry, is_path, keys_under, parameters
from actfocus_verl.errors import ConfigurationError

REASON: Final = "early_stop/reason"
"""Written to metrics.jsonl at the second-to-last step."""
DEVIATION: Final = "filter/group_std/mean"
EMPTY: Final = "filter/nothing_left"
"""Metrics of a step that the rules read."""

RULES: Final = Registry("early-stop rule", "early_stop", (__name__,), Method)


def register_rule(name: str, *, check: Callable[..., None] | None = None) -> Callable[[F], F]:
    """Decorator: add a rule that every run evaluates; its parameters become keys of ``early_stop``.

    Raises ValueError when the name is empty, looks like a path or is taken by another function.
    """

    def register(function: F) -> F:
        RULES.add(name, Method(function, (), check))
        return function

    return register


@dataclass
class History:
    """What the rules read, oldest first."""

    success_rates: list[float] = field(default_factory=list)
    """Per evaluation, over all its episodes."""
    deviations: list[float] = field(default_factory=list)
    """Per step: the mean over prompt groups of the standard deviation of their returns."""
    empty: list[bool] = field(default_factory=list)
    """Per step: whether the filter dropped every group."""

    def add_step(self, metrics: Mapping[str, Any]) -> None:
        """Append a step's metrics, as the trainer logs them or read from metrics.jsonl, where null means NaN."""
        if metrics.get(DEVIATION) is not None:
            self.deviations.append(float(metrics[DEVIATION]))
            self.empty.append(bool(metrics[EMPTY]))

    def add_evaluations(self, evaluations: Iterable[Mapping[str, Any]]) -> None:
        """Append lines of evaluations.jsonl; lines of the same step form one evaluation."""
        for _, lines in groupby(evaluations, key=itemgetter("step")):
            found = list(lines)
            self.success_rates.append(
                sum(line["successes"] for line in found) / sum(line["episodes"] for line in found)
            )


def _check_threshold(key: str, value: object) -> None:
    """Raise ConfigurationError unless it is a share in (0, 1], or None, which leaves the rule off."""
    if value is not None:
        require_number(key, value, low=0, high=1, open_low=True)


def _check_success(*, success_below: object, evaluations: object) -> None:
    require_integer("evaluations", evaluations, low=1)
    _check_threshold("success_below", success_below)


@register_rule("success", check=_check_success)
def success(history: History, *, success_below: float | None = None, evaluations: int = 5) -> str | None:
    """Success stays near zero."""
    rates = history.success_rates[-evaluations:]
    if success_below is None or not _all(rates, evaluations, lambda rate: rate < success_below):
        return None
    return f"success was below {success_below:g} in {evaluations} evaluations in a row"


def _check_agreement(*, std_share_below: object, steps: object) -> None:
    require_integer("steps", steps, low=1)
    _check_threshold("std_share_below", std_share_below)


@register_rule("agreement", check=_check_agreement)
def agreement(history: History, *, std_share_below: float | None = None, steps: int = 10) -> str | None:
    """Returns within prompt groups no longer differ."""
    first, last = history.deviations[:steps], history.deviations[-steps:]
    if std_share_below is None or not first:
        return None
    limit = std_share_below * sum(first) / len(first)
    if not _all(last, steps, lambda deviation: deviation < limit):
        return None
    return (
        f"the standard deviation of returns within groups was below {std_share_below:g} times its initial value for "
        f"{steps} steps in a row"
    )


def _check_empty(*, empty_steps: object) -> None:
    if empty_steps is not None:
        require_integer("empty_steps", empty_steps, low=1)


@register_rule("empty", check=_check_empty)
def empty(history: History, *, empty_steps: int | None = None) -> str | None:
    """The filter leaves nothing to train on."""
    if empty_steps is None or not _all(history.empty[-empty_steps:], empty_steps, bool):
        return None
    return f"the filter left nothing to train on for {empty_steps} steps in a row"


@dataclass(frozen=True)
class EarlyStop:
    """The rules of a run, each with its parameters."""

    rules: Sequence[tuple[Callable[..., str | None], Params]]

    def reason(self, history: History) -> str | None:
        """Return the reason of the first rule that ends the run after this history; None: go on."""
        reasons = (rule(history, **params) for rule, params in self.rules)
        return next((reason for reason in reasons if reason is not None), None)


def build_early_stop(config: Mapping[str, Any]) -> EarlyStop:
    """Return the rules of the `early_stop` section; an empty section leaves all of them off.

    Args:
        config: `name`, a label for the section or the path of one more rule; and the parameters of all rules.

    Raises:
        ConfigurationError: an unknown key, an invalid value, or a path that leads to no function.
    """
    options = {str(key): value for key, value in config.items()}
    name = options.pop("name", None)
    RULES.known()
    rules = dict(RULES.entries)  # in the order of definition, which is the order of evaluation
    with keys_under(RULES.section):
        if is_path(name):
            rules[str(name)] = RULES.get(name)
        keys = {rule: parameters(method.function)[0] for rule, method in rules.items()}
        known = [key for named in keys.values() for key in named]
        for key, value in options.items():
            if key not in known:
                raise ConfigurationError(key, value, "is not a known key", f"Known keys: {', '.join(('name', *known))}")
        built = []
        for rule, method in rules.items():
            own = {key: options[key] for key in keys[rule] if key in options}
            built.append((method.function, RULES.complete(rule, method, own)))
    return EarlyStop(built)


def _all(values: Sequence[Any], count: int, holds: Callable[[Any], bool]) -> bool:
    return len(values) == count and all(holds(value) for value in values)
