"""Advantage estimators over the turns of whole episodes: GiGPO's step level, GAE over turns, bi-level GAE.

One row is one episode of B, with T response tokens and up to K turns. Turns come from the ``turn_ids`` column and from
nothing else. Statistics are computed in float64 over the whole batch; padding rows and masked tokens are in none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.credit.blocks import row_blocks
from actfocus_verl.credit.checks import check_choice, check_count, check_flag, check_number
from actfocus_verl.credit.turns import Turns
from actfocus_verl.errors import ConfigurationError

STD_EPS: Final = 1e-6
"""Added to a group's standard deviation, as verl's GRPO and GiGPO's authors do."""
WHITEN_EPS: Final = 1e-8
"""Added to the variance that advantages are whitened by, as verl's GAE does."""
POOLS: Final = ("separate", "joint")
"""What IGPO normalises together: gains alone and outcomes alone, or both in one pool."""


@dataclass(frozen=True)
class EstimatorSpec:
    """An estimator of ours by its name in verl's registry, with what it needs and its own parameters."""

    name: str
    columns: tuple[str, ...]
    """Columns it reads beyond those verl passes to every estimator."""
    parameters: Mapping[str, Any]
    """The ``estimator`` section: here the defaults, from `build_estimator` the configured values."""
    needs_values: bool = False
    """Whether it reads a critic's values."""
    spreads_kl: bool = True
    """Whether a KL penalty in the reward has a place in it."""
    needs_answers: bool = False
    """Whether the policy is probed for an answer that the world knows."""
    by_tree: bool = False
    """Whether it values states by all episodes that passed through them, forked ones included: `credit.trees`."""


ESTIMATORS: Final[Mapping[str, EstimatorSpec]] = {
    spec.name: spec
    for spec in (
        EstimatorSpec("gigpo", ("turn_ids", "turn_rewards", "anchors"), {"step_weight": 1.0}),
        EstimatorSpec("turn_ppo", ("turn_ids", "turn_rewards", "values"), {}, needs_values=True),
        EstimatorSpec(
            "bilevel_gae",
            ("turn_ids", "turn_rewards", "values"),
            {"high_level_gamma": 0.95},
            needs_values=True,
            spreads_kl=False,
        ),
        EstimatorSpec(
            "igpo",
            ("turn_ids", "turn_rewards", "answer_scores"),
            {"information_weight": 1.0, "pool": "separate", "first_turn": True},
            needs_answers=True,
        ),
        EstimatorSpec(
            "a2tgpo",
            ("turn_ids", "turn_rewards", "answer_scores"),
            {"alpha": 0.3, "clip_beta": 0.3, "min_group_size": 1, "first_turn": False},
            needs_answers=True,
        ),
        EstimatorSpec("carl", ("turn_ids", "turn_rewards", "states", "replayed"), {}, spreads_kl=False, by_tree=True),
    )
}
"""The estimators of this package."""

_CHECKS: Final[Mapping[str, Callable[[str, object], None]]] = {
    "step_weight": partial(check_number, low=0.0),
    "high_level_gamma": partial(check_number, low=0.0, high=1.0),
    "information_weight": partial(check_number, low=0.0),
    "pool": partial(check_choice, choices=POOLS),
    "first_turn": check_flag,
    "alpha": partial(check_number, low=0.0),
    "clip_beta": partial(check_number, low=0.0, high=1.0),
    "min_group_size": check_count,
}


def build_estimator(name: str, section: Mapping[str, object]) -> EstimatorSpec | None:
    """Return ours of this name with the parameters of the ``estimator`` section; None when it is none of ours.

    Raises:
        ConfigurationError: a parameter it does not have, or one out of range.
    """
    spec = ESTIMATORS.get(name)
    known = spec.parameters if spec else {}
    for key, value in section.items():
        if key not in known:
            remedy = f"Known: {', '.join(known)}" if known else f"Remove estimator.{key}"
            raise ConfigurationError(f"estimator.{key}", value, f"is no parameter of algorithm {name}", remedy)
        _CHECKS[key](f"estimator.{key}", value)
    if spec is None:
        return None
    return replace(spec, parameters={key: type(default)(section.get(key, default)) for key, default in known.items()})


