"""Turn-level advantage estimators: GiGPO's step level, GAE over turns, bi-level GAE.

One row is one episode of B, with T response tokens and up to K turns. Statistics are computed in float64 over the whole
batch, without padding rows and masked tokens. The pure functions stand alone; the thin wrappers at the end register
them under a name that ``algorithm.adv_estimator`` selects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.columns import ANCHORS, GROUP_IDS, TURN_IDS, TURN_REWARDS, VALUES
from actfocus_verl.credit.blocks import row_blocks
from actfocus_verl.credit.episodes import Episodes, discounted_sums
from actfocus_verl.credit.estimation import Advantages, Step, register_estimator

STD_EPS: Final = 1e-6
"""Added to a group's standard deviation, as verl's GRPO and GiGPO's authors do."""
WHITEN_EPS: Final = 1e-8
"""Added to the variance that advantages are whitened by, as verl's GAE does."""
_ROUNDING: Final = 1e-9
"""Below this share of the largest return, a difference of float64 returns is a rounding of 0."""
STATISTICS: Final = ("episodes", "turns")
"""What GiGPO's mean return of a prompt counts: each episode once, or once for each of its turns."""
TURN_VALUES: Final = ("last", "first")
"""The token of a turn whose value is the turn's in bi-level GAE."""

_BAD_VALUES: Final = "values is NaN or infinite at sampled tokens; check the critic"


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


def numbered(keys: Tensor, selected: Tensor) -> Tensor:
    """(B, K), int64: numbers from 0, equal for equal keys (B, K, ...) of selected turns; 0 elsewhere."""
    numbers = torch.zeros(selected.shape, dtype=torch.int64, device=keys.device)
    numbers[selected] = torch.unique(keys[selected], dim=0, return_inverse=True)[1]
    return numbers


def within_states(states: Tensor, selected: Tensor, returns: Tensor, *, by_std: bool) -> tuple[Tensor, Tensor]:
    """(B, K), float64: returns of selected turns less their state's mean, 0 for one alone; and which have peers."""
    state, values = states[selected], returns[selected]
    counts = sums_by(state, torch.ones_like(values))
    centred = values - (sums_by(state, values) / counts)[state]
    if by_std:
        variance = sums_by(state, centred**2) / (counts - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + STD_EPS)[state]
    advantages, shared = torch.zeros_like(returns), torch.zeros_like(selected)
    shared[selected] = counts[state] > 1
    advantages[selected] = torch.where(counts[state] > 1, centred, 0.0)
    return advantages, shared


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


def sums_by(index: Tensor, values: Tensor) -> Tensor:
    """(G,): sums of the (N,) values of equal index, (N,) integers from 0; N > 0, G the largest index plus 1."""
    return torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device).index_add_(0, index, values)


