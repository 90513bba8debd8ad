"""Which prompt groups of a step train, and how much each counts, judged by how far the returns of a group differ.

A filter is a function ``(deviations, *, parameters) -> factors``. Its keyword-only parameters are the keys of the
``filter`` section, with their defaults. It gets the standard deviations of the returns of each group in falling order,
float64 (G,), and returns a factor for each of the K groups it keeps, the first K of that order: 1, unless
`soft_reweight` or `loss_scaling` changes it. The trainer multiplies the factor into the token weights of the group
after they are normalised, which equals a factor on its advantages, since no factor is negative. A user's filter is
selected by ``filter.name=package.module:function``, or by a name that ``@register_filter`` gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.checks import require_choice, require_flag, require_number
from actfocus_verl.credit.registry import F, Method, Registry, keys_under
from actfocus_verl.errors import ConfigurationError

FloatArray = NDArray[np.float64]

_ROUNDING: Final = 1e-6
"""Returns are float32: those within this share of the largest (or of 1) count as equal."""
_MIN_P_TOLERANCE: Final = 1e-10
"""RAGEN's, so that rounding does not decide on a group at the threshold."""
_EXACT: Final = 1 - 1e-9
"""Factor on the mass to reach, so that rounding alone does not add a group."""
_LARGE: Final = 1e9
"""With equal deviations most groups stay, and at this size `eps` is negligible."""
_MANY: Final = 1000
"""Groups, enough for any share below 1 to drop one."""
_SCALINGS: Final = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""`loss_scaling` -> exponent of the kept share."""
_MASSES: Final = ("linear", "softmax")


@dataclass(frozen=True)
class Filter(Method):
    """A filter: ``(deviations: FloatArray, *, parameters) -> FloatArray``."""

    scales: bool = True
    """Whether a kept group may get a factor other than 1, even if only 0 where nothing is left to train on."""
    refills: bool = False
    """Whether verl's replay buffer does the filtering, and generates new groups for those it drops."""


FILTERS: Final = Registry("filter", "filter", (__name__,), Filter)


def register_filter(
    name: str, *, check: Callable[..., None] | None = None, scales: bool = True, refills: bool = False
) -> Callable[[F], F]:
    """Decorator: register a filter as ``filter.name=<name>``. The function itself is returned unchanged.

    Args:
        name: a short name without ``:`` and ``.``, which mark a path.
        check: see :class:`~actfocus_verl.credit.registry.Method`.
        scales, refills: see :class:`Filter`.

    Raises:
        ValueError: the name is empty, looks like a path or is taken by another function.
    """

    def register(function: F) -> F:
        FILTERS.add(name, Filter(function, (), check, scales, refills))
        return function

    return register


@dataclass(frozen=True)
class Selection:
    """A filter's decision on the groups of a step."""

    factors: dict[str, float]
    """Kept group -> factor of its token weights."""
    deviations: dict[str, float]
    """Every group -> standard deviation of its returns."""
    nothing_left: bool
    """No group trains: each kept one has the factor 0. Of a filter that drops all, the most different one is kept."""


@dataclass(frozen=True)
class GroupFilter:
    """A filter with its parameters; call it with the returns of each group."""

    name: str
    """The name or path it was selected by."""
    definition: Filter
    params: Mapping[str, Any]
    """All parameters of the function, defaults filled in."""

    def __call__(self, returns_by_group: Mapping[str, Sequence[float]]) -> Selection:
        """Break ties by group id, so that the order of arrival cannot matter.

        Raises ValueError for a return that is not finite, ConfigurationError for invalid factors.
        """
        deviations = {group: group_std(returns_by_group[group]) for group in sorted(returns_by_group)}
        ranked = sorted(deviations, key=lambda group: (-deviations[group], group))
        factors = self._factors(np.array([deviations[group] for group in ranked]))
        kept = dict(zip(ranked, factors.tolist(), strict=False))
        return Selection(kept or {ranked[0]: 0.0}, deviations, nothing_left=not any(kept.values()))

    def most_kept(self, groups: int) -> int:
        """The largest number of groups out of `groups` that can stay."""
        return max(len(self._factors(np.full(groups, _LARGE))), 1)

    @property
    def needs_deviation(self) -> bool:
        """Whether groups whose returns are all equal, groups of one among them, do not all stay with the factor 1.

        Found by running the filter, so that no filter can forget to declare it.
        """
        equal = self._factors(np.zeros(_MANY))
        return self.definition.refills or len(equal) < _MANY or bool((equal != 1).any())

    def _factors(self, deviations: FloatArray) -> FloatArray:
        factors = np.asarray(self.definition.function(deviations, **self.params), dtype=np.float64)
        if factors.ndim != 1 or len(factors) > len(deviations):
            problem = f"returned factors of shape {factors.shape} for {len(deviations)} groups"
            raise ConfigurationError("filter.name", self.name, problem, "Return one factor per kept group")
        if not (np.isfinite(factors) & (factors >= 0)).all():
            problem = "returned factors that are negative, NaN or infinite"
            raise ConfigurationError("filter.name", self.name, problem, "Return finite factors >= 0")
        return factors


