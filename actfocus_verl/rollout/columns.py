"""From the sampled ids of one reply to what it says and to the role of each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.rollout.chat import ChatCodec
from actfocus_verl.rollout.parsing import ParsedReply, Span, parse_reply, without_structure

_RANK = {TokenRole.REASONING: 0, TokenRole.FORMAT: 1, TokenRole.ACTION: 2}
"""A token that holds characters of several roles takes the one of highest rank."""


@dataclass(frozen=True)
class ReadReply:
    """One reply. text: decoded, special tokens visible. message: without the end-of-turn token. roles: one a token."""

    text: str
    message: str
    parsed: ParsedReply
    roles: list[TokenRole]


def read_reply(codec: ChatCodec, token_ids: Sequence[int]) -> ReadReply:
    """Decode, parse and label the sampled ids of one reply.

    A special token anywhere but at the end, or another one than the end-of-turn token there, keeps a reply from
    parsing. The end-of-turn token may be missing: a reply cut right after its answer is complete.
    """
    text, spans = codec.offsets(token_ids)
    closed = codec.is_closed(token_ids)
    body = token_ids[:-1] if closed else token_ids
    message = text[: spans[-1][0]] if closed else text
    parsed = parse_reply(message)
    if not codec.special_ids.isdisjoint(body):
        parsed = without_structure(parsed)
    special = [token_id in codec.special_ids for token_id in token_ids]
    return ReadReply(text, message, parsed, token_roles(parsed, spans, special))


def token_roles(parsed: ParsedReply, spans: Sequence[Span], special: Sequence[bool]) -> list[TokenRole]:
    """The role of each token, from the span of its characters and whether it is a special token.

    - ACTION: at least one character lies in the content of the answer of a reply that parses.
    - FORMAT: special tokens; else at least one character of a tag; in a reply that parses also the whitespace
      outside both contents. A token without characters.
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
    painted = [(span, TokenRole.FORMAT) for span in parsed.tags]
    if parsed.think is not None and parsed.answer is not None:
        painted += [(parsed.think, TokenRole.REASONING), (parsed.answer, TokenRole.ACTION)]
    for (start, end), role in painted:
        roles[start:end] = [role] * (end - start)
    return roles
