"""Estimators from each turn's information gain about a known answer: IGPO and A2TGPO.

s(i,k) is the mean log-probability of the answer before turn k of episode i, and the information gain of a turn is
s(i,k+1) - s(i,k). The last turn has none: it is credited with the outcome. A mask, not a value, marks the turns with a
gain, so a gain of exactly 0 counts like any other. B episodes of up to K turns; float64 statistics over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.checks import require_choice, require_flag, require_integer, require_number
from actfocus_verl.columns import ANSWER_SCORES, CLIP_SCALES, GROUP_IDS, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit.episodes import Episodes, discounted_sums
from actfocus_verl.credit.estimation import Advantages, Step, register_estimator
from actfocus_verl.credit.groups import sums_by
from actfocus_verl.credit.registry import Params
from actfocus_verl.credit.turn_returns import less_to_come
from actfocus_verl.errors import ConfigurationError

POOLS: Final = ("separate", "joint")
"""What IGPO normalises together: gains alone and outcomes alone, or both in one pool."""

BASELINES: Final = ("gain", "to_come")
"""What is subtracted: the mean gain from every gain, as the authors do, or the mean sum to come from every sum."""

AS_SECOND: Final = "as_second"
"""A value of A2TGPO's `first_turn`: the first turn shares what the second one has, as in its authors' code."""

_VARIANCE_EPS: Final = 1e-8
_STD_EPS: Final = 1e-6
"""A2TGPO's code divides by sqrt(variance + 1e-8) + 1e-6."""


@dataclass(frozen=True)
class Gains:
    """The information gains of a batch."""

    values: Tensor
    """(B, K), float64: 0 where there is none."""
    known: Tensor
    """(B, K), bool: the turns that have one."""

    @classmethod
    def of(cls, episodes: Episodes, scores: Tensor, *, first_turn: bool) -> Gains:
        """The gains of turns before and after which the answer was scored.

        Args:
            scores: (B, K), float: s before each turn, NaN where no answer is known; read at turns that were played.
            first_turn: whether the first turn has a gain, relative to the score after the prompt alone.

        Raises:
            ValueError: a score that is read is infinite.
        """
        played = episodes.played
        scores = pad(scores.double(), (0, played.shape[1] - scores.shape[1]), value=torch.nan)
        following = pad(scores[:, 1:], (0, 1), value=torch.nan)
        known = played & pad(played[:, 1:], (0, 1)) & ~scores.isnan() & ~following.isnan()
        if not first_turn:
            known[:, :1] = False
        values = torch.where(known, following - scores, 0.0)
        if not bool(torch.isfinite(values).all()):
            raise ValueError("answer_scores is infinite: the policy gives a token of the known answer zero probability")
        return cls(values, known)

    def normalised(self, groups: Tensor, *, centred: bool = True) -> Tensor:
        """(B, K), float64: z-scores among the known gains of equal ``groups``, (B, K) integers; 0 elsewhere.

        centred: False divides by the root mean square instead, and subtracts nothing.
        """
        z_scores = torch.zeros_like(self.values)
        z_scores[self.known] = _z_scores(self.values[self.known], _dense(groups[self.known]), centred=centred)
        return z_scores

    @property
    def metrics(self) -> dict[str, float]:
        """Mean and standard deviation of the gains, and how many there are per row."""
        found = self.values[self.known]
        if found.numel() == 0:
            return {"estimator/information_gains": 0.0}
        return {
            "estimator/information_gains": float(found.numel()),
            "estimator/information_gain/mean": float(found.mean()),
            "estimator/information_gain/std": float(found.std(correction=0)),
        }


def igpo_advantages(
    episodes: Episodes,
    gains: Gains,
    outcomes: Tensor,
    outcome_advantages: Tensor,
    group_ids: Tensor,
    *,
    gamma: float,
    information_weight: float,
    pool: str,
    baseline: str = "gain",
) -> Tensor:
    """IGPO: A(i,k) = sum_{l >= k} gamma^(l-k) r(i,l), r the normalised gain of a turn, at the last turn the outcome.

    Args:
        outcomes: (B,), float: each episode's return; read with ``pool="joint"``.
        outcome_advantages: (B,), float: the same normalised; read with ``"separate"``.
        group_ids: (B,), integer: the prompt group of each row.
        gamma: discount of a turn.
        information_weight: factor on the normalised gains; with 0, ``gamma`` 1 and ``"separate"`` the result is
            ``outcome_advantages`` to the bit.
        pool: one of `POOLS`.
        baseline: one of `BASELINES`; ``"to_come"`` with ``"separate"`` only. It divides gains by their root mean square
            and subtracts `less_to_come`'s mean from their sums.

    Returns:
        (B, T), float32: 0 outside the sampled tokens.
    """
    played = episodes.played
    if pool == "joint":
        normal_gains, outcome_advantages = _pooled(gains, outcomes, played.any(dim=1), group_ids)
    else:
        normal_gains = gains.normalised(group_ids[:, None].expand(played.shape), centred=baseline == "gain")
    to_come = discounted_sums(normal_gains, torch.full_like(normal_gains, gamma))
    if baseline == "to_come":
        to_come = less_to_come(to_come, played, group_ids, played.any(dim=1))
    turn = torch.arange(played.shape[1], device=played.device)
    turns_left = (played.sum(dim=1, keepdim=True) - 1 - turn).clamp(min=0)
    discount = torch.full_like(normal_gains, gamma) ** turns_left
    of_outcome = torch.where(played, discount * outcome_advantages[:, None].double(), 0.0)
    return episodes.turns.to_tokens(of_outcome + information_weight * to_come)


