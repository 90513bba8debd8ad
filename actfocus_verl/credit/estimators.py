"""Advantage estimators over turns with a critic: GAE over turns, VETTA's, bi-level GAE.

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

from actfocus_verl.checks import require_choice, require_number
from actfocus_verl.columns import TURN_IDS, TURN_REWARDS, VALUES
from actfocus_verl.credit.blocks import row_blocks
from actfocus_verl.credit.episodes import Episodes, discounted_sums
from actfocus_verl.credit.estimation import Advantages, Step, register_estimator

WHITEN_EPS: Final = 1e-8
"""Added to the variance that advantages are whitened by, as verl's GAE does."""
TURN_VALUES: Final = ("last", "first")
"""The token of a turn whose value is the turn's in bi-level GAE."""

_BAD_VALUES: Final = "values is NaN or infinite at sampled tokens; check the critic"


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
