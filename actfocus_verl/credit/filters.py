"""Which prompt groups of a step train, and how much each counts, judged by how far the returns of a group differ.

A filter is a function ``(deviations, *, parameters) -> factors``. It gets the standard deviations of the returns of
each group in falling order, float64 (G,), and returns a factor for each of the K groups it keeps, the first K of that
order: 1, or what `soft_reweight` and `loss_scaling` make of it. The trainer multiplies the factor into the token
weights of the group after they are normalised, which equals a factor on its advantages, since no factor is negative.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.credit.checks import check_flag, check_number
from actfocus_verl.errors import ConfigurationError

FloatArray = NDArray[np.float64]
FilterFunction = Callable[..., FloatArray]

_ROUNDING: Final = 1e-6
"""Returns are float32: within this share of the largest (or of 1), they are the same return."""
_MIN_P_TOLERANCE: Final = 1e-10
"""RAGEN's, so that rounding does not decide on a group that lies on the threshold."""
_EXACT: Final = 1 - 1e-9
"""Times a share of a sum: rounding alone costs no further group."""
_LARGE: Final = 1e9
"""Equal deviations are the case in which most groups stay, and beside such large ones `eps` means nothing."""
REFILL: Final = "zero_variance_refill"
"""The filter that verl's replay buffer is."""
_MANY: Final = 1000
"""Groups, enough for any share of them to leave one out."""
_SCALINGS: Final = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""`loss_scaling` -> exponent of the kept share."""
_MASSES: Final = ("linear", "softmax")


@dataclass(frozen=True)
class Selection:
    """What a filter made of the groups of a step."""

    factors: dict[str, float]
    """Kept group -> factor of its token weights."""
    deviations: dict[str, float]
    """Every group -> standard deviation of its returns."""
    nothing_left: bool
    """The filter would have dropped every group. The one that differs most stays, with the factor 0."""


@dataclass(frozen=True)
class GroupFilter:
    """A filter with its parameters; call it with the returns of each group."""

    name: str
    params: Mapping[str, Any]
    """All parameters of the function, defaults filled in."""

    def __call__(self, returns_by_group: Mapping[str, Sequence[float]]) -> Selection:
        """Ties go by group id, so that the order of arrival cannot matter.

        Raises ValueError for a return that is not finite.
        """
        deviations = {group: group_std(returns_by_group[group]) for group in sorted(returns_by_group)}
        ranked = sorted(deviations, key=lambda group: (-deviations[group], group))
        factors = _FILTERS[self.name](np.array([deviations[group] for group in ranked]), **self.params)
        kept = dict(zip(ranked, factors.tolist(), strict=False))
        return Selection(kept or {ranked[0]: 0.0}, deviations, nothing_left=not kept)

    def most_kept(self, groups: int) -> int:
        """The largest number of groups that can stay of so many."""
        return max(len(_FILTERS[self.name](np.full(groups, _LARGE), **self.params)), 1)

    @property
    def needs_deviation(self) -> bool:
        """Whether groups whose returns are all equal, groups of one among them, do not all stay with the factor 1.

        It is read off what the filter does, so that no filter can forget to say it.
        """
        equal = _FILTERS[self.name](np.zeros(_MANY), **self.params)
        return self.name == REFILL or len(equal) < _MANY or bool((equal != 1).any())


def group_std(returns: Sequence[float]) -> float:
    """Unbiased standard deviation of a group's returns; 0 for a group of one, and where rounding alone differs.

    It depends on no order. Raises ValueError for a return that is not finite.
    """
    ordered = np.sort(np.asarray(returns, dtype=np.float64))
    if not np.isfinite(ordered).all():
        raise ValueError(f"{int((~np.isfinite(ordered)).sum())} of {len(ordered)} returns of a group are not finite")
    low, high = float(ordered[0]), float(ordered[-1])
    if high - low <= _ROUNDING * max(1.0, abs(low), abs(high)):
        return 0.0
    return float(np.std(ordered, ddof=1))


def _none(deviations: FloatArray, *, ratio: float = 1.0) -> FloatArray:
    """Every group."""
    return np.ones(len(deviations))


def _reward_variance(deviations: FloatArray, *, ratio: float = 1.0) -> FloatArray:
    """StarPO-S: the first max(int(ratio * G), 1) groups."""
    return np.ones(max(int(ratio * len(deviations)), 1))


def _zero_variance(deviations: FloatArray, *, loss_scaling: str = "none") -> FloatArray:
    """DAPO: the groups whose returns are not all equal."""
    return _kept(int(np.count_nonzero(deviations)), deviations, loss_scaling)


def _zero_variance_refill(deviations: FloatArray) -> FloatArray:
    """DAPO: every group that reaches the trainer; verl's replay buffer has replaced those whose returns are equal."""
    return np.ones(len(deviations))