def _pooled(gains: Gains, outcomes: Tensor, valid_rows: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) and (B,), float64: z-scores of gains and outcomes in one pool per prompt; 0 where there is none."""
    prompts = _dense(group_ids)
    of_gains = prompts[:, None].expand(gains.known.shape)[gains.known]
    values = torch.cat([gains.values[gains.known], outcomes[valid_rows].double()])
    z_scores = _z_scores(values, torch.cat([of_gains, prompts[valid_rows]]))
    normal_gains, normal_outcomes = torch.zeros_like(gains.values), torch.zeros_like(outcomes, dtype=torch.float64)
    normal_gains[gains.known], normal_outcomes[valid_rows] = z_scores[: len(of_gains)], z_scores[len(of_gains) :]
    return normal_gains, normal_outcomes


def turn_group_gains(gains: Gains, group_ids: Tensor, *, min_group_size: int, centred: bool = True) -> Tensor:
    """A2TGPO's normalised gains: z-scores among the turns of one prompt with the same turn number.

    Args:
        group_ids: (B,), integer: the prompt group of each row.
        min_group_size: where fewer turns share prompt and turn number, their z-scores are taken among all gains of the
            prompt. With 1 this never happens, and a turn alone gets 0.
        centred: as in `Gains.normalised`.

    Returns:
        (B, K), float64: 0 where there is no gain.
    """
    known = gains.known
    by_prompt = group_ids[:, None].expand(known.shape)
    numbers = torch.arange(known.shape[1], device=known.device).expand(known.shape)
    turn_groups = torch.zeros_like(by_prompt)
    turn_groups[known] = _dense(torch.stack([by_prompt[known], numbers[known]], dim=1))
    z_scores = gains.normalised(turn_groups, centred=centred)
    if min_group_size <= 1 or not bool(known.any()):
        return z_scores
    sizes = sums_by(turn_groups[known], torch.ones_like(gains.values[known]))
    small = known & (sizes[turn_groups] < min_group_size)
    return torch.where(small, gains.normalised(by_prompt, centred=centred), z_scores)


def a2tgpo_advantages(episodes: Episodes, to_come: Tensor, outcome_advantages: Tensor, *, alpha: float) -> Tensor:
    """A2TGPO: A(i,k) = O(i) + alpha * D(i,k).

    Args:
        to_come: (B, K), float64: D, from `a2tgpo_information`.
        outcome_advantages: (B,), float: O, each episode's normalised outcome.

    Returns:
        (B, T), float32: 0 outside the sampled tokens, and with ``alpha`` 0 ``outcome_advantages`` to the bit inside.
    """
    return episodes.turns.to_tokens(outcome_advantages[:, None].double() + alpha * to_come)


def a2tgpo_information(gains: Gains, normal_gains: Tensor, *, gamma: float) -> Tensor:
    """(B, K), float64: D(i,k) = sum_{l >= k} gamma^(l-k) g(i,l) / sqrt(number of gains from k on); 0 without a gain.

    Args:
        normal_gains: (B, K), float64: g, from `turn_group_gains`.
        gamma: discount of a turn.
    """
    to_come = discounted_sums(normal_gains, torch.full_like(normal_gains, gamma))
    terms = gains.known.flip(1).cumsum(dim=1).flip(1).clamp(min=1)
    return torch.where(gains.known, to_come / terms.sqrt(), 0.0)


def shared_with_first(values: Tensor, gains: Gains) -> Tensor:
    """(B, K): the values of turns, the first turn with that of the second where the second has a gain."""
    if values.shape[1] < 2:
        return values
    first = torch.where(gains.known[:, 1], values[:, 1], values[:, 0])
    return torch.cat([first[:, None], values[:, 1:]], dim=1)


def clip_scales(episodes: Episodes, normal_gains: Tensor, *, clip_beta: float) -> Tensor:
    """(B, T), float32: c = 1 + clip_beta * (2 * sigmoid(g) - 1) of each token's turn, in 1 -+ clip_beta.

    1 for a turn without a gain, whose g is 0, and outside the sampled tokens.
    """
    return episodes.turns.to_tokens(clip_beta * (2.0 * torch.sigmoid(normal_gains) - 1.0)).add_(1.0)


def _dense(groups: Tensor) -> Tensor:
    """Numbers from 0, equal for equal entries (rows, for a matrix) of ``groups``."""
    numbers: Tensor = torch.unique(groups, dim=0, return_inverse=True)[1]
    return numbers


def _z_scores(values: Tensor, groups: Tensor, *, centred: bool = True) -> Tensor:
    """(N,): each value's distance from the mean of its group, or from 0, over its population root mean square."""
    if values.numel() == 0:
        return values
    counts = sums_by(groups, torch.ones_like(values))
    distances = values - (sums_by(groups, values) / counts)[groups] if centred else values
    variance = sums_by(groups, distances**2) / counts
    return distances / ((variance + _VARIANCE_EPS).sqrt() + _STD_EPS)[groups]


