"""Worlds that a policy acts in through functions, in the format its model was taught for tool calls.

A `ToolWorld` offers functions by their schemas (the chat template writes them), performs the calls of a reply in their
order, and answers each with a tool message. What a reply without a call means, the world says: the next words of a
user, or the end. How a call is written is the model's matter: the rollout reads calls with verl's parsers, so worlds
get names and arguments only.

Tool messages may repeat what a policy wrote: the file it just filled. They go into the context as plain text.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from actfocus_verl.checks import finite_number
from actfocus_verl.environments.base import StepResult, World, observe
from actfocus_verl.environments.protocol import Played, RewardError, TurnOutcome
from actfocus_verl.environments.settings import Limits, WorldConfig
from actfocus_verl.environments.splits import hex_digest, stable_hash
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import json_text

Message = dict[str, str]
"""{"role", "content"}; the roles here are `tool` and `user`."""
Schema = Mapping[str, Any]
"""One function in OpenAI's form: {"type": "function", "function": {"name", "description", "parameters"}}."""

HERMES: Final = "hermes"
_LONGEST: Final = 20_000
"""Characters of a call's arguments as JSON: a longer one is not performed."""
_TOO_MANY: Final = "Error: not performed, a reply may hold {most} calls."
_NOT_KNOWN: Final = "Error: there is no such function."
_NOT_JSON: Final = "Error: the arguments must be one JSON object."


@dataclass(frozen=True, kw_only=True)
class ToolWorldConfig(WorldConfig):
    """tool_format: how calls are written and read, a name of verl's tool parsers.

    Of the limits, `max_actions_per_turn` counts the calls of a reply; max_words and reply are of no meaning here.
    """

    max_turns: int = 30
    max_actions_per_turn: int = 16
    max_actions_per_episode: int = 200
    max_turn_tokens: int = 512
    tool_format: str = HERMES


