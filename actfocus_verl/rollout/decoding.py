"""Sampled ids as text: read, and never encoded again. Every character knows the ids that have bytes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.errors import ConfigurationError

_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_REPLACEMENT: Final = "\ufffd"
_ESCAPED: Final = re.compile("[\udc80-\udcff]")
"""What Python's surrogateescape makes of bytes that are no UTF-8."""


@dataclass(frozen=True)
class DecodedTokens:
    """The text of T ids; id t has bytes in the characters starts[t]..ends[t] - 1. Both ascend."""

    text: str
    """Special tokens are visible; a byte that is no valid UTF-8 is one U+FFFD."""
    starts: NDArray[np.int64]
    """(T,)."""
    ends: NDArray[np.int64]
    """(T,); equal to the start for an id without bytes."""

    @property
    def texts(self) -> list[str]:
        """What each id adds: joined they are the text. A character of several ids is the first one's."""
        reached = np.maximum.accumulate(np.append(0, self.ends))
        return [self.text[start:end] for start, end in pairwise(reached.tolist())]


class TokenDecoder:
    """Decoding with offsets, of any fast Hugging Face tokenizer.

    Raises ConfigurationError when the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            raise ConfigurationError("model.path", name, "has no fast tokenizer", "Use a model with a tokenizer.json")
        self._pieces = _Pieces(tokenizer)
        self.added: dict[int, str] = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        """Added tokens, special or not, by id."""
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(special | set(tokenizer.all_special_ids))

    def decode(self, token_ids: Sequence[int]) -> DecodedTokens:
        """The text of the ids and the characters of each: a character split over several ids is in each of them."""
        pieces = [*map(self._pieces.__getitem__, token_ids)]
        ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
        starts = ends - np.fromiter(map(len, pieces), np.int64, len(pieces))
        # surrogateescape keeps every character's bytes countable, the undecodable ones one by one
        raw = b"".join(pieces).decode("utf-8", "surrogateescape")
        if raw.isascii():
            return DecodedTokens(raw, starts, ends)
        owner = np.repeat(np.arange(len(raw) + 1), np.append(_widths(raw), 1))  # byte -> character
        first, last = owner[starts], owner[np.maximum(ends, 1) - 1]
        return DecodedTokens(_ESCAPED.sub(_REPLACEMENT, raw), first, np.where(ends > starts, last + 1, first))


def _widths(text: str) -> NDArray[np.int64]:
    """Bytes of each character in UTF-8; 1 for an escaped byte."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    widths = np.ones(len(points), dtype=np.int64)
    for first_wider in (0x80, 0x800, 0x10000):
        widths += points >= first_wider
    widths[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
    return widths


class _Pieces(dict[int, bytes]):
    """The bytes of a token by its id, looked up once."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__((i, token.content.encode()) for i, token in tokenizer.added_tokens_decoder.items())
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        self._byte_level = _is_byte_level(tokenizer)

    def __missing__(self, token_id: int) -> bytes:
        self[token_id] = piece = self._bytes(token_id)
        return piece

    def _bytes(self, token_id: int) -> bytes:
        # a model may have more rows than its tokenizer has tokens, and sample one of them
        token = self._tokenizer.convert_ids_to_tokens(token_id) if token_id < self._size else None
        if token is None:
            return _REPLACEMENT.encode()
        if self._byte_level:
            table = _byte_alphabet()
            return b"".join(bytes([table[c]]) if c in table else c.encode() for c in token)
        byte = _BYTE_PIECE.match(token)
        return bytes([int(byte[1], 16)]) if byte else str(token).replace("▁", " ").encode()


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