_COLUMNS: Final = (TURN_IDS, TURN_REWARDS, ANSWER_SCORES, GROUP_IDS)


def _gains(step: Step, *, first_turn: bool) -> Gains:
    gains = Gains.of(step.episodes, step.columns[ANSWER_SCORES], first_turn=first_turn)
    step.metrics.update(gains.metrics)
    return gains


def _check_igpo(*, information_weight: object, pool: object, first_turn: object, baseline: object) -> None:
    require_number("information_weight", information_weight, low=0.0)
    require_choice("pool", pool, choices=POOLS)
    require_flag("first_turn", first_turn)
    require_choice("baseline", baseline, choices=BASELINES)
    if (pool, baseline) == ("joint", "to_come"):
        problem = "subtracts one mean from gains and returns, and estimator.baseline=to_come subtracts none from gains"
        raise ConfigurationError("pool", pool, problem, "Set estimator.pool=separate")


@register_estimator("igpo", required_columns=_COLUMNS, check=_check_igpo, granularity="turn", family="Monte Carlo")
def igpo(
    step: Step,
    *,
    information_weight: float = 1.0,
    pool: str = "separate",
    first_turn: bool = True,
    baseline: str = "gain",
) -> Tensor:
    """Discounted sums to come of the normalised rewards: the outcome at the last turn, information gains before it."""
    advantages = igpo_advantages(
        step.episodes,
        _gains(step, first_turn=first_turn),
        step.returns,
        step.outcome_advantages(),
        step.group_ids,
        gamma=step.gamma,
        information_weight=information_weight,
        pool=pool,
        baseline=baseline,
    )
    advantages *= step.response_mask
    return advantages


def _check_a2tgpo(
    *, alpha: object, clip_beta: object, min_group_size: object, first_turn: object, baseline: object
) -> None:
    require_number("alpha", alpha, low=0.0)
    require_number("clip_beta", clip_beta, low=0.0, high=1.0)
    require_integer("min_group_size", min_group_size, low=1)
    require_choice("baseline", baseline, choices=BASELINES)
    if not isinstance(first_turn, bool) and first_turn != AS_SECOND:
        problem = f"must be true, false or {AS_SECOND}"
        raise ConfigurationError("first_turn", first_turn, problem, "Set it to one of the three")
    if (first_turn, baseline) == (AS_SECOND, "to_come"):
        problem = "credits the first turn only where the episode goes on, against estimator.baseline=to_come"
        raise ConfigurationError("first_turn", first_turn, problem, "Set estimator.first_turn=true")


def _a2tgpo_gives(params: Params) -> tuple[str, ...]:
    return (CLIP_SCALES,) if params["clip_beta"] > 0 else ()


@register_estimator(
    "a2tgpo",
    required_columns=_COLUMNS,
    check=_check_a2tgpo,
    gives=_a2tgpo_gives,
    granularity="turn",
    family="Monte Carlo",
)
def a2tgpo(
    step: Step,
    *,
    alpha: float = 0.3,
    clip_beta: float = 0.3,
    min_group_size: int = 1,
    first_turn: bool | str = False,
    baseline: str = "gain",
) -> Advantages:
    """verl's GRPO plus ``alpha`` times the rescaled gains to come; and the scales of the clip range."""
    gains = _gains(step, first_turn=first_turn is True)
    normal = turn_group_gains(gains, step.group_ids, min_group_size=min_group_size)
    if baseline == "to_come":
        scaled = turn_group_gains(gains, step.group_ids, min_group_size=min_group_size, centred=False)
        to_come = a2tgpo_information(gains, scaled, gamma=step.gamma)
        played = step.episodes.played
        to_come = less_to_come(to_come, played, step.group_ids, played.any(dim=1))
    else:
        to_come = a2tgpo_information(gains, normal, gamma=step.gamma)
    if first_turn == AS_SECOND:
        to_come, normal = shared_with_first(to_come, gains), shared_with_first(normal, gains)
    advantages = a2tgpo_advantages(step.episodes, to_come, step.outcome_advantages(), alpha=alpha)
    advantages *= step.response_mask
    return Advantages(advantages, clip_scales=clip_scales(step.episodes, normal, clip_beta=clip_beta))
