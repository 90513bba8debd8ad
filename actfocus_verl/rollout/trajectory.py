"""What goes into an episode from the policy and what comes out of it for training.

- `Policy` is asked for one `Reply` a turn.
- `Trajectory` is the finished episode: columns aligned with the response, numbers a turn, and why it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from actfocus_verl.columns import SOLVED
from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.rollout.feedback import InformedContext


class StopReason(str, Enum):
    """Why an episode ended; each becomes a metric `stop/<value>`."""

    SUCCESS = "success"
    """The world is solved."""
    FAILURE = "failure"
    """The world ended unsolved, in a hole for instance."""
    MAX_TURNS = "max_turns"
    """The last turn is used up."""
    MAX_ACTIONS = "max_actions"
    """The last action is used up."""
    CONTEXT_FULL = "context_full"
    """The next turn's message and a full reply to it would not fit."""
    ABORTED = "aborted"
    """The policy broke the reply off (finish_reason "abort")."""


@dataclass(frozen=True)
class Reply:
    """Sampled ids of one reply, the end-of-turn token included where it was sampled.

    log_probs: one a token, or None when the policy does not report them.
    finish_reason: "stop", "length" or "abort".
    """

    token_ids: list[int]
    log_probs: list[float] | None = None
    finish_reason: str = "stop"

    @classmethod
    def cut(cls, sampled: list[int], end_of_turn_id: int) -> Reply:
        """The reply that ends with the first end-of-turn token; without one it was cut off by its length."""
        if end_of_turn_id in sampled:
            return cls(sampled[: sampled.index(end_of_turn_id) + 1], finish_reason="stop")
        return cls(sampled, finish_reason="length")


def state_of(context: Sequence[int]) -> int:
    """A hash of the ids a reply is sampled after, in [0, 2**63), the same in every process."""
    return stable_hash(" ".join(map(str, context)))


class Policy(Protocol):
    """Whatever continues a list of ids."""

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        """Sample at most `max_new_tokens` ids after `prompt_ids`."""


@dataclass(frozen=True)
class TurnText:
    """For people: the state a turn saw, the reply with special tokens visible, and whether it was valid."""

    state: str
    reply: str
    valid: bool


@dataclass(frozen=True)
class Trajectory:
    """A finished episode. R = len(response_ids), K = turns.

    prompt_ids: the context of the first reply. response_ids (R): sampled replies and what stands between them.
    response_mask (R): 1 on sampled tokens. log_probs (R): 0.0 where not sampled; None when the policy gave none.
    token_roles (R): values of TokenRole. turn_ids (R): 0..K-1 on the tokens of that reply, -1 elsewhere.
    turn_rewards (K): environment rewards and penalty of each turn. anchors (K): hash of the state each turn saw.
    states (K): `state_of` the context of each turn. replies (K): as they were given.
    replayed: so many first turns are another episode's, with 0 in response_mask and -1 in turn_ids.
    outcome: the world's further figures. actions: executed in all. parsed_turns: replies of the required form.
    valid_turns: of these, the ones that held actions, all of them valid.
    final_state: the rendered state after the last turn. final_anchor: the hash of it.
    turn_starts (K): response tokens before each reply. known_answers (K): the world's to the state each turn saw, None
    where it was not asked or knows none; empty like turn_starts where nobody kept them.
    informed (K): each turn's context with the feedback on it; empty where nobody kept them.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    log_probs: list[float] | None
    token_roles: list[int]
    turn_ids: list[int]
    turn_rewards: list[float]
    anchors: list[int]
    states: list[int]
    replies: list[Reply]
    replayed: int
    stop_reason: StopReason
    success: bool
    outcome: dict[str, float]
    actions: int
    parsed_turns: int
    valid_turns: int
    texts: list[TurnText]
    final_state: str
    turn_starts: list[int] = field(default_factory=list)
    known_answers: list[str | None] = field(default_factory=list)
    informed: list[InformedContext] = field(default_factory=list)
    final_anchor: int = 0

    def __post_init__(self) -> None:
        columns = [self.response_mask, self.token_roles, self.turn_ids]
        if self.log_probs is not None:
            columns.append(self.log_probs)  # type: ignore[arg-type]
        assert all(len(column) == len(self.response_ids) for column in columns), "columns are not aligned"
        of_turns = (self.anchors, self.states, self.replies, self.texts)
        assert all(len(column) == len(self.turn_rewards) for column in of_turns), "turns are not aligned"
        assert len(self.turn_starts) == len(self.known_answers), "turns are not aligned"
        assert len(self.informed) in (0, len(self.turn_rewards)), "turns are not aligned"

    @property
    def turns(self) -> int:
        """Replies the episode holds."""
        return len(self.turn_rewards)

    @property
    def next_anchors(self) -> list[int]:
        """(K): the anchor of the state each turn led to; SOLVED for a last turn that solved the world."""
        return [*self.anchors[1:], SOLVED if self.success else self.final_anchor][: self.turns]

    @property
    def episode_return(self) -> float:
        """Sum of environment rewards and penalties."""
        return sum(self.turn_rewards)