def _top_p(
    deviations: FloatArray,
    *,
    p: float = 0.9,
    mass: str = "linear",
    eps: float = 0.01,
    include_zero: bool = False,
    loss_scaling: str = "none",
) -> FloatArray:
    """RAGEN-2: the fewest groups that have the share p of the mass: of the deviations, or of their softmax.

    Args:
        eps: of the linear mass, in units of returns: so much less will do.
        include_zero: whether groups whose returns are all equal are candidates.
    """
    candidates = deviations if include_zero else deviations[deviations > 0]
    if p == 1 or not len(candidates):
        kept = len(candidates)
    elif mass == "linear":
        cumulative = np.concatenate([[0.0], np.cumsum(candidates)])
        kept = int(np.searchsorted(cumulative, _EXACT * p * cumulative[-1] - eps))
    else:
        cumulative = np.cumsum(np.exp(candidates - candidates[0]))
        kept = int(np.searchsorted(cumulative, _EXACT * p * cumulative[-1])) + 1
    return _kept(kept, deviations, loss_scaling)


def _min_p(deviations: FloatArray, *, p: float = 0.8, loss_scaling: str = "none") -> FloatArray:
    """RAGEN-2: the groups whose deviation is at least p times the largest; none where all are 0."""
    reached = (deviations > 0) & (deviations >= p * deviations[0] - _MIN_P_TOLERANCE)
    return _kept(int(np.count_nonzero(reached)), deviations, loss_scaling)


def _soft_reweight(deviations: FloatArray) -> FloatArray:
    """RAGEN-2: every group, times its deviation over the largest; 0 where all are 0."""
    return deviations / deviations[0] if deviations[0] > 0 else np.zeros(len(deviations))


def _kept(count: int, deviations: FloatArray, loss_scaling: str) -> FloatArray:
    return np.full(count, (count / len(deviations)) ** _SCALINGS[loss_scaling])


_FILTERS: Final[dict[str, FilterFunction]] = {
    "none": _none,
    "reward_variance": _reward_variance,
    "zero_variance": _zero_variance,
    REFILL: _zero_variance_refill,
    "top_p": _top_p,
    "min_p": _min_p,
    "soft_reweight": _soft_reweight,
}


def build_filter(config: Mapping[str, Any]) -> GroupFilter:
    """Return the filter of the `filter` section: `name`, and that filter's parameters.

    Raises:
        ConfigurationError: an unknown name or key, or a value that cannot be.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in _FILTERS:
        raise ConfigurationError("filter.name", name, "unknown filter", f"Choose one of {sorted(_FILTERS)}.")
    parameters = list(inspect.signature(_FILTERS[name]).parameters.values())[1:]  # the first one takes the deviations
    defaults = {parameter.name: parameter.default for parameter in parameters}
    for key, value in options.items():
        if key not in defaults:
            known = ", ".join(("name", *defaults))
            raise ConfigurationError(f"filter.{key}", value, f"unknown key of filter={name}", f"Known keys: {known}.")
        _check_parameter(key, value)
    if name == "none" and options.get("ratio", 1) != 1:
        raise ConfigurationError(
            "filter.ratio", options["ratio"], "filter=none keeps every group", "Use filter=reward_variance."
        )
    return GroupFilter(name, defaults | options)


def _check_parameter(key: str, value: object) -> None:
    if key in ("ratio", "p"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            meaning = {
                "ratio": "It is the fraction of groups to keep.",
                "p": "It is the share of the mass to keep, or for min_p of the largest deviation to reach.",
            }
            raise ConfigurationError(f"filter.{key}", value, "not in (0, 1]", meaning[key])
    elif key == "eps":
        check_number("filter.eps", value, low=0)
    elif key == "include_zero":
        check_flag("filter.include_zero", value)
    else:
        choices = _MASSES if key == "mass" else tuple(_SCALINGS)
        if value not in choices:
            raise ConfigurationError(f"filter.{key}", value, "is unknown", f"Choose one of {', '.join(choices)}.")
