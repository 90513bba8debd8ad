"""Chains: the token ids of a conversation as the policy saw and sampled them, found again by their messages.

A client sends the whole history with every request. Its assistant messages are matched by content, since a client
keeps neither ids nor whitespace; everything else must be equal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actfocus_verl.files import json_text

Json = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """A message that was not sampled here."""

    text: str
    """Canonical JSON."""

    @classmethod
    def of(cls, message: Json) -> Context:
        return cls(json_text(message, sort_keys=True))

    def matches(self, message: Json) -> bool:
        """Whether a client's message is this one."""
        return self.text == json_text(message, sort_keys=True)


@dataclass(frozen=True)
class Said:
    """A sampled reply, as a client may send it back.

    texts: what its content may be, stripped: the text we answered with, and all of the reply's text (clients put a stop
    string back). calls: names and arguments as canonical JSON. call_ids: as we gave them; clients may change them.
    """

    texts: frozenset[str]
    calls: tuple[tuple[str, str], ...] = ()
    call_ids: tuple[str, ...] = ()

    def matches(self, message: Json) -> bool:
        """Whether a client's message is this reply."""
        if message["role"] != "assistant" or str(message["content"]).strip() not in self.texts:
            return False
        return self.calls == tuple(call_key(call["function"]) for call in message.get("tool_calls", ()))

    def has_ids_of(self, message: Json) -> bool:
        """Whether the calls' ids are ours, too: of two equal replies, this tells which one is meant."""
        return self.call_ids == tuple(call["id"] for call in message.get("tool_calls", ()))


Entry = Context | Said


def call_key(function: Json) -> tuple[str, str]:
    """A call's name and its arguments, equal for equal JSON. function: {"name", "arguments": text or object}."""
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return function["name"], str(arguments)
    return function["name"], json_text(arguments, sort_keys=True)


@dataclass(frozen=True)
class Mark:
    """The end of a reply. messages, tokens: how many of the chain lie before it."""

    messages: int
    tokens: int


@dataclass(frozen=True)
class Turn:
    """One sampled reply and the context before it.

    removed: tokens at the chain's end that the context replaces (GLM samples the next message's first token).
    added: ids of the context since the chain's end; of the whole prompt for a new chain. log_probs: one per sampled id.
    """

    removed: int
    added: list[int]
    token_ids: list[int]
    log_probs: list[float] | None
    messages: list[Entry]


@dataclass
class Chain:
    """One row of training: what was sampled in one growing context. Lists of the response have one entry per token."""

    tools: str
    """Canonical JSON of the tools, which the prompt shows."""
    name: str
    """For the rollout engine: requests of one name share a prefix cache."""
    prompt_ids: list[int] = field(default_factory=list)
    response_ids: list[int] = field(default_factory=list)
    response_mask: list[int] = field(default_factory=list)
    turn_ids: list[int] = field(default_factory=list)
    log_probs: list[float] | None = field(default_factory=list)
    messages: list[Entry] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    calls: list[list[tuple[str, str]]] = field(default_factory=list)
    """The tool calls of each reply: name and arguments as canonical JSON."""
    is_busy: bool = False
    """Whether a reply is being sampled after its end."""

    @property
    def turns(self) -> int:
        return len(self.marks)

    @property
    def ids(self) -> list[int]:
        """All token ids, of prompt and response."""
        return [*self.prompt_ids, *self.response_ids]

    def continued_by(self, messages: Sequence[Json], tools: str) -> Mark | None:
        """The last reply up to which the request's messages are this chain's; None without any."""
        if tools != self.tools:
            return None
        equal = 0
        for entry, message in zip(self.messages, messages, strict=False):
            if not entry.matches(message):
                break
            equal += 1
        return next((mark for mark in reversed(self.marks) if mark.messages <= equal), None)

    def same_call_ids(self, messages: Sequence[Json], mark: Mark) -> bool:
        """Whether the calls of all replies up to a mark come with the ids that they were given."""
        pairs = zip(self.messages[: mark.messages], messages, strict=False)
        return all(entry.has_ids_of(message) for entry, message in pairs if isinstance(entry, Said))

    def with_turn(self, turn: Turn) -> Chain:
        """The chain after one more reply; this one is not changed."""
        if not self.marks:
            whole = replace(self, prompt_ids=list(turn.added), response_ids=[], response_mask=[], turn_ids=[])
            return whole._sampled(turn)
        kept = len(self.response_ids) - turn.removed
        none = [0] * len(turn.added)
        longer = replace(
            self,
            response_ids=[*self.response_ids[:kept], *turn.added],
            response_mask=[*self.response_mask[:kept], *none],
            turn_ids=[*self.turn_ids[:kept], *[-1] * len(none)],
            log_probs=None if self.log_probs is None else [*self.log_probs[:kept], *[0.0] * len(none)],
        )
        return longer._sampled(turn)

    def _sampled(self, turn: Turn) -> Chain:
        count = len(turn.token_ids)
        messages = [*self.messages, *turn.messages]
        response = [*self.response_ids, *turn.token_ids]
        log_probs = None
        if self.log_probs is not None and turn.log_probs is not None:
            log_probs = [*self.log_probs, *turn.log_probs]
        return replace(
            self,
            response_ids=response,
            response_mask=[*self.response_mask, *[1] * count],
            turn_ids=[*self.turn_ids, *[self.turns] * count],
            log_probs=log_probs,
            messages=messages,
            calls=[*self.calls, [call for entry in turn.messages if isinstance(entry, Said) for call in entry.calls]],
            marks=[*self.marks, Mark(len(messages), len(self.prompt_ids) + len(response))],
            is_busy=False,
        )
