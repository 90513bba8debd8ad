"""What counts as an action in replies that none of our worlds has read: spans of the sampled text, by configuration.

`credit.action_span` names the span (`build_action_span`); `span_roles` gives each token of a response its role. Nothing
is encoded: the sampled ids are decoded with offsets, reply by reply. A reply is a maximal run of sampled tokens.

A span has a content, what is between its tags or in the groups of its regular expression, and tags, the rest of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Final, Protocol

import numpy as np
import regex
from numpy.typing import NDArray

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout.decoding import TokenDecoder
from actfocus_verl.rollout.parsing import Span

KEY: Final = "credit.action_span"
COLUMN: Final = "column"
TOOL_CALL: Final = "tool_call"
PATTERN_SECONDS: Final = 10.0
"""What a regular expression may take for one reply: some take exponentially long."""

_REMEDY: Final = f"Write {COLUMN}, answer, {TOOL_CALL}, a pair of tags ['<act>','</act>'], or {{regex: 'Action: (.*)'}}"


@dataclass(frozen=True)
class FoundSpans:
    """Half-open ranges of characters. A character in a content and in a tag counts as content."""

    contents: tuple[Span, ...]
    tags: tuple[Span, ...]


class ActionSpan(Protocol):
    """Whatever finds the actions of a reply."""

    def find(self, text: str) -> FoundSpans:
        """The spans in the text of one reply, its special tokens visible."""


@dataclass(frozen=True)
class TagPair:
    """What stands between an opening tag and the next closing one; in time linear in the text.

    The search goes on after the closing tag, so an opening tag within a content is part of it. A tag without its
    partner marks no action. open_ended: what follows an opening tag without a closing one is content, too. nearest: a
    content begins after the last opening tag before the closing one, so an opening tag that is only mentioned, as in
    "I end with <answer>", opens nothing. only_with: without this text there is no content.
    """

    opening: str
    closing: str
    open_ended: bool = False
    nearest: bool = False
    only_with: str = ""

    def find(self, text: str) -> FoundSpans:
        contents, start = [], text.find(self.opening) if self.only_with in text else -1
        while start >= 0:
            start += len(self.opening)
            end = text.find(self.closing, start)
            if end < 0:
                if self.open_ended:
                    contents.append((start, len(text)))
                break
            if self.nearest:
                start = max(start, text.rfind(self.opening, start, end) + len(self.opening))
            contents.append((start, end))
            start = text.find(self.opening, end + len(self.closing))
        longest_first = sorted((self.opening, self.closing), key=len, reverse=True)
        tags = regex.finditer("|".join(map(regex.escape, longest_first)), text)
        return FoundSpans(tuple(contents), tuple(tag.span() for tag in tags))


class Pattern:
    """Matches of a regular expression (module `regex`): its groups where it has some, else the whole match."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._compiled = regex.compile(expression)

    def find(self, text: str) -> FoundSpans:
        """The matches. Raises ConfigurationError when they take longer than PATTERN_SECONDS."""
        groups = range(1, self._compiled.groups + 1) or (0,)
        try:
            matches = list(self._compiled.finditer(text, timeout=PATTERN_SECONDS))
        except TimeoutError as error:
            raise ConfigurationError(
                KEY,
                {"regex": self.expression},
                f"took more than {PATTERN_SECONDS:g} s for a reply of {len(text)} characters",
                "Write it without nested repetitions, such as (a+)+, or use a pair of tags",
            ) from error
        contents = chain.from_iterable(match.spans(group) for match in matches for group in groups)
        return FoundSpans(tuple(contents), tuple(match.span() for match in matches))


class GptOssCalls:
    """Calls in OpenAI's harmony format; none in the analysis, which verl's parser removes before it looks."""

    _CALL: Final = Pattern(
        r"<\|start\|>assistant<\|channel\|>[^<]* to=functions\.([^<]+) <\|constrain\|>json<\|message\|>"
        r"((?s:(?!<\|start\|>).)*?)<\|call\|>"
    )
    _ANALYSES: Final = tuple(
        TagPair(f"{start}<|channel|>analysis<|message|>", "<|end|>") for start in ("<|start|>assistant", "")
    )

    def find(self, text: str) -> FoundSpans:
        places: Sequence[int] = range(len(text))
        for analysis in self._ANALYSES:
            found = analysis.find(text).contents
            begins = [start - len(analysis.opening) for start, _ in found]
            ends = [end + len(analysis.closing) for _, end in found]
            kept = [slice(*span) for span in zip([0, *ends], [*begins, len(text)], strict=True)]
            text = "".join(text[part] for part in kept)
            places = [*chain.from_iterable(places[part] for part in kept)]
        calls = self._CALL.find(text)
        return FoundSpans(_placed(calls.contents, places), _placed(calls.tags, places))