@dataclass(frozen=True)
class Episodes:
    """The turns of a batch's episodes. A padding row has none."""

    turns: Turns
    """Of the sampled tokens."""
    played: Tensor
    """(B, K), bool: the turns an episode has, with tokens or without (a reply can be broken off before its first)."""
    rewards: Tensor
    """(B, K), float64: the environment's reward of each turn; 0 for a turn that is not there."""

    @classmethod
    def of(
        cls, turn_ids: Tensor, response_mask: Tensor, turn_rewards: Tensor, turn_counts: Tensor, valid_rows: Tensor
    ) -> Episodes:
        """The episodes of a batch.

        Args:
            turn_ids: (B, T), integer: the turn of each sampled token, from 0; read there only.
            response_mask: (B, T): non-zero at sampled tokens.
            turn_rewards: (B, K): read at an episode's first ``turn_counts`` entries only.
            turn_counts: (B,), integer.
            valid_rows: (B,), bool: False for padding rows.

        Raises:
            ValueError: a token of a turn that has no reward, or a reward that is not finite.
        """
        turns = Turns.of(turn_ids, (response_mask != 0) & valid_rows[:, None])
        width = max(turns.lengths.shape[1], turn_rewards.shape[1])
        turns = Turns(turns.bins, pad(turns.lengths, (0, width - turns.lengths.shape[1])))
        rewards = pad(turn_rewards, (0, width - turn_rewards.shape[1]))
        played = (torch.arange(width, device=rewards.device) < turn_counts[:, None]) & valid_rows[:, None]
        rewards = torch.where(played, rewards.double(), 0.0)
        if bool((turns.present & ~played).any()):
            raise ValueError("turn_ids names turns that turn_rewards has no entry for; both come from the agent loop")
        if not bool(torch.isfinite(rewards).all()):
            raise ValueError("turn_rewards is NaN or infinite at a turn that was played; look at the world's rewards")
        return cls(turns, played, rewards)

    def edges(self) -> tuple[Tensor, Tensor]:
        """(B, K) twice, int64: positions of the first and the last token of each turn; any for a turn without."""
        bins, (size, slots) = self.turns.bins, self.played.shape
        first = torch.full((size, slots), max(bins.shape[1] - 1, 0), dtype=torch.int64, device=bins.device)
        last = torch.zeros_like(first)
        for rows in row_blocks(bins):
            block = bins[rows]
            before, after = pad(block[:, :-1], (1, 0)), pad(block[:, 1:], (0, 1))
            for edges, neighbour, reduce in ((first, before, "amin"), (last, after, "amax")):
                row, position = ((block > 0) & (block != neighbour)).nonzero(as_tuple=True)
                slot = row * slots + block[row, position].long() - 1
                edges[rows].view(-1).scatter_reduce_(0, slot, position, reduce)
        return first, last

    def rewards_with_tokens(self, penalties: Tensor | None = None) -> Tensor:
        """(B, K), float64: rewards of the turns that have tokens, plus the sum of a (B, T) column over these.

        The reward of a turn without tokens goes to the last turn before it that has one; with none before, to no one.
        """
        index = torch.arange(self.played.shape[1], device=self.rewards.device)
        owner = torch.where(self.turns.present, index, -1).cummax(dim=1).values
        rewards = torch.where(owner >= 0, self.rewards, 0.0)
        owned = torch.zeros_like(rewards).scatter_add_(1, owner.clamp(min=0), rewards)
        if penalties is None:
            return owned
        return owned + self.turns.mean(penalties) * self.turns.lengths

    def gae(self, rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
        """(B, K), float64: generalised advantages over the turns that have tokens; nothing follows the last one."""
        present = self.turns.present
        deltas = rewards + gamma * self.turns.following(values) - values
        return discounted_sums(torch.where(present, deltas, 0.0), torch.where(present, gamma * lam, 1.0))


def discounted_sums(values: Tensor, decay: Tensor) -> Tensor:
    """(B, N): y(n) = x(n) + d(n) * y(n + 1), with 0 after the last; by doubling, in log2(N) passes.

    Args:
        values: (B, N), x.
        decay: (B, N), d.
    """
    sums, step = values.clone(), 1
    while step < values.shape[1] and bool(decay.any()):  # a decay of 0 ends a sum
        sums[:, :-step] += decay[:, : values.shape[1] - step] * sums[:, step:]
        decay = decay[:, :-step] * decay[:, step:]  # of 2 * step places, for those that have as many after them
        step *= 2
    return sums


def gigpo_step_advantages(
    episodes: Episodes, anchors: Tensor, group_ids: Tensor, *, gamma: float, by_std: bool
) -> tuple[Tensor, float]:
    """GiGPO's second level (its Eqs. 5 to 7): discounted returns compared where episodes of a prompt met one state.

    Args:
        anchors: (B, K), integer: the state each turn saw; read at the turns that were played.
        group_ids: (B,), integer: the prompt group of each row.
        gamma: discount of a turn.
        by_std: divide by the standard deviation (unbiased) of the anchor group as well.

    Returns:
        (B, T), float32: 0 outside the sampled tokens and for a state met once; and the share of turns that had
        another one to be compared with.
    """
    played = episodes.played
    anchors = pad(anchors, (0, played.shape[1] - anchors.shape[1]))
    returns = discounted_sums(episodes.rewards, torch.full_like(episodes.rewards, gamma))[played]
    if returns.numel() == 0:
        return episodes.turns.to_tokens(torch.zeros_like(episodes.rewards)), 0.0
    states = torch.stack([group_ids[:, None].expand(played.shape)[played], anchors[played]], dim=1)
    _, state = torch.unique(states, dim=0, return_inverse=True)
    counts = sums_by(state, torch.ones_like(returns))
    centred = returns - (sums_by(state, returns) / counts)[state]
    if by_std:
        variance = sums_by(state, centred**2) / (counts - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + STD_EPS)[state]
    advantages = torch.zeros_like(episodes.rewards)
    advantages[played] = torch.where(counts[state] > 1, centred, 0.0)
    return episodes.turns.to_tokens(advantages), float((counts[state] > 1).double().mean())


def sums_by(index: Tensor, values: Tensor) -> Tensor:
    """(G,): sums of the (N,) values of equal index, (N,) integers from 0; N > 0, G the largest index plus 1."""
    return torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device).index_add_(0, index, values)


