"""The output of our agent loops: verl's own, plus the token columns.

Separate from `columns`: verl's agent loops are costly to import, and training workers do not need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import model_validator
from verl.experimental.agent_loop import AgentLoopOutput

from actfocus_verl.checks import finite_number
from actfocus_verl.columns import COLUMNS, OWN_LOOP, TOKEN_ROLES, TURN_IDS, given_by
from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.integration.columns import FEEDBACK_COLUMNS, NO_NUMBER, PROBE_COLUMNS

_OF_TOKENS = ("response_mask", "response_logprobs", TOKEN_ROLES, TURN_IDS)
_OF_TURNS = given_by(OWN_LOOP, COLUMNS)
_PROBES_BY_TURN = [name for name in (*PROBE_COLUMNS, *FEEDBACK_COLUMNS) if name not in ("probe_ids", "feedback_ids")]
_MASKED = {"response_mask": 0, "response_logprobs": 0.0, TOKEN_ROLES: int(TokenRole.ENVIRONMENT), TURN_IDS: -1}
"""Values of the token columns at a token that was not sampled."""


class TokenColumnsOutput(AgentLoopOutput):
    """verl's output of an agent loop plus our columns, which travel as tensors beside `response_mask`.

    A loop gives those it has. A turn column has one entry per turn of `turn_ids`.
    """

    token_roles: list[int] | None = None
    """Role of each response token (credit.tokens.TokenRole), int64 (T,). None: set by `credit.action_span`."""
    turn_ids: list[int] | None = None
    """Turn each response token was sampled in, -1 outside, int64 (T,). None: runs of sampled tokens."""
    turn_rewards: list[float] | None = None
    """Environment rewards plus penalties of each turn, float32 (K,), whose sum is the score."""
    anchors: list[int] | None = None
    """Hash of the state each turn saw, int64 (K,)."""
    next_anchors: list[int] | None = None
    """Hash of the state each turn led to, -1 where that is success, int64 (K,)."""
    states: list[int] | None = None
    """Hash of the token prefix each turn was sampled after, int64 (K,)."""
    replayed: list[int] | None = None
    """1 for the turns shared with the episode this one was forked from, int64 (K,)."""
    probes: dict[str, list[int]] | None = None
    """PROBE_COLUMNS and FEEDBACK_COLUMNS by name, each int64, as far as methods need them; None: not stored."""

    @model_validator(mode="after")
    def _has_a_token(self) -> TokenColumnsOutput:
        """Give a response without tokens an arbitrary masked one, so that the episode keeps its reward.

        verl has no row without a response token. This one is never read and never trained on.
        """
        if not self.response_ids and self.prompt_ids:
            for name, value in {"response_ids": self.prompt_ids[-1], **_MASKED}.items():
                if getattr(self, name) == []:
                    setattr(self, name, [value])
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return verl's columns and ours as tensors.

        A score that is not a number becomes NaN, with its text beside it, so that the trainer can report the source.

        Raises ValueError when the token columns, or the turn columns, differ in length.
        """
        self._check_lengths()
        score = self.reward_score
        if score is not None and not isinstance(score, float) and finite_number(score) is None:
            named = {"reward_score": float("nan"), "extra_fields": name_no_number(self.extra_fields, score)}
            return self.model_copy(update=named).as_dict()
        columns = super().as_dict()
        for name in (TOKEN_ROLES, TURN_IDS, *_OF_TURNS):
            values = getattr(self, name)
            if values is None:
                columns.pop(name, None)
                continue
            columns[name] = torch.tensor(values, dtype=getattr(torch, COLUMNS[name].dtype))
        columns.pop("probes", None)
        for name, values in (self.probes or {}).items():
            columns[name] = torch.tensor(values, dtype=torch.int64)
        return columns

    def _check_lengths(self) -> None:
        for name in _OF_TOKENS:
            values = getattr(self, name)
            if values is not None and len(values) != len(self.response_ids):
                raise ValueError(f"{name} has {len(values)} entries, the response has {len(self.response_ids)} tokens")
        of_turns = {name: getattr(self, name) for name in _OF_TURNS}
        of_turns |= {name: (self.probes or {}).get(name) for name in _PROBES_BY_TURN}
        lengths = {name: len(values) for name, values in of_turns.items() if values is not None}
        for name, length in lengths.items():
            first, turns = next(iter(lengths.items()))
            if length != turns:
                raise ValueError(f"{name} has {length} entries, {first} has {turns}; both need one entry per turn")


def name_no_number(extra_fields: Mapping[str, Any], given: object) -> dict[str, Any]:
    """Return an output's extra fields with the value given in place of a reward, unless it is there already."""
    info = dict(extra_fields.get("reward_extra_info") or {})
    return {**extra_fields, "reward_extra_info": {NO_NUMBER: repr(given)[:100]} | info}
