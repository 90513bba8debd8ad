"""Reading a reply: one `<think>` span, then one `<answer>` span.

The strict rule takes nothing else, so that a reply cannot be read in two ways. It parses exactly when its text is

    whitespace? <think> reasoning </think> whitespace? <answer> actions </answer> whitespace?

where neither content holds any of the four tags. Before or between the spans and after them only whitespace may stand.
The lenient rule is that of the paper's code base. It takes the first place where the two spans follow each other, only
whitespace between them, and ignores what stands around it; tags within a content are dropped.

The answer's content is everything between its tags, whitespace included; it is split on `||`, and blank pieces are
dropped. Whether a piece is an action, the world decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actfocus_verl.environments import ACTION_SEPARATOR

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

Span = tuple[int, int]
"""Half-open range of characters."""

_TAG = re.compile("|".join(map(re.escape, TAGS)))
_BETWEEN: Final = re.compile(r"</think>\s*+<answer>")
_DROPPED: Final = (*TAGS, "<|im_start|>", "<|im_end|>")
"""What the code base deletes from a content, one after the other."""


@dataclass(frozen=True)
class ParsedReply:
    """What a reply says. `think` and `answer` are the spans of the contents, None when the reply does not parse.

    tags: every tag in the text, parsed or not. actions: the stripped pieces of the answer, in order.
    ignored: what the lenient rule passes over, before and after the two spans, without the whitespace around it.
    """

    tags: tuple[Span, ...]
    think: Span | None = None
    answer: Span | None = None
    actions: tuple[str, ...] = ()
    ignored: tuple[Span, ...] = ()

    @property
    def parses(self) -> bool:
        """Whether the reply has the required form; its answer may still be empty."""
        return self.answer is not None


def parse_reply(text: str, *, lenient: bool = False, opening: str = "") -> ParsedReply:
    """Parse the text of a reply without its end-of-turn token. Linear in the text; raises nothing.

    opening: what the prompt already holds of the reply; it is read as its beginning. The spans are those of `text`.
    """
    parsed = (_lenient if lenient else _strict)(opening + text)
    return _behind(parsed, len(opening)) if opening else parsed


def without_structure(parsed: ParsedReply) -> ParsedReply:
    """The same tags in a reply that something else keeps from parsing."""
    return ParsedReply(parsed.tags)


def _strict(text: str) -> ParsedReply:
    found = list(_TAG.finditer(text))
    tags = tuple(tag.span() for tag in found)
    if tuple(tag.group() for tag in found) != TAGS:
        return ParsedReply(tags)
    (start, think_from), (think_to, between), (between_to, answer_from), (answer_to, end) = tags
    if text[:start].strip() or text[between:between_to].strip() or text[end:].strip():
        return ParsedReply(tags)
    return ParsedReply(tags, (think_from, think_to), (answer_from, answer_to), _pieces(text[answer_from:answer_to]))


def _lenient(text: str) -> ParsedReply:
    """The match of `<think>(.*?)</think>\\s*<answer>(.*?)</answer>`, without a search from every `<think>`."""
    tags = tuple(tag.span() for tag in _TAG.finditer(text))
    think, _, _, answer_end = TAGS
    start = text.find(think)
    between = _BETWEEN.search(text, start + len(think)) if start >= 0 else None
    answer_to = text.find(answer_end, between.end()) if between else -1
    if between is None or answer_to < 0:
        return ParsedReply(tags)
    content = text[between.end() : answer_to]
    for dropped in _DROPPED:
        content = content.replace(dropped, "").strip()
    return ParsedReply(
        tags,
        (start + len(think), between.start()),
        (between.end(), answer_to),
        _pieces(content),
        ignored=(*_stripped(text, 0, start), *_stripped(text, answer_to + len(answer_end), len(text))),
    )


def _stripped(text: str, start: int, end: int) -> tuple[Span, ...]:
    """The span without the whitespace at both ends, unless there is nothing else."""
    part = text[start:end]
    return ((end - len(part.lstrip()), start + len(part.rstrip())),) if part.strip() else ()


def _pieces(content: str) -> tuple[str, ...]:
    pieces = (piece.strip() for piece in content.split(ACTION_SEPARATOR))
    return tuple(piece for piece in pieces if piece)


def _behind(parsed: ParsedReply, length: int) -> ParsedReply:
    """The same with spans counted from `length` on; what ends before is left out."""
    return moved(parsed, lambda span: (max(span[0] - length, 0), max(span[1] - length, 0)))


def moved(parsed: ParsedReply, move: Callable[[Span], Span]) -> ParsedReply:
    """The same with every span where `move` puts it, tags and ignored ones only where that has characters."""
    tags, ignored = (
        tuple(span for span in map(move, spans) if span[0] < span[1]) for spans in (parsed.tags, parsed.ignored)
    )
    if parsed.think is None or parsed.answer is None:
        return ParsedReply(tags)
    return ParsedReply(tags, move(parsed.think), move(parsed.answer), parsed.actions, ignored)
