"""A tokenizer's chat template as text: the start of a conversation, and what stands between two replies.

Sampled replies stay as they are, so a context is written piece by piece. That is the conversation which the template
means only if what follows a reply is the same whatever the system text is and however many turns come before or after.
So it is rendered with different ones and compared, once for each codec.
A template that takes no system message, or writes it anywhere but at the start, gets the system text at the start of
the first user message, with an empty line between them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Final

from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.rollout.parsing import TAGS

MODEL_KEY: Final = "model.path"
TEMPLATE_KEY: Final = "actor_rollout_ref.model.custom_chat_template"
OPTIONS_KEY: Final = "data.apply_chat_template_kwargs"
PREFILL_KEY: Final = "env.prefill"
"""Keys of a training run: who has others names them instead."""

_REPLY: Final = "actfocus-reply-mark"
_SYSTEM, _OTHER_SYSTEM = "actfocus-system-one", "actfocus-system-two"
_FIRST, _OTHER_FIRST, _SECOND = "actfocus-user-first", "actfocus-user-other", "actfocus-user-second"
_TOLD: Final = "actfocus-tool-told"
_SHOWN_CHARACTERS: Final = 160
_NOT_THE_TEMPLATES: Final = frozenset({"tools", "documents"})
"""Arguments of `apply_chat_template` that do reach the template."""
_ANOTHER: Final = f"another chat template: {TEMPLATE_KEY}, or chat_template.jinja in the model's folder"

Message = dict[str, str]


class ChatTemplate:
    """Renders with `tokenizer.apply_chat_template` and the further keywords `options`.

    opening: written behind every generation prompt, unless the template itself ends so.
    Raises ConfigurationError for a template that is none of what the module says, and for an option it does not read.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, object], opening: str = "") -> None:
        self._tokenizer = tokenizer
        self._options = dict(options)
        self._opening = ""
        self.name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        self._require_template()
        self._require_options()
        self.no_system: str | None = None
        """Why the system text stands in the first user message; None where the template takes a system message."""
        try:
            self._check()
        except _UnsuitableError as with_system:
            self.no_system = str(with_system)
            try:
                self._check()
            except _UnsuitableError as folded:
                also = "" if str(folded) == self.no_system else f"; without a system message, {folded}"
                raise self.refusal(f"{with_system}{also}") from folded
        self._opening = "" if self._opens_thoughts(opening) else opening

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> ChatTemplate:
        """The same for conversations in which these functions (OpenAI's schemas) are offered.

        Raises ConfigurationError where the template shows no tools, or not before the first reply alone, or where what
        it writes around tool messages depends on more than them.
        """
        other = copy(self)
        other._options = self._options | {"tools": [dict(tool) for tool in tools]}
        try:
            other._check_tools(self)
        except _UnsuitableError as error:
            raise self.refusal(str(error)) from error
        return other

    def start(self, messages: Sequence[Message]) -> str:
        """The messages and the generation prompt."""
        rendered = self._tokenizer.apply_chat_template(
            self.messages(messages), tokenize=False, add_generation_prompt=True, **self._options
        )
        return f"{rendered}{self._opening}"

    def opening(self) -> str:
        """The start of some conversation."""
        return self.start(_conversation(_SYSTEM, _FIRST))

    def after_reply(self, said: str | Sequence[Message]) -> str:
        """What stands between the text of a reply and the next one, the end of the turn included.

        said: the user's words, or messages ({"role", "content"}) of tools and of the user.
        """
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        return self.start([*_conversation(_SYSTEM, _FIRST), _assistant(), *messages]).partition(_REPLY)[2]

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template takes them."""
        if self.no_system is None or len(messages) < 2 or messages[0]["role"] != "system":
            return list(messages)
        system, user, *others = messages
        return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *others]

    def refusal(self, problem: str) -> ConfigurationError:
        """The error that says so of this template."""
        return ConfigurationError(MODEL_KEY, self.name, problem, f"Use {_ANOTHER}")

    def _require_template(self) -> None:
        if not getattr(self._tokenizer, "chat_template", None):
            raise ConfigurationError(
                MODEL_KEY,
                self.name,
                "its tokenizer has no chat template",
                f"Use an instruction-tuned (chat) model, or set {TEMPLATE_KEY}",
            )

    def _require_options(self) -> None:
        """Jinja takes a name that a template does not read without a word."""
        text = str(self._tokenizer.get_chat_template())
        arguments = set(inspect.signature(self._tokenizer.apply_chat_template).parameters) - _NOT_THE_TEMPLATES
        for option, value in self._options.items():
            if option in arguments:
                problem, remedy = "is not an option of a chat template", "Leave it out"
            elif not re.search(rf"\b{re.escape(option)}\b", text):
                problem = f"the chat template of {self.name} reads no such name"
                remedy = "Correct its name, or leave it out"
            else:
                continue
            raise ConfigurationError(f"{OPTIONS_KEY}.{option}", value, problem, remedy)

    def _check(self) -> None:
        """Raise _UnsuitableError unless conversations can be written piece by piece."""
        (start,) = self._pieces(_SYSTEM, _FIRST)
        before, after = self._pieces(_SYSTEM, _FIRST, _SECOND)
        if (start.count(_SYSTEM), start.count(_FIRST)) != (1, 1) or start.index(_SYSTEM) > start.index(_FIRST):
            raise _UnsuitableError("its chat template does not write the system text and then the user's", start)
        if after.count(_SECOND) != 1:
            raise _UnsuitableError("its chat template does not write the user's text after a reply", after)
        _, between, third = self._pieces(_SYSTEM, _FIRST, _SECOND, _SECOND)
        others = {
            "the system text": self._pieces(_OTHER_SYSTEM, _FIRST, _SECOND)[-1],
            "what was said before": self._pieces(_SYSTEM, _OTHER_FIRST, _SECOND)[-1],
            "the number of turns": third,
        }
        for what, other in others.items():
            if other != after:
                raise _UnsuitableError(f"what its chat template writes after a reply depends on {what}", after, other)
        for first, later in ((start, before), (after, between)):
            # A generation prompt may be longer or shorter than the header of a reply that was given: an empty think
            # block, a channel, a space.
            if not (first.startswith(later) or later.startswith(first)):
                raise _UnsuitableError(
                    "what its chat template writes before a reply depends on later turns", first, later
                )

    def _check_tools(self, without: ChatTemplate) -> None:
        """Raise _UnsuitableError unless conversations with tools can be written piece by piece."""
        if self._rendered(_conversation(_SYSTEM, _FIRST)) == without.opening():
            raise _UnsuitableError("its chat template shows the policy no tools")
        told = [{"role": "tool", "content": _TOLD}, {"role": "tool", "content": _SECOND}]
        starts = {
            "the system text": _conversation(_OTHER_SYSTEM, _FIRST),
            "what was said before": _conversation(_SYSTEM, _OTHER_FIRST),
            "the number of turns": [*_conversation(_SYSTEM, _FIRST), _assistant(), *told],
        }
        after = self._rendered([*_conversation(_SYSTEM, _FIRST), _assistant(), *told]).rpartition(_REPLY)[2]
        if (after.count(_TOLD), after.count(_SECOND)) != (1, 1):
            raise _UnsuitableError("its chat template does not write each tool message after a reply", after)
        for what, start in starts.items():
            found = self._rendered([*start, _assistant(), *told]).rpartition(_REPLY)[2]
            if found != after:
                raise _UnsuitableError(f"what its chat template writes after a call depends on {what}", after, found)

    def _rendered(self, messages: Sequence[Message]) -> str:
        try:
            return self.start(messages)
        except Exception as error:  # whatever the template's author made it raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise _UnsuitableError(f"its chat template refuses tools or their messages ({reason})") from error

    def _pieces(self, system: str, *users: str) -> list[str]:
        """What is rendered before, between and after the replies of a conversation."""
        try:
            rendered = self.start(_conversation(system, *users))
        except Exception as error:  # whatever the template's author made it raise
            problem = f"its chat template refuses system, user, assistant, user ({one_line(error)})"
            raise _UnsuitableError(problem) from error
        pieces = rendered.split(_REPLY)
        if len(pieces) != len(users):
            raise _UnsuitableError("its chat template does not write each reply once", rendered)
        return pieces

    def _opens_thoughts(self, opening: str) -> bool:
        """Whether the template's own generation prompt opens the thoughts.

        Raises ConfigurationError where it does and a reply must hold both think tags.
        """
        after = self.after_reply(_SECOND)
        _, opened, behind = after.rpartition(TAGS[0])
        opens = bool(opened) and TAGS[1] not in behind
        if opens and not opening:
            error = self.refusal(
                "its chat template opens <think> itself, but the reply must hold both think tags: "
                f"{_shown(after.partition(_SECOND)[2])}"
            )
            remedy = error.remedy
            if "enable_thinking" in str(self._tokenizer.get_chat_template()):
                remedy = f"Set +{OPTIONS_KEY}.enable_thinking=false, or {_ANOTHER}"
            remedy += f"; or {PREFILL_KEY}=think, with which a reply goes on behind the tag"
            raise ConfigurationError(error.key, error.value, error.problem, remedy)
        return opens


class _UnsuitableError(ValueError):
    """A problem with a template, and what was found: one text, or two that should be one."""

    def __init__(self, problem: str, *found: str) -> None:
        super().__init__(": ".join([problem, " or ".join(map(_shown, found))]) if found else problem)


def _conversation(system: str, *users: str) -> list[Message]:
    """System, user, assistant, user, assistant, ..., user."""
    first, *others = users
    messages = [{"role": "system", "content": system}, {"role": "user", "content": first}]
    for user in others:
        messages += [{"role": "assistant", "content": _REPLY}, {"role": "user", "content": user}]
    return messages


def _assistant() -> Message:
    return {"role": "assistant", "content": _REPLY}


def _shown(text: str) -> str:
    """On one line, its end: what a template writes last is what a reply follows."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"...{text[-_SHOWN_CHARACTERS:]}")
