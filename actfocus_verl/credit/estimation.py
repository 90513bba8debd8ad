"""Advantage estimators by name: what one gets of a step, what it returns, and what it declares.

An estimator is a function ``(step, *, parameters) -> advantages``. Its keyword-only parameters are the keys of the
``estimator`` section, with their defaults. A user's is selected by its path,
``algorithm.adv_estimator=package.module:function``, or by a name that ``@register_estimator`` gives it; the decorator
also says which columns it reads::

    def against_the_batch(step, *, scale=1.0):
        advantages = scale * (step.returns - step.returns[step.valid_rows].mean())   # (B,)
        return advantages[:, None] * step.response_mask                              # (B, T)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from actfocus_verl.columns import ANSWER_SCORES, CLIP_SCALES, GROUP_IDS, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit.episodes import Episodes
from actfocus_verl.credit.registry import F, Method, Params, Registry, RequiredColumns, keys_under, parameters, resolved


@dataclass
class Step:
    """A training step as an estimator gets it: B rows, T the length of the longest response. Read-only."""

    rewards: Tensor
    """(B, T), float32: the score at the last token of a row, minus the KL penalty of each token if there is one."""
    scores: Tensor
    """(B, T), float32: the rewards without a penalty."""
    response_mask: Tensor
    """(B, T): non-zero at the sampled tokens that train."""
    group_ids: Tensor
    """(B,), int64: equal for the rows of a prompt."""
    valid_rows: Tensor
    """(B,), bool: False for verl's padding rows, which must not enter any statistic."""
    columns: Mapping[str, Tensor]
    """The columns that the estimator declared: (B, T), or (B, K) for those of turns."""
    gamma: float
    """`algorithm.gamma`"""
    lam: float
    """`algorithm.lam`"""
    by_std: bool
    """`algorithm.norm_adv_by_std_in_grpo`"""
    grpo: Callable[[Tensor, Tensor], Tensor]
    """verl's GRPO: (B, N) advantages from the rewards (B, N) and a mask (B, N)."""
    turns: Episodes | None = None
    """What `episodes` returns."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics to log for the step; the estimator may add to them."""

    @property
    def returns(self) -> Tensor:
        """(B,), float32: sums of the rewards."""
        return self.rewards.sum(dim=-1)

    @property
    def episodes(self) -> Episodes:
        """The turns and their rewards. Raises ValueError where the estimator did not declare to read them."""
        if self.turns is None:
            raise ValueError(f"the estimator reads turns; declare required_columns=({TURN_IDS!r}, {TURN_REWARDS!r})")
        return self.turns

    def outcome_advantages(self) -> Tensor:
        """(B,): verl's GRPO advantage of each row's return, the same for all its tokens."""
        column = self.returns[:, None]
        return self.grpo(column, column.new_ones(column.shape))[:, 0]


@dataclass(frozen=True)
class Advantages:
    """The result of an estimator that returns more than the advantages."""

    advantages: Tensor
    """(B, T), float32: 0 outside the sampled tokens."""
    targets: Tensor | None = None
    """(B, T), float32: the critic's targets. None: the advantages."""
    clip_scales: Tensor | None = None
    """(B, T), float32: factor of each token's clip range, which `policy_loss.loss_mode=turn_ratio` reads."""
    update_set: Tensor | None = None
    """(B, T), bool: the tokens that train; the others are dropped. None: all."""


@dataclass(frozen=True)
class Traits:
    """Properties of an estimator: ours, verl's or a user's."""

    granularity: str = ""
    """`episode`, `turn` or `token`: what shares one advantage; empty: not declared."""
    family: str = ""
    """`Monte Carlo` or `temporal difference`; empty: not declared."""
    compares_groups: bool = False
    """Whether its baseline is the other episodes of the prompt."""


VERLS: Final = {
    "grpo": Traits("episode", "Monte Carlo", compares_groups=True),
    "gae": Traits("token", "temporal difference"),
}
"""Estimators of verl that our `algorithm` group offers. They take an agent loop's several outputs for what they are."""


