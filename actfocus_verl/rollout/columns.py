"""From the sampled ids of one reply to what it says and to the role of each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.rollout.chat import ChatCodec
from actfocus_verl.rollout.parsing import ParsedReply, Span, moved, parse_reply, without_structure

_RANK = {TokenRole.REASONING: 0, TokenRole.FORMAT: 1, TokenRole.ACTION: 2}
"""A token that holds characters of several roles takes the one of highest rank."""


@dataclass(frozen=True)
class ReadReply:
    """One reply. text: decoded, special tokens visible. message: without the end-of-turn token. roles: one a token."""

    text: str
    message: str
    parsed: ParsedReply
    roles: list[TokenRole]

    @property
    def parses(self) -> bool:
        """Whether it has the required form."""
        return self.parsed.parses


def read_reply(codec: ChatCodec, token_ids: Sequence[int], *, lenient: bool = False) -> ReadReply:
    """Decode, parse and label the sampled ids of one reply, which goes on from the codec's opening.

    Read strictly, a special token anywhere but at the end, or another one than the end-of-turn token there, keeps a
    reply from parsing; read leniently, special tokens are passed over. The end-of-turn token may be missing: a reply
    cut right after its answer is complete.
    """
    text, spans = codec.offsets(token_ids)
    closed = codec.is_closed(token_ids)
    message = text[: spans[-1][0]] if closed else text
    special = [token_id in codec.special_ids for token_id in token_ids]
    within = [span for span, is_special in zip(spans, special, strict=True) if is_special and span[0] < len(message)]
    if not lenient:
        parsed = parse_reply(message, opening=codec.opening)
        parsed = without_structure(parsed) if within else parsed
    elif within:
        parsed = _parse_around(message, within, codec.opening)
    else:
        parsed = parse_reply(message, lenient=True, opening=codec.opening)
    return ReadReply(text, message, parsed, token_roles(parsed, spans, special))


def _parse_around(message: str, special: Sequence[Span], opening: str) -> ParsedReply:
    """The message as if the special tokens were not there; the spans are those of the message."""
    left_out = {place for span in special for place in range(*span)}
    places = [place for place in range(len(message)) if place not in left_out]
    parsed = parse_reply("".join([message[place] for place in places]), lenient=True, opening=opening)

    def move(span: Span) -> Span:
        start, end = span
        return (places[start], places[end - 1] + 1) if start < end else (0, 0)

    return moved(parsed, move)


def token_roles(parsed: ParsedReply, spans: Sequence[Span], special: Sequence[bool]) -> list[TokenRole]:
    """The role of each token, from the span of its characters and whether it is a special token.

    - ACTION: at least one character lies in the content of the answer of a reply that parses.
    - FORMAT: special tokens; else at least one character of a tag; in a reply that parses also the whitespace
      between both contents. A token without characters.
    - REASONING: everything else; in a reply that does not parse, all text but the tags.
    """
    length = max((end for _, end in spans), default=0)
    characters = _character_roles(parsed, length)
    roles = []
    for (start, end), is_special in zip(spans, special, strict=True):
        if is_special or start == end:
            roles.append(TokenRole.FORMAT)
        else:
            roles.append(max(characters[start:end], key=_RANK.__getitem__))
    return roles


def _character_roles(parsed: ParsedReply, length: int) -> list[TokenRole]:
    roles = [TokenRole.FORMAT if parsed.parses else TokenRole.REASONING] * length
    painted = [(span, TokenRole.REASONING) for span in parsed.ignored]
    if parsed.think is not None and parsed.answer is not None:
        painted += [(parsed.think, TokenRole.REASONING), (parsed.answer, TokenRole.ACTION)]
    painted += [(span, TokenRole.FORMAT) for span in parsed.tags]
    for (start, end), role in painted:
        roles[start:end] = [role] * (end - start)
    return roles
