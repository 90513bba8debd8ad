"""The turns of whole episodes, for turn-level advantage estimators.

One row is one episode of B, with T response tokens and up to K turns. Turns come from the ``turn_ids`` column only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.credit.blocks import row_blocks
from actfocus_verl.credit.turns import Turns


@dataclass(frozen=True)
class Episodes:
    """The turns of a batch's episodes. A padding row has none."""

    turns: Turns
    """Built from the sampled tokens."""
    played: Tensor
    """(B, K), bool: the turns an episode has, with tokens or without (a reply can be cut off before its first)."""
    rewards: Tensor
    """(B, K), float64: the environment's reward of each turn; 0 for a missing turn."""

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
            raise ValueError("turn_ids has turns without an entry in turn_rewards; both come from the agent loop")
        if not bool(torch.isfinite(rewards).all()):
            raise ValueError("turn_rewards is NaN or infinite at a turn that was played; check the world's rewards")
        return cls(turns, played, rewards)

    def edges(self) -> tuple[Tensor, Tensor]:
        """(B, K) twice, int64: positions of the first and the last token of each turn; arbitrary without tokens."""
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

        The reward of a turn without tokens goes to the last turn before it with tokens; without one, it is dropped.
        """
        index = torch.arange(self.played.shape[1], device=self.rewards.device)
        owner = torch.where(self.turns.present, index, -1).cummax(dim=1).values
        rewards = torch.where(owner >= 0, self.rewards, 0.0)
        owned = torch.zeros_like(rewards).scatter_add_(1, owner.clamp(min=0), rewards)
        if penalties is None:
            return owned
        return owned + self.turns.mean(penalties) * self.turns.lengths

    def gae(self, rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
        """(B, K), float64: generalised advantages over the turns with tokens; the value after the last one is 0."""
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
