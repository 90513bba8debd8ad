"""The boundaries of an episode, and the segments between them.

A boundary is a stopping time: what stands up to it decides that it is one. Only then is the expected return at the
boundaries a martingale. "Before `</think>`" or "after the last action token" would look ahead; a cut is made where a
tag is complete, or where the reply ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from actfocus_verl.rollout import ChatCodec, Reply


class Kind(str, Enum):
    """What a segment holds, in the order of a turn."""

    REASONING = "reasoning"
    """From the start of a reply until its `</think>` is complete, or until it ends without one."""
    ACTION = "action"
    """From there until its `</answer>` is complete, or until it ends without one; `<answer>` itself is in it."""
    FORMAT = "format"
    """What follows, the end-of-turn token included."""
    LUCK = "luck"
    """From the whole reply to the state after it: what the world draws while it executes the actions."""


_TAGS: Final = ((Kind.REASONING, "</think>"), (Kind.ACTION, "</answer>"))
"""What ends a kind of segment."""


@dataclass(frozen=True)
class Boundary:
    """A place in an episode. tokens: so many of the reply of turn `turn` stand (0: none does yet).

    complete: the reply is whole, and its actions are not executed yet; else the policy goes on with it.
    """

    turn: int
    tokens: int
    complete: bool


@dataclass(frozen=True)
class Segment:
    """What lies between the boundary `start` and the start of the next segment, or the end of the episode."""

    kind: Kind
    start: Boundary


def episode_segments(codec: ChatCodec, replies: Sequence[Reply]) -> list[Segment]:
    """The segments of an episode with these replies, in order: those of each reply, and the luck after it."""
    found = []
    for turn, reply in enumerate(replies):
        start = 0
        for kind, end in reply_cuts(codec, reply.token_ids):
            found.append(Segment(kind, Boundary(turn, start, complete=False)))
            start = end
        found.append(Segment(Kind.LUCK, Boundary(turn, len(reply.token_ids), complete=True)))
    return found


def reply_cuts(codec: ChatCodec, token_ids: Sequence[int]) -> list[tuple[Kind, int]]:
    """The segments of a reply of T tokens and where each ends, ascending, the last one at T.

    A segment without tokens is left out: two tags may end in one token.
    """
    text, spans = codec.offsets(token_ids)
    cuts: list[tuple[Kind, int]] = []
    read, start = 0, 0
    for kind, tag in _TAGS:
        place = text.find(tag, read)
        if place < 0:
            return [*cuts, (kind, len(token_ids))] if start < len(token_ids) or not cuts else cuts
        read = place + len(tag)
        end = next(index for index, (_, reached) in enumerate(spans, start=1) if reached >= read)
        if end > start:
            cuts.append((kind, end))
        start = end
    return [*cuts, (Kind.FORMAT, len(token_ids))] if start < len(token_ids) else cuts
