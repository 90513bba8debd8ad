"""Token roles the slow way: the tokenizer decodes every prefix of a reply, and the text is read a character at a time.

Uses nothing of `rollout`. Letters of roles: r reasoning, a action, f format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from actfocus_verl.rollout.parsing import Span

_TAG = r"</?(?:think|answer)>"
_CONTENT = rf"((?:(?!{_TAG}).)*)"
_STRICT = re.compile(rf"\s*<think>{_CONTENT}</think>\s*<answer>{_CONTENT}</answer>\s*", re.DOTALL)
_LENIENT = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", re.DOTALL)
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
BROKEN = "\ufffd"


def slow_spans(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[Span]]:
    """The text, with adjacent broken bytes as one U+FFFD, and the half-open span of characters each id has bytes in.

    What a prefix adds to the prefix before it is what its last id says. A prefix may end within a character, which then
    is U+FFFD at its end and something else in the text. SentencePiece's decoder drops a space at the very beginning, so
    all are decoded behind a letter.
    """
    anchor = tokenizer.encode("x", add_special_tokens=False)[-1:]
    prefixes = [[*anchor, *ids[:length]] for length in range(len(ids) + 1)]
    decoded = tokenizer.backend_tokenizer.decode_batch(prefixes, skip_special_tokens=False)
    texts = [re.sub(f"{BROKEN}+", BROKEN, text)[1:] for text in decoded]
    text, spans = texts[-1], []
    for before, after in pairwise(texts):
        start, end = _common(before, text), _common(after, text)
        end += end < len(after)
        spans.append((min(start, end - 1), end))  # an id within a run of broken bytes adds nothing to it
    return text, spans


def _common(prefix: str, text: str) -> int:
    """Characters until the first difference."""
    if text.startswith(prefix):
        return len(prefix)
    return next(at for at, character in enumerate(prefix) if text[at : at + 1] != character)


def slow_reply_roles(text: str, spans: Sequence[Span], special: Sequence[bool], *, closed: bool, lenient: bool) -> str:
    """Roles of one reply whose last id, where closed, ends the turn. lenient: only for replies without special ids."""
    message = text[: spans[-1][0]] if closed else text
    form = _LENIENT.search(message) if lenient else _STRICT.fullmatch(message)
    if form is None or any(special[: len(special) - closed]):
        kinds = ["r"] * len(text)
    else:
        kinds = ["f"] * len(text)
        reasoning = (form.span(1), _stripped(message, 0, form.start()), _stripped(message, form.end(), len(message)))
        for role, (start, end) in (*(("r", span) for span in reasoning), ("a", form.span(2))):
            kinds[start:end] = role * (end - start)
    for tag in re.finditer(_TAG, message):
        kinds[tag.start() : tag.end()] = "f" * len(tag[0])
    return "".join(_role(kinds[slice(*span)], is_special) for span, is_special in zip(spans, special, strict=True))


def slow_answer_roles(text: str, spans: Sequence[Span], special: Sequence[bool]) -> str:
    """Roles by `credit.action_span=answer`: what stands between two tags, whatever else the reply holds."""
    kinds = ["r"] * len(text)
    for tag in re.finditer("</?answer>", text):
        kinds[tag.start() : tag.end()] = "f" * len(tag[0])
    for answer in _ANSWER.finditer(text):
        kinds[answer.start(1) : answer.end(1)] = "a" * len(answer[1])
    roles = [_role(kinds[slice(*span)], False) for span in spans]
    last = len(special) - 1
    roles = [
        "f" if is_special and (role != "a" or at == last) else role
        for at, (role, is_special) in enumerate(zip(roles, special, strict=True))
    ]
    return "".join(roles)


def _stripped(text: str, start: int, end: int) -> Span:
    """The part without the whitespace at both ends."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _role(kinds: Sequence[str], is_special: bool) -> str:
    return "f" if is_special else next(role for role in "afr" if role in kinds)
