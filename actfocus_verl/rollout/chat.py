"""Between text and token ids, in the one direction each may go.

Text of the environment becomes ids through the chat template; ids that a policy sampled become text with offsets, to be
read and never to be encoded again. A tokenizer is any fast Hugging Face tokenizer with a chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout.parsing import TAGS

_REPLY_MARK = "actfocus-reply-mark"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_REPLACEMENT = "\ufffd"


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
        self._byte_level = _is_byte_level(tokenizer)
        self._added: dict[int, str] = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self._bytes: dict[int, bytes] = {}
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        self.special_ids = frozenset(i for i in special if self._added.get(i) not in TAGS)
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

    def is_closed(self, token_ids: Sequence[int]) -> bool:
        """Whether the reply ends with the end-of-turn token."""
        return bool(token_ids) and token_ids[-1] == self.end_of_turn_id

    def offsets(self, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text of sampled ids, and for each id the half-open span of the characters it has bytes in.

        Special tokens stay visible. A character split over several tokens lies in the span of each of them; a byte
        that is no valid UTF-8 is one U+FFFD.
        """
        pieces = [self._piece(token_id) for token_id in token_ids]
        # surrogateescape keeps every character's bytes countable, the undecodable ones one by one
        raw = b"".join(pieces).decode("utf-8", "surrogateescape")
        owner: list[int] = []  # byte -> character
        for position, character in enumerate(raw):
            owner.extend([position] * len(character.encode("utf-8", "surrogateescape")))
        ends = list(accumulate(len(piece) for piece in pieces))
        spans = []
        for piece, end in zip(pieces, ends, strict=True):
            if piece:
                spans.append((owner[end - len(piece)], owner[end - 1] + 1))
            else:
                start = owner[end] if end < len(owner) else len(raw)
                spans.append((start, start))
        return re.sub("[\udc80-\udcff]", _REPLACEMENT, raw), spans

    def texts(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each id adds: joined they are the text of `offsets`.

        A character split over several tokens is that of the first one; the others add nothing.
        """
        text, spans = self.offsets(token_ids)
        texts, shown = [], 0
        for _, end in spans:
            texts.append(text[shown:end])
            shown = max(shown, end)
        return texts

    def _piece(self, token_id: int) -> bytes:
        if token_id not in self._bytes:
            self._bytes[token_id] = self._token_bytes(token_id)
        return self._bytes[token_id]

    def _token_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        # a model may have more rows than its tokenizer has tokens, and sample one of them
        token = self._tokenizer.convert_ids_to_tokens(token_id) if token_id < len(self._tokenizer) else None
        if token is None:
            return _REPLACEMENT.encode()
        if self._byte_level:
            table = _byte_alphabet()
            return b"".join(bytes([table[c]]) if c in table else c.encode() for c in token)
        byte = _BYTE_PIECE.match(token)
        return bytes([int(byte[1], 16)]) if byte else str(token).replace("▁", " ").encode()

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
        if getattr(self._tokenizer, "backend_tokenizer", None) is None:
            raise ConfigurationError("model.path", name, "has no fast tokenizer", "Use a model with a tokenizer.json")
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


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether tokens spell bytes in GPT-2's alphabet (Qwen, Llama 3) rather than SentencePiece's (Llama 2, Gemma)."""
    decoder = tokenizer.backend_tokenizer.decoder
    if decoder is None:
        return False
    state = json.loads(decoder.__getstate__())
    return any(part["type"] == "ByteLevel" for part in state.get("decoders", [state]))


@cache
def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 stands for itself, the other bytes for U+0100 onward."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}
