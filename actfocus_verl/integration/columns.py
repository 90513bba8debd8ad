"""Token columns: what a trajectory says about each of its response tokens, in the form verl's TransferQueue carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from verl.experimental.agent_loop import AgentLoopOutput

TOKEN_ROLES = "token_roles"
TURN_IDS = "turn_ids"
TURN_REWARDS = "turn_rewards"
ANCHORS = "anchors"
STATES = "states"
REPLAYED = "replayed"
GROUP_IDS = "group_ids"

OUTCOME_PREFIX = "outcome/"
"""Before the names of a world's further figures (`World.outcome`) in verl's `reward_extra_info`."""

FORK = "fork"
"""In `reward_extra_info` of forked rollouts: turns replayed, 0 for an episode from the beginning, or MISMATCH."""
MISMATCH = -1


def group_ids(keys: Sequence[str]) -> torch.Tensor:
    """Return numbers, int64 (B,), equal for rows of one prompt group; keys are verl's `{uid}_{session}_{index}`."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(key.rsplit("_", 2)[0], len(numbers)) for key in keys], dtype=torch.int64)


def padded_columns(data: TensorDict) -> dict[str, torch.Tensor]:
    """Return the token columns as (B, T) tensors, T the longest response; what lies outside a row's response is 0.

    Columns are read row by row up to the response's own length: verl's padding rows carry a one-token response beside
    columns cloned from a longer row.
    """
    lengths = [row.numel() for row in data["response_mask"].unbind()]
    width = max(lengths)
    columns = {}
    for name in data.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
        rows = data[name].unbind() if isinstance(data[name], torch.Tensor) else None
        if rows is None:
            continue
        column = rows[0].new_zeros((len(rows), width))
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            kept = row[:length]
            column[index, : kept.numel()] = kept
        columns[name] = column
    return columns


def padded_turns(data: TensorDict, valid_rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the columns of turns as (B, K) tensors, K the most turns, and `turn_counts` (B,); padding rows have none.

    Raises ValueError when an episode's columns differ in length.
    """
    rows = {name: data[name].unbind() for name in data.keys()}  # noqa: SIM118  (a TensorDict iterates over rows)
    lengths = {
        name: [row.numel() * int(valid) for row, valid in zip(column, valid_rows, strict=True)]
        for name, column in rows.items()
    }
    counts = next(iter(lengths.values()))
    for name, found in lengths.items():
        if found != counts:
            raise ValueError(f"{name} and {next(iter(lengths))} of an episode differ in length; both have one a turn")
    columns = {"turn_counts": torch.tensor(counts, dtype=torch.int64)}
    for name, column in rows.items():
        columns[name] = column[0].new_zeros((len(counts), max(counts, default=0)))
        for index, (row, count) in enumerate(zip(column, counts, strict=True)):
            columns[name][index, :count] = row[:count]
    return columns


class TokenColumnsOutput(AgentLoopOutput):
    """verl's output of an agent loop plus our columns, which travel as tensors beside `response_mask`."""

    token_roles: list[int]
    """Role of each response token (credit.tokens.TokenRole), int64 (T,)."""
    turn_ids: list[int]
    """Turn each response token was sampled in, -1 outside, int64 (T,)."""
    turn_rewards: list[float]
    """Environment rewards plus penalties of each turn, float32 (K,)."""
    anchors: list[int]
    """Hash of the state each turn saw, int64 (K,)."""
    states: list[int]
    """Hash of the token prefix each turn was sampled after, int64 (K,)."""
    replayed: list[int]
    """1 for the turns shared with the episode this one was forked from, int64 (K,)."""

    def as_dict(self) -> dict[str, Any]:
        """Return verl's columns and ours as tensors; raises ValueError when a token column has another length."""
        for name in (TOKEN_ROLES, TURN_IDS):
            if len(getattr(self, name)) != len(self.response_ids):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries, the response has {len(self.response_ids)} tokens"
                )
        columns = super().as_dict()
        columns[TOKEN_ROLES] = torch.tensor(self.token_roles, dtype=torch.int64)
        columns[TURN_IDS] = torch.tensor(self.turn_ids, dtype=torch.int64)
        columns[TURN_REWARDS] = torch.tensor(self.turn_rewards, dtype=torch.float32)
        for name in (ANCHORS, STATES, REPLAYED):
            columns[name] = torch.tensor(getattr(self, name), dtype=torch.int64)
        return columns