def turn_gae(
    episodes: Episodes,
    values: Tensor,
    penalties: Tensor | None,
    loss_mask: Tensor,
    *,
    gamma: float,
    lam: float,
    token_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """GAE with the turn as the action: a turn's tokens share one advantage, and one target for the critic.

    With a token weight, VETTA's: plus that times each token's advantage less its mean over the turn. A token's is the
    turn's target minus the value before the token, so what is added is the turn's mean value minus that value.

    Args:
        values: (B, T): the critic's, before each token; read at the first token of a turn, the state the turn saw, and
            with a token weight at every sampled token.
        penalties: (B, T): added to the reward of the turn a token is in; read at sampled tokens. None: 0.
        loss_mask: (B, T): where advantages are whitened, non-zero at (some) sampled tokens.

    Returns:
        (B, T) twice, float32: advantages, whitened over the tokens of ``loss_mask`` and 0 elsewhere; targets, 0 outside
        the sampled tokens.
    """
    first, _ = episodes.edges()
    seen = _gathered(episodes, values, first)
    advantages = episodes.gae(episodes.rewards_with_tokens(penalties), seen, gamma, lam)
    targets = episodes.turns.to_tokens(advantages + seen)
    if token_weight:
        return whiten(_less_values(episodes, advantages, values, token_weight), loss_mask != 0), targets
    return whiten(episodes.turns.to_tokens(advantages), loss_mask != 0), targets


def _less_values(episodes: Episodes, advantages: Tensor, values: Tensor, weight: float) -> Tensor:
    """(B, T), float32: turns' advantages plus a weight times how far a token's value is below its turn's mean."""
    means = episodes.turns.mean(values)
    if not bool(torch.isfinite(means).all()):
        raise ValueError(_BAD_VALUES)
    of_tokens, bins = episodes.turns.to_tokens(advantages + weight * means), episodes.turns.bins
    for rows in row_blocks(bins):
        of_tokens[rows] -= torch.where(bins[rows] > 0, weight * values[rows], 0.0)
    return of_tokens


def bilevel_gae(
    episodes: Episodes,
    values: Tensor,
    loss_mask: Tensor,
    *,
    gamma: float,
    lam: float,
    high_level_gamma: float,
    turn_value: str = "last",
) -> tuple[Tensor, Tensor]:
    """VAGEN's two levels: GAE over turns gives each turn a return, which GAE over tokens spreads inside the turn.

    Args:
        values: (B, T): the critic's, before each token; read at sampled tokens.
        loss_mask: (B, T): where advantages are whitened, non-zero at (some) sampled tokens.
        gamma: discount of a token inside a turn.
        high_level_gamma: discount of a turn.
        turn_value: which token's value is its turn's, one of `TURN_VALUES`.

    Returns:
        As `turn_gae`.

    Raises:
        ValueError: a turn's tokens are not contiguous, or a value that is read is not finite.
    """
    first, last = episodes.edges()
    if bool((episodes.turns.present & (last - first + 1 != episodes.turns.lengths)).any()):
        raise ValueError("turn_ids repeats a number for tokens that are not contiguous; a turn is one reply")
    of_turns = _gathered(episodes, values, first if turn_value == "first" else last)
    returns = of_turns + episodes.gae(episodes.rewards_with_tokens(), of_turns, high_level_gamma, lam)
    bins = episodes.turns.bins
    advantages, targets = torch.zeros_like(values, dtype=torch.float32), torch.zeros_like(values, dtype=torch.float32)
    for rows in row_blocks(bins):
        turn = bins[rows].long()
        sampled = turn > 0
        own = torch.where(sampled, values[rows].double(), 0.0)
        if not bool(torch.isfinite(own).all()):
            raise ValueError(_BAD_VALUES)
        goes_on = sampled & (pad(turn[:, 1:], (0, 1)) == turn)
        after = torch.where(goes_on, gamma * pad(own[:, 1:], (0, 1)), pad(returns[rows], (1, 0)).gather(1, turn))
        deltas = torch.where(sampled, after - own, 0.0)
        sums = discounted_sums(deltas, torch.where(goes_on, gamma * lam, 0.0))
        advantages[rows], targets[rows] = sums.float(), (sums + own).float()
    return whiten(advantages, loss_mask != 0), targets


def _gathered(episodes: Episodes, values: Tensor, positions: Tensor) -> Tensor:
    """(B, K), float64: the critic's value at one position of each turn; 0 for a turn without tokens."""
    present = episodes.turns.present
    found = torch.where(present, values.gather(1, positions).double(), 0.0)
    if not bool(torch.isfinite(found).all()):
        raise ValueError(_BAD_VALUES)
    return found


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """(B, T): mean 0 and unbiased variance 1 over the tokens of a bool mask, 0 elsewhere; a single token becomes 0."""
    count = int(mask.sum())
    if count == 0:
        return torch.zeros_like(advantages)
    mean = _masked_sum(advantages, mask, lambda block: block) / count
    variance = _masked_sum(advantages, mask, lambda block: (block - mean) ** 2) / max(count - 1, 1)
    return torch.where(mask, (advantages - mean) * (variance + WHITEN_EPS) ** -0.5, 0.0)


def _masked_sum(column: Tensor, mask: Tensor, of: Callable[[Tensor], Tensor]) -> float:
    return sum(float(torch.where(mask[rows], of(column[rows].double()), 0.0).sum()) for rows in row_blocks(column))


def over_turns(returns: Tensor, turns: Tensor, group_ids: Tensor, *, by_std: bool) -> Tensor:
    """(B,), float32: returns less the mean of the prompt, in which an episode counts once for each of its turns.

    Args:
        returns: (B,): read at rows with turns.
        turns: (B,), integer: turns of each episode, 0 for a padding row.
        group_ids: (B,), integer: the prompt group of each row.
        by_std: divide by the standard deviation (unbiased, likewise over turns) plus 1e-6.
    """
    prompts = torch.unique(group_ids, return_inverse=True)[1]
    weights, values = turns.double(), torch.where(turns > 0, returns.double(), 0.0)
    counts = sums_by(prompts, weights)
    means = torch.where(counts > 1, sums_by(prompts, weights * values) / counts.clamp(min=1), 0.0)
    centred = values - means[prompts]
    if by_std:
        variance = sums_by(prompts, weights * centred**2) / (counts - 1).clamp(min=1)
        centred = centred / torch.where(counts > 1, variance.sqrt() + STD_EPS, 1.0)[prompts]
    return torch.where(turns > 0, centred, 0.0).float()


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


@register_estimator(
    "turn_ppo",
    required_columns=(TURN_IDS, TURN_REWARDS, VALUES),
    granularity="turn",
    family="temporal difference",
)
def turn_ppo(step: Step) -> Advantages:
    """GAE over turns; the KL penalties of a turn's tokens are part of its reward."""
    return _over_turns(step, 0.0)


def _over_turns(step: Step, token_weight: float) -> Advantages:
    penalties = None if torch.equal(step.rewards, step.scores) else step.rewards - step.scores
    settings = {"gamma": step.gamma, "lam": step.lam, "token_weight": token_weight}
    return Advantages(*turn_gae(step.episodes, step.columns[VALUES], penalties, step.response_mask, **settings))


def _check_vetta(*, token_weight: object) -> None:
    require_number("token_weight", token_weight, low=0.0)


@register_estimator(
    "vetta",
    required_columns=(TURN_IDS, TURN_REWARDS, VALUES),
    check=_check_vetta,
    granularity="token",
    family="temporal difference",
)
def vetta(step: Step, *, token_weight: float = 1.0) -> Advantages:
    """Turn-PPO's GAE plus ``token_weight`` times the centred advantages of a turn's tokens."""
    return _over_turns(step, token_weight)


def _check_bilevel_gae(*, high_level_gamma: object, turn_value: object) -> None:
    require_number("high_level_gamma", high_level_gamma, low=0.0, high=1.0)
    require_choice("turn_value", turn_value, choices=TURN_VALUES)


@register_estimator(
    "bilevel_gae",
    required_columns=(TURN_IDS, TURN_REWARDS, VALUES),
    check=_check_bilevel_gae,
    spreads_kl=False,
    granularity="token",
    family="temporal difference",
)
def bilevel_gae_advantages(step: Step, *, high_level_gamma: float = 0.95, turn_value: str = "last") -> Advantages:
    """GAE over turns with ``high_level_gamma``, then over the tokens of each turn."""
    return Advantages(
        *bilevel_gae(
            step.episodes,
            step.columns[VALUES],
            step.response_mask,
            gamma=step.gamma,
            lam=step.lam,
            high_level_gamma=high_level_gamma,
            turn_value=turn_value,
        )
    )
