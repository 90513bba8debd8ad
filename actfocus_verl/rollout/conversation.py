"""What an episode says and reads: turns with an answer between tags, or calls of functions in the model's own format.

Both have the same members: `ask` gives the messages before the next reply, `read` reads sampled ids, `act` lets the
world do what was read, `state` is what the turn saw, for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any, Final, Protocol

import numpy as np

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import Observation, PlayedTurns, TurnOutcome, World, observe
from actfocus_verl.environments.settings import LENIENT
from actfocus_verl.environments.tools import PlayedCalls, ToolCall, ToolWorld
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout.chat import ChatCodec
from actfocus_verl.rollout.columns import ReadReply, read_reply
from actfocus_verl.rollout.spans import build_action_span, span_roles
from actfocus_verl.rollout.templates import Message

CALL_READER: Final = "actfocus_verl.integration.call_reader:make_call_reader"
"""Who makes call readers, by name: they are verl's tool parsers, and this room does without verl where no tool is."""


class CallReader(Protocol):
    """Finds the calls in a reply."""

    def __call__(self, token_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
        """Name and arguments, as text, of each call that can be read in the sampled ids, in order. Raises nothing."""


@dataclass(frozen=True)
class ReadCalls:
    """One reply. text: decoded, special tokens visible. message: without the end-of-turn token. roles: one a token.

    malformed: it begins more calls than could be read.
    """

    text: str
    message: str
    roles: list[TokenRole]
    calls: list[ToolCall]
    malformed: bool

    @property
    def parses(self) -> bool:
        """Whether everything that begins as a call is one."""
        return not self.malformed


class AnswerConversation:
    """Turns of `World`: a user message a turn, the actions between tags."""

    def __init__(self, world: World, codec: ChatCodec) -> None:
        self.codec = codec
        self.turns = PlayedTurns(world)
        self._world = world

    def ask(self) -> list[Message]:
        """The message before the next reply. Raises ConfigurationError where the world shows images."""
        return [{"role": "user", "content": require_text(self._world, self.turns.message())}]

    def read(self, token_ids: Sequence[int]) -> ReadReply:
        """What the sampled ids say."""
        return read_reply(self.codec, token_ids, lenient=self._world.limits.reply == LENIENT)

    def act(self, read: Any) -> TurnOutcome:
        """Let the world execute the actions of what `read` returned."""
        return self.turns.act(read.parsed.actions)

    def feedback(self, *, over: bool) -> str:
        """What is known of the last turn once it has been played."""
        return require_text(self._world, self.turns.feedback(over=over))

    def state(self) -> str:
        """The state the world is in."""
        return observe(self._world).text


class ToolConversation:
    """Turns of a `ToolWorld`: tool messages or the user's words, then a reply that may hold calls."""

    def __init__(self, world: ToolWorld, codec: ChatCodec) -> None:
        self._tools = list(world.tools())
        self.codec = codec.with_tools(self._tools)
        self.turns = PlayedCalls(world)
        self._world = world
        span = build_action_span("tool_call", tool_format=world.tool_format)
        assert span is not None, "tool_call is a span"
        self._span = span
        self._reader = _call_reader(codec.tokenizer, world.tool_format)
        self._said: list[Message] = []

    def ask(self) -> list[Message]:
        """The messages before the next reply."""
        self._said = self.turns.messages()
        return self._said

    def read(self, token_ids: Sequence[int]) -> ReadCalls:
        """What the sampled ids say: their calls as the model's own parser reads them."""
        text, spans = self.codec.offsets(token_ids)
        message = text[: spans[-1][0]] if self.codec.is_closed(token_ids) else text
        calls = [ToolCall.read(*call) for call in self._reader(token_ids, self._tools)]
        found = self._span.find(text)
        begun = max(len(found.contents), bool(found.tags))
        roles = span_roles(self._span, self.codec.decoder, token_ids, np.ones(len(token_ids), dtype=np.bool_))
        return ReadCalls(text, message, [TokenRole(role) for role in roles], calls, len(calls) < begun)

    def act(self, read: Any) -> TurnOutcome:
        """Let the world perform the calls of what `read` returned."""
        return self.turns.act(read.calls, malformed=read.malformed)

    def feedback(self, *, over: bool) -> str:
        """Raises ConfigurationError: a tool message has no place for it."""
        raise ConfigurationError(
            "env.name",
            self._world.name,
            "acts through function calls, whose results leave no place for feedback in hindsight",
            "Set algorithm=grpo credit=uniform, or another world",
        )

    def state(self) -> str:
        """What was said last."""
        self._said = self._world.answers() or self._said
        return "\n".join(message["content"] for message in self._said)


def conversation(world: World, codec: ChatCodec) -> AnswerConversation | ToolConversation:
    """The way of talking that `world` has. Raises ConfigurationError where the model or its format lacks it."""
    return ToolConversation(world, codec) if isinstance(world, ToolWorld) else AnswerConversation(world, codec)


@lru_cache(maxsize=4)
def _call_reader(tokenizer: Any, tool_format: str) -> CallReader:
    reader: CallReader = resolve_name(CALL_READER)(tokenizer, tool_format)
    return reader


def require_text(world: World, observation: Observation) -> str:
    """The observation's text. Raises ConfigurationError where it holds images: no policy here is shown any."""
    if observation.images:
        raise ConfigurationError(
            "env.name",
            world.name,
            f"shows {len(observation.images)} image(s), and a policy can only be shown text",
            "Let the world's render return text alone",
        )
    return observation.text