def turn_gae(
    episodes: Episodes, values: Tensor, penalties: Tensor | None, loss_mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """GAE with the turn as the action: a turn's tokens share one advantage, and one target for the critic.

    Args:
        values: (B, T): the critic's, before each token; read at the first token of a turn, the state the turn saw.
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
    return whiten(episodes.turns.to_tokens(advantages), loss_mask != 0), targets


def bilevel_gae(
    episodes: Episodes, values: Tensor, loss_mask: Tensor, *, gamma: float, lam: float, high_level_gamma: float
) -> tuple[Tensor, Tensor]:
    """RAGEN's two levels: GAE over turns gives each turn a return, which GAE over tokens spreads inside the turn.

    Args:
        values: (B, T): the critic's, before each token; read at sampled tokens. A turn's is that of its last token.
        loss_mask: (B, T): where advantages are whitened, non-zero at (some) sampled tokens.
        gamma: discount of a token inside a turn.
        high_level_gamma: discount of a turn.

    Returns:
        as `turn_gae`.

    Raises:
        ValueError: other tokens stand between those of a turn, or a value that is read is not finite.
    """
    first, last = episodes.edges()
    if bool((episodes.turns.present & (last - first + 1 != episodes.turns.lengths)).any()):
        raise ValueError("turn_ids gives one number to tokens with others between them; a turn is one reply")
    at_end = _gathered(episodes, values, last)
    returns = at_end + episodes.gae(episodes.rewards_with_tokens(), at_end, high_level_gamma, lam)
    bins = episodes.turns.bins
    advantages, targets = torch.zeros_like(values, dtype=torch.float32), torch.zeros_like(values, dtype=torch.float32)
    for rows in row_blocks(bins):
        turn = bins[rows].long()
        sampled = turn > 0
        own = torch.where(sampled, values[rows].double(), 0.0)
        if not bool(torch.isfinite(own).all()):
            raise ValueError("values is NaN or infinite at sampled tokens; look at the critic")
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
        raise ValueError("values is NaN or infinite at sampled tokens; look at the critic")
    return found


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """(B, T): mean 0 and unbiased variance 1 over the tokens of a bool mask, 0 elsewhere; one token alone becomes 0."""
    count = int(mask.sum())
    if count == 0:
        return torch.zeros_like(advantages)
    mean = _masked_sum(advantages, mask, lambda block: block) / count
    variance = _masked_sum(advantages, mask, lambda block: (block - mean) ** 2) / max(count - 1, 1)
    return torch.where(mask, (advantages - mean) * (variance + WHITEN_EPS) ** -0.5, 0.0)


def _masked_sum(column: Tensor, mask: Tensor, of: Callable[[Tensor], Tensor]) -> float:
    return sum(float(torch.where(mask[rows], of(column[rows].double()), 0.0).sum()) for rows in row_blocks(column))