@dataclass(frozen=True)
class ToolCall:
    """One call of a reply. arguments: None where the policy wrote no JSON object."""

    name: str
    arguments: Mapping[str, Any] | None = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, arguments: str) -> ToolCall:
        """A call as a tool parser gives it, the arguments as JSON text. Raises nothing."""
        return cls(name, _json_object(arguments) if len(arguments) <= _LONGEST else None)

    def __str__(self) -> str:
        return json_text({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)


NO_CALL: Final = ToolCall("")
"""What a reply without a call does in the world."""


def function_schema(name: str, description: str, /, **parameters: Schema) -> Schema:
    """The schema of a function all of whose parameters are required, each given as a JSON schema."""
    properties = {"type": "object", "properties": parameters, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": properties}}


class ToolWorld(World):
    """A world whose actions are function calls. A subclass defines `create`, `system_prompt`, `done`, `success` and:

    - `tools`: the schemas, the same during the whole episode;
    - `render`: the user's message that the present turn of the conversation began with;
    - `call`: performs one call that names an offered function, and returns what it says.

    `no_call` says what a reply without a call does; by default nothing, and the policy is told that. `earned` is the
    reward since it was last asked; by default 1 when the task becomes solved.
    """

    configs: ClassVar[Mapping[str, WorldConfig]] = {"default": ToolWorldConfig()}
    tool_format: str = HERMES
    """Set by `create` from the configuration where it may differ."""

    def __init__(self, *, preset: str, split: str, index: int, limits: Limits) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=limits)
        self._answers: list[Message] = []
        self._history = ""
        self._paid = False

    @abstractmethod
    def tools(self) -> Sequence[Schema]:
        """The functions that the policy is shown."""

    @abstractmethod
    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Perform one call; returns the content of the tool message. Must not raise, whatever the arguments are."""

    def no_call(self) -> str | None:
        """A reply that calls nothing: returns the user's words that follow, or None where the world has ended."""
        return "Your reply held no function call, so nothing has changed."

    def begin_reply(self, names: Sequence[str]) -> None:
        """A reply with calls of these names is about to be performed; by default nothing."""

    def knows(self, name: str) -> bool:
        """Whether `call` takes that name. By default, of the functions that are shown."""
        return any(schema["function"]["name"] == name for schema in self.tools())

    def earned(self) -> float:
        """The reward since this was last asked."""
        if self._paid or not self.success:
            return 0.0
        self._paid = True
        return 1.0

    def parse_action(self, text: str) -> ToolCall | None:
        """The call that a text writes as JSON, {"name", "arguments"}: how a person plays."""
        read = _json_object(text) if len(text) <= _LONGEST else None
        name, arguments = (read or {}).get("name"), (read or {}).get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict) or not self.knows(name):
            return None
        return ToolCall(name, arguments)

    def step(self, action: ToolCall) -> StepResult:
        """Perform one call, or none of them; what it says is among `answers`."""
        if self.done:
            raise RuntimeError(f"{type(self).__name__}.step after the episode ended")
        self._history = hex_digest(f"{self._history}/{json_text([action.name, action.arguments])}")
        if action == NO_CALL:
            said = self.no_call()
            if said is not None:
                self._say("user", said)
        elif not self.knows(action.name):
            self._say("tool", self.unknown(action.name))
        elif action.arguments is None:
            self._say("tool", _NOT_JSON)
        else:
            self._say("tool", self.call(action.name, action.arguments))
        return StepResult(reward=self.earned(), done=self.done, success=self.success)

    def unknown(self, name: str) -> str:
        """What is said of a call that names no function of this world."""
        return _NOT_KNOWN

    def refuse(self, said: str) -> None:
        """Answer a call that is not performed."""
        self._say("tool", said)

    def answers(self) -> list[Message]:
        """The messages since this was last asked, in order."""
        said, self._answers = self._answers, []
        return said

    def anchor(self) -> int:
        """A hash of the board and of everything that was called and answered: another way is another state."""
        return stable_hash(f"{self.board_hash()}/{self.done}/{self._history}")

    def _say(self, role: str, content: str) -> None:
        """Keep what is said, without the halves of characters that a policy's JSON may write and no text can hold."""
        said = content.encode("utf-8", "replace").decode()
        self._history = hex_digest(f"{self._history}/{role}/{said}")
        self._answers.append({"role": role, "content": said})

    def oracle(self) -> Sequence[str]:
        """The best calls known for the next reply, each as JSON; empty for a reply without a call.

        Nothing changes. Raises ConfigurationError where there is none.
        """
        raise ConfigurationError("env.name", self.name, "has no oracle", "Choose a world that has one")

    def oracle_reply(self) -> str:
        """The oracle's whole reply, its calls in the format of Hermes and Qwen."""
        if self.tool_format != HERMES:
            raise ConfigurationError(
                "env.tool_format", self.tool_format, f"the oracle writes its calls as {HERMES} only", f"Use {HERMES}"
            )
        calls = [f"<tool_call>\n{call}\n</tool_call>" for call in self.oracle()]
        return "\n".join(calls) or "Done."


class PlayedCalls(Played[ToolWorld]):
    """The turns that were played in a tool world, as `PlayedTurns` are in others."""

    def messages(self) -> list[Message]:
        """What stands before the next reply: the user's first message, then the answers to the last reply."""
        if not self.rewards:
            return [{"role": "user", "content": observe(self._world).text}]
        return self._world.answers()

    def act(self, calls: Sequence[ToolCall], *, malformed: bool = False) -> TurnOutcome:
        """Perform the calls of one reply in their order, the first `max_actions_per_turn` of them.

        Once the world has ended or its calls are used up, the rest is left out. The turn costs `format_penalty` once
        when a call is malformed, one that no parser could read included (`malformed`), or names no known function.

        Raises RewardError when the world's reward is no finite number.
        """
        limits = self._world.limits
        valid = not malformed and all(call.arguments is not None and self._world.knows(call.name) for call in calls)
        earned, executed = 0.0, 0
        if calls:
            self._world.begin_reply([call.name for call in calls])
        if self._world.done:
            earned = self._world.earned()
        for place, call in enumerate(calls or [NO_CALL]):
            if self._world.done or executed == self.actions_left:
                break
            if place >= limits.max_actions_per_turn:
                self._world.refuse(_TOO_MANY.format(most=limits.max_actions_per_turn))
                continue
            given = self._world.step(call).reward
            gained = finite_number(given)
            if gained is None:
                raise RewardError(self._world, given)
            earned += gained
            executed += call is not NO_CALL
        self.actions += executed
        self.rewards.append(earned + (0.0 if valid else limits.format_penalty))
        return TurnOutcome(self.rewards[-1], executed, valid, earned)


def _json_object(text: str) -> dict[str, Any] | None:
    """The object that the text writes; None for anything else, among it what is nested too deep."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
