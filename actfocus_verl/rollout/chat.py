"""Between text and token ids, in the one direction each may go.

Text of the environment becomes ids through the chat template; ids that a policy sampled become text with offsets, to be
read and never to be encoded again. A tokenizer is any fast Hugging Face tokenizer with a chat template.

What the environment says is plain text: a special token spelt out in it becomes ordinary tokens, so a state or a
product can neither end a turn nor speak in another role. Special tokens come from the template alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from itertools import chain, pairwise
from typing import Any, Final

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import json_text
from actfocus_verl.rollout.decoding import TokenDecoder
from actfocus_verl.rollout.parsing import TAGS
from actfocus_verl.rollout.templates import MODEL_KEY, ChatTemplate, Message

_HARMLESS: Final = "text"
"""Stands for what an environment says where only the template's own tokens are asked for."""
_SEPARATORS: Final = [chr(point) for point in range(0xFDD0, 0xFDF0)]
"""Characters that Unicode keeps out of texts."""
_BRACKETED: Final = re.compile(r"[<\[].+[>\]]", re.DOTALL)

_MOST_OFFERS: Final = 64
"""Sets of functions that a codec keeps ready: the tasks of a benchmark share a few dozen."""

Render = Callable[[Sequence[str]], str]


class ChatCodec:
    """The chat template as two pieces, the start and what stands between two replies, and decoding with offsets.

    tokenizer: fast, with a chat template that `ChatTemplate` accepts and that closes a reply with a special token.
    opening: what every prompt ends with, so that a sampled reply goes on from there; `<think>` or nothing.
    template_options: further keywords of `apply_chat_template`.
    Raises ConfigurationError when the tokenizer is none of that.
    """

    def __init__(self, tokenizer: Any, opening: str = "", /, **template_options: object) -> None:
        self._tokenizer = tokenizer
        self.opening = opening
        """What a reply is read with as its beginning; its ids are the prompt's."""
        self._template = ChatTemplate(tokenizer, template_options, opening)
        self.decoder = TokenDecoder(tokenizer)
        added = self.decoder.added
        self.special_ids = frozenset(i for i in self.decoder.special_ids if added.get(i) not in TAGS)
        """Ids of special tokens, the four tags excepted: a tokenizer may hold those as tokens of their own."""
        after = self._encode(self._template.after_reply(_HARMLESS))
        self.end_of_turn_id = self._require_end_of_turn(after)
        """The special token that closes a reply, `<|im_end|>` in Qwen's template."""
        self._reserved = self.special_ids | self._marks([*self._encode(self._template.opening()), *after])
        self._own: dict[tuple[str, ...], list[int]] = {}
        self._offering: dict[str, ChatCodec] = {}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, for whoever reads sampled ids in a format of its own."""
        return self._tokenizer

    @property
    def no_system(self) -> str | None:
        """Why the system text stands in the first user message; None where the template takes a system message."""
        return self._template.no_system

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> ChatCodec:
        """The same for conversations in which these functions (OpenAI's schemas) are offered to the policy.

        What marks tools, calls and results in the template is then no part of what the environment says, either.
        Raises ConfigurationError where the chat template cannot do it.
        """
        key = json_text(tools, sort_keys=True)
        if key not in self._offering:
            if len(self._offering) >= _MOST_OFFERS:
                self._offering.pop(next(iter(self._offering)))
            other = copy(self)
            other._template = self._template.with_tools(tools)
            told = other._encode(other._template.after_reply([{"role": "tool", "content": _HARMLESS}]))
            other._reserved = self._reserved | self._marks([*other._encode(other._template.opening()), *told])
            other._own = {}
            self._offering[key] = other
        return self._offering[key]

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages ({"role", "content"}) as the template takes them: with or without one of the system."""
        return self._template.messages(messages)

    def initial_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the messages ({"role", "content"}) and the generation prompt."""
        roles = tuple(message["role"] for message in messages)

        def render(texts: Sequence[str]) -> str:
            return self._template.start(
                [{**message, "content": text} for message, text in zip(messages, texts, strict=True)]
            )

        return self._plain_ids(render, [message["content"] for message in messages], roles)

    def continuation_ids(self, said: str | Sequence[Message], *, closed: bool = True) -> list[int]:
        """Ids between the end of a sampled reply and the start of the next one.

        said: the user's words, or messages ({"role", "content"}) of tools and of the user, at least one.
        closed: whether the reply ended with the end-of-turn token; if it did not, the first id here is that token.
        """
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said

        def render(texts: Sequence[str]) -> str:
            return self._template.after_reply(
                [{**message, "content": text} for message, text in zip(messages, texts, strict=True)]
            )

        kind = ("after a reply", *(message["role"] for message in messages))
        ids = self._plain_ids(render, [message["content"] for message in messages], kind)
        return ids[1:] if closed else ids

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text that never was ids: one of ours, or a reply of a server that sends text alone."""
        return self._encode(text)

    def is_closed(self, token_ids: Sequence[int]) -> bool:
        """Whether the reply ends with the end-of-turn token."""
        return bool(token_ids) and token_ids[-1] == self.end_of_turn_id

    def offsets(self, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text of sampled ids, and for each id the half-open span of the characters it has bytes in.

        Special tokens stay visible. A character split over several tokens lies in the span of each of them; a byte
        that is no valid UTF-8 is one U+FFFD.
        """
        decoded = self.decoder.decode(token_ids)
        return decoded.text, list(zip(decoded.starts.tolist(), decoded.ends.tolist(), strict=True))

    def _marks(self, ids: Sequence[int]) -> frozenset[int]:
        """Those of the ids that mark a role, a call or a tag of the template's own."""
        return frozenset(i for i in ids if _is_mark(self.decoder.added.get(i)))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _plain_ids(self, render: Render, texts: Sequence[str], kind: tuple[str, ...]) -> list[int]:
        """Ids of what is rendered around the environment's texts, which bring no special token with them.

        Nearly always these are the ids of the whole rendering. Where a text would become a special token, the rendering
        is cut within it and encoded in parts; everywhere else it is tokenised as the whole would be. That changes no
        setting of the tokenizer, which other threads use, and holds for tokens that are special by use alone.
        kind: equal for renderings with the same tokens of the template.
        """
        ids = self._encode(render(texts))
        if kind not in self._own:
            self._own[kind] = self._reserved_in(self._encode(render([_HARMLESS] * len(texts))))
        if self._reserved_in(ids) == self._own[kind]:
            return ids
        parts = [self._without_reserved(text) for text in texts]
        if all(len(part) == 1 for part in parts):
            return ids
        separator = next(mark for mark in _SEPARATORS if not any(mark in text for text in texts))
        first, *others = render([separator.join(part) for part in parts]).split(separator)
        return [*self._encode(first), *chain.from_iterable(map(self._encode_further, others))]

    def _without_reserved(self, text: str) -> list[str]:
        """The text in parts of which none holds a reserved token: each is cut in the middle until it is none."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        spans = [
            (start, end)
            for token_id, (start, end) in found
            if token_id in self._reserved and not self._stands_for_another(token_id, text[start:end])
        ]
        if not spans:
            return [text]
        for start, end in spans:
            if end - start < 2:
                problem = (
                    f"its tokenizer has a special token of one character, {text[start:end]!r}, which the world says"
                )
                raise ConfigurationError(MODEL_KEY, self._template.name, problem, "Use another model")
        cuts = sorted({(start + end) // 2 for start, end in spans})
        borders = [0, *cuts, len(text)]
        parts = (text[start:end] for start, end in pairwise(borders))
        return list(chain.from_iterable(map(self._without_reserved, parts)))

    def _encode_further(self, text: str) -> list[int]:
        """Ids of a text that continues another one: SentencePiece's kind puts a space before the first word only."""
        line = self._encode("\n")
        ids = self._encode("\n" + text)
        return ids[len(line) :] if ids[: len(line)] == line else self._encode(text)

    def _reserved_in(self, ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in ids if token_id in self._reserved]

    def _stands_for_another(self, token_id: int, text: str) -> bool:
        """Whether the token is that of characters which the tokenizer does not have, and the text is not its name."""
        return token_id == self._tokenizer.unk_token_id and self._tokenizer.unk_token not in text

    def _require_end_of_turn(self, after: Sequence[int]) -> int:
        if not after or after[0] not in self.special_ids:
            text = self.offsets(after)[0].partition(_HARMLESS)[0]
            raise self._template.refusal(f"its chat template does not close a reply with a special token: {text!r}")
        return after[0]


def _is_mark(token: str | None) -> bool:
    """Whether an added token that a template writes marks a role: DeepSeek's `<｜User｜>` is no special token."""
    return token is not None and token not in TAGS and _BRACKETED.fullmatch(token) is not None