@dataclass(frozen=True)
class Estimator(Method):
    """An estimator: ``(step: Step, *, parameters) -> Tensor | Advantages``."""

    gives: RequiredColumns = ()
    """Columns it returns beside the advantages, or a function of its parameters giving them."""
    spreads_kl: bool = True
    """Whether it supports a KL penalty in the reward."""
    by_tree: bool = False
    """Whether it values states by all episodes that passed through them, forked ones included: `credit.trees`."""
    granularity: str = ""
    family: str = ""


ESTIMATORS: Final = Registry(
    "estimator",
    "estimator",
    (
        "actfocus_verl.credit.estimators",
        "actfocus_verl.credit.gigpo",
        "actfocus_verl.credit.graphs",
        "actfocus_verl.credit.information_gain",
        "actfocus_verl.credit.trees",
        "actfocus_verl.credit.turn_returns",
    ),
    Estimator,
)


def register_estimator(
    name: str, *, required_columns: RequiredColumns = (), check: Callable[..., None] | None = None, **traits: Any
) -> Callable[[F], F]:
    """Decorator: register an estimator as ``algorithm.adv_estimator=<name>``; the function is returned unchanged.

    Args:
        name: a short name without ``:`` and ``.``, which mark a path.
        required_columns, check: see :class:`~actfocus_verl.credit.registry.Method`.
        traits: see :class:`Estimator`.

    Raises:
        ValueError: the name is empty, looks like a path or is taken, or the columns are a single string.
    """

    def register(function: F) -> F:
        ESTIMATORS.add(name, Estimator(function, required_columns, check, **traits))
        return function

    return register


@dataclass(frozen=True)
class EstimatorSpec:
    """An estimator with its parameters, validated."""

    name: str
    """The name or path it was selected by."""
    definition: Estimator
    params: Params
    """All parameters of the function, defaults filled in."""

    def __call__(self, step: Step) -> Advantages:
        """Advantages of a step.

        Raises ValueError for a result that is not (B, T).
        """
        found = self.definition.function(step, **self.params)
        result = found if isinstance(found, Advantages) else Advantages(found)
        shape = getattr(result.advantages, "shape", None)
        if shape != step.response_mask.shape:
            raise ValueError(
                f"{self.name} returned advantages of shape {None if shape is None else tuple(shape)}, the response "
                f"mask has {tuple(step.response_mask.shape)}; return a (B, T) tensor, or Advantages"
            )
        return result

    @property
    def required_columns(self) -> tuple[str, ...]:
        return self.definition.columns_for(self.params)

    @property
    def gives(self) -> tuple[str, ...]:
        return resolved(self.definition.gives, self.params)

    @property
    def scales_clip_ranges(self) -> bool:
        return CLIP_SCALES in self.gives

    @property
    def needs_answers(self) -> bool:
        """Whether the policy is probed for the world's known answer."""
        return ANSWER_SCORES in self.required_columns


def is_ours(name: str) -> bool:
    """Whether an estimator's name is in this registry, not only in verl's: one of ours, or a path."""
    return ":" in name or name in ESTIMATORS.known()


def build_estimator(name: str, section: Params) -> EstimatorSpec | None:
    """Return the estimator of this name with the parameters of the ``estimator`` section; None for one of verl's.

    Raises:
        ConfigurationError: a path that leads to no function, a parameter it does not have, or one out of range.
    """
    if not is_ours(name):
        with keys_under(ESTIMATORS.section):
            ESTIMATORS.complete(name, Method(lambda step: None), section)
        return None
    with keys_under("algorithm"):
        definition = ESTIMATORS.get(name, "adv_estimator")
    with keys_under(ESTIMATORS.section):
        params = ESTIMATORS.complete(name, definition, section)
    return EstimatorSpec(name, definition, params)


def traits_of(name: str) -> Traits:
    """The traits of an estimator by its name; empty for verl's estimators that we do not offer."""
    if not is_ours(name):
        return VERLS.get(name, Traits())
    found = ESTIMATORS.get(name)
    return Traits(found.granularity, found.family, GROUP_IDS in found.columns_for(parameters(found.function)[0]))
