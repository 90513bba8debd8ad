"""A batch's turns: means over the tokens sampled in a turn, and back from turns to tokens.

A turn is everything the policy emits between two messages of the environment; other papers call it a step or a
response span. Turns are given by the ``turn_ids`` column and never guessed from the text or from equal values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from actfocus_verl.credit.blocks import row_blocks
from actfocus_verl.credit.checks import check_same_shape, count_tokens_and_rows


@dataclass(frozen=True)
class Turns:
    """The turns of B rows of T tokens; K is the largest turn id plus 1."""

    bins: Tensor
    """(B, T), int32: a sampled token's turn id plus 1; 0 for every other token, whose sums are discarded."""
    lengths: Tensor
    """(B, K), float64: tokens of each turn; 0 for a missing turn."""

    @classmethod
    def of(cls, turn_ids: Tensor, response: Tensor) -> Turns:
        """The turns of a batch.

        Args:
            turn_ids: (B, T), integer: which turn a token was sampled in; read at sampled tokens only.
            response: (B, T), bool: the sampled tokens.

        Raises:
            ValueError: shapes differ, ids are not integers, or a sampled token has none (a negative id).
        """
        check_same_shape("turn_ids", turn_ids, response)
        if turn_ids.is_floating_point():
            raise ValueError(f"turn_ids has dtype {turn_ids.dtype}; pass the integer column of the agent loop")
        bins = torch.empty(turn_ids.shape, dtype=torch.int32, device=turn_ids.device)
        for rows in row_blocks(bins):
            bins[rows] = torch.where(response[rows], turn_ids[rows] + 1, 0)
        if not torch.equal(bins > 0, response):
            raise ValueError(
                f"turn_ids is negative at {count_tokens_and_rows(response & (turn_ids < 0))} the policy sampled; every "
                "sampled token belongs to a turn, numbered from 0"
            )
        lengths = torch.zeros(
            len(bins), int(bins.max()) if bins.numel() else 0, dtype=torch.float64, device=bins.device
        )
        return cls(bins, cls(bins, lengths)._sums(torch.ones((), device=bins.device).expand(bins.shape)))

    @property
    def present(self) -> Tensor:
        """(B, K), bool: the turns that have a token."""
        return self.lengths > 0

    def mean(self, column: Tensor) -> Tensor:
        """(B, K), float64: mean of a (B, T) column over the tokens of each turn; 0 for a missing turn.

        NaN or infinity at a sampled token makes the mean of its turn NaN or infinite.
        """
        return self._sums(column.detach()) / self.lengths.clamp(min=1.0)

    def following(self, values: Tensor) -> Tensor:
        """(B, K): at each turn the value of the next turn present; 0 at the last one."""
        last = values.shape[1]
        if last == 0:
            return values
        candidates = torch.where(self.present, torch.arange(last, device=values.device), last)
        this_or_next = candidates.flip(1).cummin(dim=1).values.flip(1)
        following = pad(this_or_next[:, 1:], (0, 1), value=last)
        return pad(values, (0, 1)).gather(1, following)  # column `last` is the 0 of "none"

    def to_tokens(self, values: Tensor) -> Tensor:
        """(B, T), float32: (B, K) values, each at the tokens of its turn; 0 outside the turns."""
        by_bin = pad(values.float(), (1, 0))
        tokens = torch.empty(self.bins.shape, dtype=torch.float32, device=values.device)
        for rows in row_blocks(tokens):
            tokens[rows] = by_bin[rows].gather(1, self.bins[rows].long())
        return tokens

    def _sums(self, column: Tensor) -> Tensor:
        """(B, K), float64: sums of a (B, T) column over the tokens of each turn."""
        sums = pad(torch.zeros_like(self.lengths), (1, 0))
        for rows in row_blocks(self.bins):
            sums[rows].scatter_add_(1, self.bins[rows].long(), column[rows].double())
        return sums[:, 1:]
