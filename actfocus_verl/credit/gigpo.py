"""GiGPO (arXiv 2505.10978): episodes compared as a whole, and turn by turn where they meet in a state; HGPO's history.

One row is one episode of B, with T response tokens and up to K turns. Statistics are computed in float64 over the whole
batch, without padding rows and masked tokens.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.columns import ANCHORS, GROUP_IDS, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit.episodes import Episodes, discounted_sums
from actfocus_verl.credit.estimation import Step, register_estimator
from actfocus_verl.credit.groups import numbered, over_turns, within_states

_ROUNDING: Final = 1e-9
"""Below this share of the largest return, a difference of float64 returns is a rounding of 0."""
STATISTICS: Final = ("episodes", "turns")
"""What GiGPO's mean return of a prompt counts: each episode once, or once for each of its turns."""


def gigpo_step_advantages(
    episodes: Episodes,
    anchors: Tensor,
    group_ids: Tensor,
    *,
    gamma: float,
    by_std: bool,
    history: int = 0,
    history_power: float = 1.0,
) -> tuple[Tensor, float]:
    """GiGPO's second level (its Eqs. 5 to 7): discounted returns, compared where episodes of a prompt meet in a state.

    With a history, HGPO's (arXiv 2602.22817): the same among turns whose last d states agree, d = 1 to history + 1, and
    the mean of what is not 0 of these, weighted by (d + 1)^history_power.

    Args:
        anchors: (B, K), integer: the state each turn saw; read at the turns that were played.
        group_ids: (B,), integer: the prompt group of each row.
        gamma: discount of a turn.
        by_std: divide by the standard deviation (unbiased) of the anchor group as well.
        history: how many states before its own a turn is compared by, at most; 0: GiGPO.

    Returns:
        (B, T), float32: 0 outside the sampled tokens and for a state met once; and the share of turns whose state was
        met more than once.
    """
    played = episodes.played
    returns = discounted_sums(episodes.rewards, torch.full_like(episodes.rewards, gamma))
    if not played.any():
        return episodes.turns.to_tokens(torch.zeros_like(returns)), 0.0
    anchors = pad(anchors, (0, played.shape[1] - anchors.shape[1]))
    prompts = group_ids[:, None].expand(played.shape)
    states = numbered(torch.stack([prompts, anchors], dim=2), played)
    advantages, shared = within_states(states, played, returns, by_std=by_std)
    share = float(shared[played].double().mean())
    if history:
        advantages = _with_history(states, played, returns, by_std=by_std, history=history, power=history_power)
    return episodes.turns.to_tokens(advantages), share


def _with_history(
    states: Tensor, played: Tensor, returns: Tensor, *, by_std: bool, history: int, power: float
) -> Tensor:
    """(B, K), float64: HGPO's weighted mean over the depths; see `gigpo_step_advantages`."""
    size = float(returns[played].abs().max()) + 1.0
    sums, weights = torch.zeros_like(returns), torch.zeros_like(returns)
    path, reached = states, played
    for depth in range(1, min(history + 1, played.shape[1]) + 1):
        if depth > 1:
            back = depth - 1
            reached = reached & (torch.arange(played.shape[1], device=played.device) >= back)
            if not reached.any():
                break
            path = numbered(torch.stack([path, pad(states[:, :-back], (back, 0))], dim=2), reached)
        advantages, _ = within_states(path, reached, returns, by_std=by_std)
        counted = advantages.abs() > _ROUNDING * size
        weight = (depth + 1) ** power
        sums += torch.where(counted, weight * advantages, 0.0)
        weights += torch.where(counted, weight, 0.0)
    return torch.where(weights > 0, sums / weights.clamp(min=1.0), 0.0)


def episode_advantages(step: Step, statistics: str) -> Tensor:
    """(B, T): verl's GRPO, or with ``"turns"`` the same with `over_turns`."""
    if statistics == "episodes":
        return step.grpo(step.rewards, step.response_mask)
    turns = step.episodes.played.sum(dim=1)
    return over_turns(step.returns, turns, step.group_ids, by_std=step.by_std)[:, None] * step.response_mask


def _check_gigpo(*, step_weight: object, history: object, history_power: object, episode_statistics: object) -> None:
    require_number("step_weight", step_weight, low=0.0)
    require_integer("history", history, low=0)
    require_number("history_power", history_power, low=0.0)
    require_choice("episode_statistics", episode_statistics, choices=STATISTICS)


@register_estimator(
    "gigpo",
    required_columns=(TURN_IDS, TURN_REWARDS, ANCHORS, GROUP_IDS),
    check=_check_gigpo,
    granularity="turn",
    family="Monte Carlo",
)
def gigpo(
    step: Step,
    *,
    step_weight: float = 1.0,
    history: int = 0,
    history_power: float = 1.0,
    episode_statistics: str = "episodes",
) -> Tensor:
    """verl's GRPO plus ``step_weight`` times the advantage within the states that episodes share."""
    episode = episode_advantages(step, episode_statistics)
    of_states, share = gigpo_step_advantages(
        step.episodes,
        step.columns[ANCHORS],
        step.group_ids,
        gamma=step.gamma,
        by_std=step.by_std,
        history=history,
        history_power=history_power,
    )
    step.metrics["estimator/compared_turns"] = share
    return episode + step_weight * of_states * step.response_mask
