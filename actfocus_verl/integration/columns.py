"""Token columns: what a trajectory says about each of its response tokens, in the form verl's TransferQueue carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from verl.experimental.agent_loop import AgentLoopOutput

TOKEN_ROLES = "token_roles"
TURN_IDS = "turn_ids"
TURN_REWARDS = "turn_rewards"
ANCHORS = "anchors"
GROUP_IDS = "group_ids"

OUTCOME_PREFIX = "outcome/"
"""Before the names of a world's further figures (`World.outcome`) in verl's `reward_extra_info`."""


def group_ids(keys: Sequence[str]) -> torch.Tensor:
    """Return numbers, int64 (B,), equal for rows of one prompt group; keys are verl's `{uid}_{session}_{index}`."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(key.rsplit("_", 2)[0], len(numbers)) for key in keys], dtype=torch.int64)


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
        columns[ANCHORS] = torch.tensor(self.anchors, dtype=torch.int64)
        return columns