def _placed(found: Sequence[Span], places: Sequence[int]) -> tuple[Span, ...]:
    """The spans where `places` has their characters; in parts where something was left out between these."""
    spans: list[Span] = []
    for start, end in found:
        borders = [start, *(k for k in range(start + 1, end) if places[k] != places[k - 1] + 1), end]
        spans += [(places[a], places[b - 1] + 1) for a, b in pairwise(borders) if a < b]
    return tuple(spans)


_QWEN_TAGS: Final = ("<tool_call>", "</tool_call>")
TOOL_CALLS: Final[Mapping[str, ActionSpan]] = {
    "hermes": TagPair(*_QWEN_TAGS),
    "glm": TagPair(*_QWEN_TAGS),
    "qwen3_coder": TagPair(*_QWEN_TAGS, open_ended=True),
    "seed": TagPair("<seed:tool_call>", "</seed:tool_call>"),
    "minimax": TagPair("<minimax:tool_call>", "</minimax:tool_call>"),
    "kimi": TagPair("<|tool_call_begin|>", "<|tool_call_end|>", only_with="<|tool_calls_section_begin|>"),
    "deepseek_v4": TagPair("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"),
    "gemma4": TagPair("<|tool_call>", "<tool_call|>"),
    "gpt-oss": GptOssCalls(),
}
"""The calls that verl's tool parsers read, by `rollout.multi_turn.format`; whether a call is valid is not looked at."""


def build_action_span(value: object, *, tool_format: str) -> ActionSpan | None:
    """The span that `credit.action_span` names; None for the agent loop's own column.

    tool_format: the name of verl's tool parser, read for `tool_call` only. Raises ConfigurationError for what names no
    span.
    """
    if value is None or value == COLUMN:
        return None
    if value == "answer":
        return TagPair("<answer>", "</answer>", nearest=True)
    if value == TOOL_CALL:
        return _tool_call(tool_format)
    if isinstance(value, Mapping):
        return _pattern(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _tag_pair(value)
    raise ConfigurationError(KEY, value, "names no span", _REMEDY)


def _tool_call(tool_format: str) -> ActionSpan:
    if tool_format not in TOOL_CALLS:
        raise ConfigurationError(
            KEY,
            TOOL_CALL,
            f"how actor_rollout_ref.rollout.multi_turn.format={tool_format} marks a call is not known here",
            f"Known: {', '.join(TOOL_CALLS)}; or write its tags as a pair",
        )
    return TOOL_CALLS[tool_format]


def _tag_pair(value: Sequence[object]) -> TagPair:
    tags = [tag for tag in value if isinstance(tag, str) and tag]
    if len(value) != 2 or len(tags) != 2:
        raise ConfigurationError(KEY, list(value), "must be a pair of tags, two non-empty texts", _REMEDY)
    return TagPair(tags[0], tags[1], nearest=True)


def _pattern(value: Mapping[object, object]) -> Pattern:
    expression = value.get("regex")
    if set(value) != {"regex"} or not isinstance(expression, str) or not expression:
        raise ConfigurationError(KEY, dict(value), "must be {regex: expression}", _REMEDY)
    try:
        return Pattern(expression)
    except regex.error as error:
        raise ConfigurationError(
            KEY,
            dict(value),
            f"is not a regular expression ({error})",
            "Correct it; a backslash must reach it unchanged",
        ) from error


def span_roles(
    span: ActionSpan, decoder: TokenDecoder, response_ids: Sequence[int], response_mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Role of each token of one response, values of TokenRole, (T,).

    - ENVIRONMENT: not sampled.
    - ACTION: at least one character lies in the content of a span; but never a special token that ends its reply.
    - FORMAT: else at least one character of a tag; a special token; a token without characters.
    - REASONING: everything else.

    response_mask: (T,). Raises ValueError when the lengths differ.
    """
    if len(response_ids) != len(response_mask):
        raise ValueError(f"response_mask has {len(response_mask)} entries, the response {len(response_ids)} tokens")
    roles = np.full(len(response_ids), TokenRole.ENVIRONMENT, dtype=np.int64)
    for start, end in _runs(response_mask):
        roles[start:end] = _reply_roles(span, decoder, response_ids[start:end])
    return roles


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each maximal run of True."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _reply_roles(span: ActionSpan, decoder: TokenDecoder, token_ids: Sequence[int]) -> NDArray[np.int64]:
    decoded = decoder.decode(token_ids)
    found = span.find(decoded.text)
    special = np.fromiter(map(decoder.special_ids.__contains__, token_ids), np.bool_, len(token_ids))
    roles = np.full(len(token_ids), TokenRole.REASONING, dtype=np.int64)
    roles[special] = TokenRole.FORMAT
    for spans, role in ((found.tags, TokenRole.FORMAT), (found.contents, TokenRole.ACTION)):
        for first, last in spans:
            if first < last:
                touched = slice(decoded.ends.searchsorted(first, "right"), decoded.starts.searchsorted(last, "left"))
                roles[touched] = role
    roles[decoded.starts == decoded.ends] = TokenRole.FORMAT
    if special[-1]:
        roles[-1] = TokenRole.FORMAT
    return roles
