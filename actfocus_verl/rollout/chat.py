"""Between text and token ids, in the one direction each may go.

Text of the environment becomes ids through the chat template; ids that a policy sampled become text with offsets, to be
read and never to be encoded again. A tokenizer is any fast Hugging Face tokenizer with a chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout.decoding import TokenDecoder
from actfocus_verl.rollout.parsing import TAGS

_REPLY_MARK = "actfocus-reply-mark"


class ChatCodec:
    """The chat template as two pieces, the start and what stands between two replies, and decoding with offsets.

    tokenizer: fast, with a chat template that takes system, user and assistant messages and closes a reply with a
    special token. template_options: further keywords of `apply_chat_template`.
    Raises ConfigurationError when the tokenizer is none of that.
    """

    def __init__(self, tokenizer: Any, **template_options: object) -> None:
        self._tokenizer = tokenizer
        self._options = template_options
        self._require_template()
        self._decoder = TokenDecoder(tokenizer)
        added = self._decoder.added
        self.special_ids = frozenset(i for i in self._decoder.special_ids if added.get(i) not in TAGS)
        """Ids of special tokens, the four tags excepted: a tokenizer may hold those as tokens of their own."""
        self.end_of_turn_id = self._find_end_of_turn()
        """The special token that closes a reply, `<|im_end|>` in Qwen's template."""

    def initial_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of the messages ({"role", "content"}) and the generation prompt."""
        return self._encode(self._render(messages))

    def continuation_ids(self, user_text: str, *, closed: bool = True) -> list[int]:
        """Ids between the end of a sampled reply and the start of the next one.

        closed: whether the reply ended with the end-of-turn token; if it did not, the first id here is that token.
        """
        ids = self._encode(self._after_reply(user_text))
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
        decoded = self._decoder.decode(token_ids)
        return decoded.text, list(zip(decoded.starts.tolist(), decoded.ends.tolist(), strict=True))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _render(self, messages: Sequence[dict[str, str]], *, generation_prompt: bool = True) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation_prompt, **self._options
            )
        )

    def _after_reply(self, user_text: str) -> str:
        conversation = [
            {"role": "system", "content": "system"},
            {"role": "user", "content": "user"},
            {"role": "assistant", "content": _REPLY_MARK},
            {"role": "user", "content": user_text},
        ]
        return self._render(conversation).partition(_REPLY_MARK)[2]

    def _require_template(self) -> None:
        name = getattr(self._tokenizer, "name_or_path", "") or type(self._tokenizer).__name__
        if not getattr(self._tokenizer, "chat_template", None):
            raise ConfigurationError(
                "model.path", name, "its tokenizer has no chat template", "Use an instruction-tuned (chat) model"
            )
        try:
            rendered = self._after_reply("user")
        except Exception as error:  # whatever the template's author made it raise
            raise ConfigurationError(
                "model.path",
                name,
                f"its chat template refuses system, user, assistant, user ({error})",
                "Use a model whose template takes these roles",
            ) from error
        opening = rendered.rpartition(TAGS[0])
        if opening[1] and TAGS[1] not in opening[2]:
            raise ConfigurationError(
                "model.path",
                name,
                "its chat template opens <think> itself, but the reply must hold both think tags",
                "Use another chat template",
            )

    def _find_end_of_turn(self) -> int:
        after = self._encode(self._after_reply("user"))
        if not after or after[0] not in self.special_ids:
            raise ConfigurationError(
                "model.path",
                getattr(self._tokenizer, "name_or_path", ""),
                "its chat template does not close a reply with a special token",
                "Use a chat template with an end-of-turn token",
            )
        return after[0]
