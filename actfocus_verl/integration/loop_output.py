"""What our agent loops hand to verl: its own output, and the token columns.

Apart from `columns`, for verl's agent loops are costly to import, and the training workers need none.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.experimental.agent_loop import AgentLoopOutput

from actfocus_verl.integration.columns import ANCHORS, REPLAYED, STATES, TOKEN_ROLES, TURN_IDS, TURN_REWARDS

_DTYPES = {
    TOKEN_ROLES: torch.int64,
    TURN_IDS: torch.int64,
    TURN_REWARDS: torch.float32,
    ANCHORS: torch.int64,
    STATES: torch.int64,
    REPLAYED: torch.int64,
}


class TokenColumnsOutput(AgentLoopOutput):
    """verl's output of an agent loop plus our columns, which travel as tensors beside `response_mask`.

    A loop gives those it has. A column of turns has one entry a turn of `turn_ids`.
    """

    token_roles: list[int] | None = None
    """Role of each response token (credit.tokens.TokenRole), int64 (T,). None: `credit.action_span` says."""
    turn_ids: list[int] | None = None
    """Turn each response token was sampled in, -1 outside, int64 (T,). None: runs of sampled tokens."""
    turn_rewards: list[float] | None = None
    """Environment rewards plus penalties of each turn, float32 (K,), whose sum is the score."""
    anchors: list[int] | None = None
    """Hash of the state each turn saw, int64 (K,)."""
    states: list[int] | None = None
    """Hash of the token prefix each turn was sampled after, int64 (K,)."""
    replayed: list[int] | None = None
    """1 for the turns shared with the episode this one was forked from, int64 (K,)."""
    probes: dict[str, list[int]] | None = None
    """PROBE_COLUMNS by name, each int64, where an estimator needs them; None: not stored."""

    def as_dict(self) -> dict[str, Any]:
        """Return verl's columns and ours as tensors; raises ValueError when a token column has another length."""
        columns = super().as_dict()
        for name, dtype in _DTYPES.items():
            values = getattr(self, name)
            if values is None:
                columns.pop(name, None)
                continue
            if name in (TOKEN_ROLES, TURN_IDS) and len(values) != len(self.response_ids):
                raise ValueError(f"{name} has {len(values)} entries, the response has {len(self.response_ids)} tokens")
            columns[name] = torch.tensor(values, dtype=dtype)
        columns.pop("probes", None)
        for name, values in (self.probes or {}).items():
            columns[name] = torch.tensor(values, dtype=torch.int64)
        return columns
