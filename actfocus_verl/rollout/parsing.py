"""Reading a reply: one `<think>` span, then one `<answer>` span, and nothing else.

The rule is strict, so that it cannot be read in two ways. A reply parses exactly when its text is

    whitespace? <think> reasoning </think> whitespace? <answer> actions </answer> whitespace?

where neither content holds any of the four tags. Before or between the spans and after them only whitespace may stand.
The answer's content is everything between its tags, whitespace included; it is split on `||`, and blank pieces are
dropped. Whether a piece is an action, the world decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from actfocus_verl.environments import ACTION_SEPARATOR

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

Span = tuple[int, int]
"""Half-open range of characters."""

_TAG = re.compile("|".join(map(re.escape, TAGS)))


@dataclass(frozen=True)
class ParsedReply:
    """What a reply says. `think` and `answer` are the spans of the contents, None when the reply does not parse.

    tags: every tag in the text, parsed or not. actions: the stripped pieces of the answer, in order.
    """

    tags: tuple[Span, ...]
    think: Span | None = None
    answer: Span | None = None
    actions: tuple[str, ...] = ()

    @property
    def parses(self) -> bool:
        """Whether the reply has the required form; its answer may still be empty."""
        return self.answer is not None


def parse_reply(text: str) -> ParsedReply:
    """Parse the text of a reply without its end-of-turn token. Linear in the text; raises nothing."""
    found = list(_TAG.finditer(text))
    tags = tuple(tag.span() for tag in found)
    if tuple(tag.group() for tag in found) != TAGS:
        return ParsedReply(tags)
    (start, think_from), (think_to, between), (between_to, answer_from), (answer_to, end) = tags
    if text[:start].strip() or text[between:between_to].strip() or text[end:].strip():
        return ParsedReply(tags)
    pieces = (piece.strip() for piece in text[answer_from:answer_to].split(ACTION_SEPARATOR))
    return ParsedReply(tags, (think_from, think_to), (answer_from, answer_to), tuple(p for p in pieces if p))


def without_structure(parsed: ParsedReply) -> ParsedReply:
    """The same tags in a reply that something else keeps from parsing."""
    return ParsedReply(parsed.tags)