def group_std(returns: Sequence[float]) -> float:
    """Unbiased standard deviation of a group's returns; 0 for a group of one, and for differences of rounding alone.

    Independent of the order. Raises ValueError for a return that is not finite.
    """
    ordered = np.sort(np.asarray(returns, dtype=np.float64))
    if not np.isfinite(ordered).all():
        raise ValueError(f"{int((~np.isfinite(ordered)).sum())} of {len(ordered)} returns of a group are not finite")
    low, high = float(ordered[0]), float(ordered[-1])
    if high - low <= _ROUNDING * max(1.0, abs(low), abs(high)):
        return 0.0
    return float(np.std(ordered, ddof=1))


def _check_fraction(key: str, value: object) -> None:
    require_number(key, value, low=0, high=1, open_low=True)


def _check_none(*, ratio: object) -> None:
    _check_ratio(ratio=ratio)
    if ratio != 1:
        remedy = "Set it to 1, or use filter=reward_variance"
        raise ConfigurationError("ratio", ratio, "filter=none keeps every group", remedy)


def _check_ratio(*, ratio: object) -> None:
    _check_fraction("ratio", ratio)


def _check_scaling(*, loss_scaling: object) -> None:
    require_choice("loss_scaling", loss_scaling, choices=tuple(_SCALINGS))


def _check_top_p(*, p: object, mass: object, eps: object, include_zero: object, loss_scaling: object) -> None:
    _check_fraction("p", p)
    require_choice("mass", mass, choices=_MASSES)
    require_number("eps", eps, low=0)
    require_flag("include_zero", include_zero)
    _check_scaling(loss_scaling=loss_scaling)


def _check_min_p(*, p: object, loss_scaling: object) -> None:
    _check_fraction("p", p)
    _check_scaling(loss_scaling=loss_scaling)


@register_filter("none", check=_check_none, scales=False)
def keep_all(deviations: FloatArray, *, ratio: float = 1.0) -> FloatArray:
    """Every group."""
    return np.ones(len(deviations))


@register_filter("reward_variance", check=_check_ratio, scales=False)
def reward_variance(deviations: FloatArray, *, ratio: float = 1.0) -> FloatArray:
    """StarPO-S: the first max(int(ratio * G), 1) groups."""
    return np.ones(max(int(ratio * len(deviations)), 1))


@register_filter("zero_variance", check=_check_scaling)
def zero_variance(deviations: FloatArray, *, loss_scaling: str = "none") -> FloatArray:
    """DAPO: the groups whose returns are not all equal."""
    return _kept(int(np.count_nonzero(deviations)), deviations, loss_scaling)


@register_filter("zero_variance_refill", scales=False, refills=True)
def zero_variance_refill(deviations: FloatArray) -> FloatArray:
    """DAPO: every group that reaches the trainer; verl's replay buffer has replaced those whose returns are equal."""
    return np.ones(len(deviations))


@register_filter("top_p", check=_check_top_p)
def top_p(
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
        eps: slack on the linear mass to reach, in units of returns.
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


@register_filter("min_p", check=_check_min_p)
def min_p(deviations: FloatArray, *, p: float = 0.8, loss_scaling: str = "none") -> FloatArray:
    """RAGEN-2: the groups whose deviation is at least p times the largest; none where all are 0."""
    reached = (deviations > 0) & (deviations >= p * deviations[0] - _MIN_P_TOLERANCE)
    return _kept(int(np.count_nonzero(reached)), deviations, loss_scaling)


@register_filter("soft_reweight")
def soft_reweight(deviations: FloatArray) -> FloatArray:
    """RAGEN-2: every group, times its deviation over the largest; 0 where all are 0."""
    return deviations / deviations[0] if deviations[0] > 0 else np.zeros(len(deviations))


def _kept(count: int, deviations: FloatArray, loss_scaling: str) -> FloatArray:
    return np.full(count, (count / len(deviations)) ** _SCALINGS[loss_scaling])


def build_filter(config: Mapping[str, Any]) -> GroupFilter:
    """Return the filter of the `filter` section: `name`, and that filter's parameters.

    Raises:
        ConfigurationError: an unknown name or key, or an invalid value.
    """
    options = {str(key): value for key, value in config.items()}
    name = options.pop("name", None)
    with keys_under(FILTERS.section):
        definition = FILTERS.get(name)
        params = FILTERS.complete(str(name), definition, options, also=("name",))
    return GroupFilter(str(name), definition, params)
