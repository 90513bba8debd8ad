"""CARL's advantages (arXiv 2512.04949): the episodes of a prompt as a tree, with credit where it branches.

A *state* is the exact token prefix a turn was sampled after. A *draw* is one reply sampled in a state; it leads to the
state of the episode's next turn or, at its end, to the episode's return. A forked episode begins with turns it replays
from another one: those are draws of that other episode, and are counted there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.columns import GROUP_IDS, REPLAYED, STATES, TURN_IDS, TURN_REWARDS
from actfocus_verl.credit.episodes import Episodes
from actfocus_verl.credit.estimation import Advantages, Step, register_estimator


class TreeCredit(NamedTuple):
    """The tree's result for each token of a batch."""

    advantages: Tensor
    """(B, T), float32: A of the token's draw; 0 outside the update set."""
    update_set: Tensor
    """(B, T), bool: tokens of draws from a state with more than one draw (Eq. 13)."""
    draws: int
    """Draws in the batch."""
    critical_draws: int
    """Draws in the update set."""


def tree_advantages(
    episodes: Episodes, states: Tensor, replayed: Tensor, returns: Tensor, group_ids: Tensor
) -> TreeCredit:
    """CARL's Eqs. 10, 11 and 13.

    The value of a state is the unweighted mean over its draws of the value each led to, the return at the end of an
    episode; the advantage of a draw is the value it led to minus that of its state. A draw counts once, however many
    forks begin with it; two draws that happen to be the same reply count separately.

    Args:
        states: (B, K), integer: hash of the token prefix each turn was sampled after; read at turns that were played.
        replayed: (B, K): non-zero at the turns an episode shares with the one it was forked from; likewise.
        returns: (B,): of the whole episode, replayed turns included; read at rows that have a turn.
        group_ids: (B,), integer: the prompt group of each row. Trees of two groups share nothing.

    Raises:
        ValueError: replayed turns that are not the first ones or have tokens to train, a state without a draw, or a
            return that is not finite.
    """
    played, width = episodes.played, episodes.played.shape[1]
    states, replayed = pad(states, (0, width - states.shape[1])), pad(replayed, (0, width - replayed.shape[1]))
    drawn = played & (replayed == 0)
    _check_replayed(episodes, drawn)
    counts = played.sum(dim=1)
    if not bool(torch.isfinite(returns[counts > 0]).all()):
        raise ValueError("the return of an episode is NaN or infinite; check the world's rewards")

    nodes = _numbered(states, played, group_ids)  # (B, K)
    draws = torch.bincount(nodes[drawn], minlength=int(nodes.max()) + 1 if nodes.numel() else 1).double()
    if bool((draws[nodes[played]] == 0).any()):
        raise ValueError("no episode of the group has a draw in a replayed state; a row of the group is missing")
    reached = torch.zeros(played.shape, dtype=torch.float64, device=states.device)
    values = torch.zeros_like(draws)
    for turn in reversed(range(width)):  # a state's turn is part of its number, so its draws are all of one turn
        following = values[nodes[:, turn + 1]] if turn + 1 < width else values.new_zeros(len(nodes))
        reached[:, turn] = torch.where(counts == turn + 1, returns.double(), following)
        rows = drawn[:, turn]
        values.index_add_(0, nodes[rows, turn], reached[rows, turn] / draws[nodes[rows, turn]])

    critical = drawn & (draws[nodes] > 1)
    return TreeCredit(
        episodes.turns.to_tokens(torch.where(critical, reached - values[nodes], 0.0)),
        episodes.turns.to_tokens(critical.float()) > 0,
        int(drawn.sum()),
        int(critical.sum()),
    )


def _numbered(states: Tensor, played: Tensor, group_ids: Tensor) -> Tensor:
    """(B, K), int64: equal for equal states of equal turns of one group, from 0; 0 also where nothing was played."""
    turns = torch.arange(played.shape[1], device=states.device)
    named = torch.stack([group_ids[:, None].expand(states.shape), turns.expand(states.shape), states], dim=2)
    nodes = torch.zeros(played.shape, dtype=torch.int64, device=states.device)
    if bool(played.any()):
        nodes[played] = torch.unique(named[played], dim=0, return_inverse=True)[1]
    return nodes


def _check_replayed(episodes: Episodes, drawn: Tensor) -> None:
    """A fork replays its first turns, not all of them, and their tokens train in the other episode."""
    played = episodes.played
    after_a_draw = drawn.cumsum(dim=1) > drawn.long()
    if bool((played & ~drawn & after_a_draw).any()) or bool((played.any(dim=1) & ~drawn.any(dim=1)).any()):
        raise ValueError("replayed marks turns after the fork, or all turns of an episode")
    if bool((episodes.turns.present & ~drawn).any()):
        raise ValueError("response_mask is 1 on replayed turns; they are trained in the episode they were sampled in")


@register_estimator(
    "carl",
    required_columns=(TURN_IDS, TURN_REWARDS, STATES, REPLAYED, GROUP_IDS),
    spreads_kl=False,
    by_tree=True,
    granularity="turn",
    family="Monte Carlo",
)
def carl(step: Step) -> Advantages:
    """CARL's tree of values; the tokens outside its update set are dropped."""
    returns = step.rewards.double().sum(dim=1)
    tree = tree_advantages(step.episodes, step.columns[STATES], step.columns[REPLAYED], returns, step.group_ids)
    step.metrics["estimator/critical_draws"] = float(tree.critical_draws)
    step.metrics["estimator/critical_share"] = tree.critical_draws / max(tree.draws, 1)
    return Advantages(tree.advantages * step.response_mask, update_set=tree.update_set)
