"""Spans of actions in sampled ids: by hand, against a loop over characters, and the ways to say which span is meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import TokenDecoder, build_action_span, span_roles, spans
from actfocus_verl.rollout.decoding import DecodedTokens
from actfocus_verl.rollout.spans import TOOL_CALLS, Pattern, TagPair
from tests.helpers.tokenizer import build_tokenizer

LETTERS = {TokenRole.ENVIRONMENT: ".", TokenRole.REASONING: "r", TokenRole.ACTION: "a", TokenRole.FORMAT: "f"}
ACT = TagPair("<a>", "</a>")
DECODERS = {
    "merged": TokenDecoder(build_tokenizer()),
    "bytes": TokenDecoder(build_tokenizer(vocab_size=259)),
    "added_tags": TokenDecoder(build_tokenizer(added_tags=True)),
}
TOKENIZERS = {
    "merged": build_tokenizer(),
    "bytes": build_tokenizer(vocab_size=259),
    "added_tags": build_tokenizer(added_tags=True),
}


def letters(roles: Sequence[int]) -> str:
    return "".join(LETTERS[TokenRole(int(role))] for role in roles)


class Pieces:
    """A decoder whose id k is the k-th piece; pieces in <| |> are special."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces
        self.special_ids = frozenset(k for k, piece in enumerate(pieces) if piece.startswith("<|"))

    def decode(self, token_ids: Sequence[int]) -> DecodedTokens:
        lengths = [len(self.pieces[k]) for k in token_ids]
        ends = np.cumsum(lengths)
        return DecodedTokens("".join(self.pieces[k] for k in token_ids), ends - lengths, ends)


def roles_of(span: spans.ActionSpan, *pieces: str, mask: str = "") -> str:
    """Letters of the roles; mask: a 0 marks a piece the policy did not sample."""
    sampled = np.array([m != "0" for m in mask or "1" * len(pieces)])
    return letters(span_roles(span, Pieces(pieces), range(len(pieces)), sampled))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        # whole tags; whitespace inside is content
        (["so ", "<a>", " Up", " ", "</a>", " done", "<|end|>"], "rfaafrf"),
        # tags split over tokens, and tokens that straddle a border: content wins over tag, tag over reasoning
        (["go<", "a", ">U", "p</", "a", ">go"], "ffaaff"),
        # two calls
        (["<a>", "x", "</a>", "<a>", "y", "</a>"], "faffaf"),
        # unclosed, unopened, closed before it is opened
        (["<a>", "x", "<|end|>"], "frf"),
        (["x", "</a>", "y"], "rfr"),
        (["</a>", "x", "<a>"], "frf"),
        # nested: from the first opening tag to the next closing one
        (["<a>", "x", "<a>", "y", "</a>", "z", "</a>"], "faaafrf"),
        # empty contents, also inside of a token
        (["<a>", "</a>"], "ff"),
        (["<a", "></", "a>"], "fff"),
        # a token without characters
        (["", "<a>", "", "x", "</a>", ""], "fffaff"),
        # special tokens: part of a content they act, at the end of a reply they never do
        (["<|quote|>", "<a>", "<|quote|>", "x", "</a>", "<|end|>"], "ffaaff"),
    ],
)
def test_roles_by_hand(pieces: list[str], expected: str) -> None:
    assert roles_of(ACT, *pieces) == expected


def test_spans_never_reach_over_what_the_environment_said() -> None:
    pieces = ["<a>", "x", " tool: </a>", "y", "</a>", "<a>z</a>", "<a>", "w", "</a>"]
    assert roles_of(ACT, *pieces, mask="110110111") == "fr.rf.faf"


def test_a_tag_that_is_only_mentioned_opens_nothing() -> None:
    nearest = TagPair("<a>", "</a>", nearest=True)
    assert roles_of(nearest, "I end with ", "<a>", ", so", "<a>", "Up", "</a>", ".") == "rfrfafr"
    assert roles_of(nearest, "<a>", "<a>", "x", "</a>", "y", "</a>", "<a>", "</a>") == "ffafrfff"
    assert roles_of(TagPair("``", "``", nearest=True), "``", "x", "``", "y") == "fafr"
    span = build_action_span("answer", tool_format="hermes")
    assert span is not None
    text = "<think>no <answer> yet</think><answer>Up</answer>"
    assert [text[slice(*content)] for content in span.find(text).contents] == ["Up"]


def test_gpt_oss_calls_count_outside_of_the_analysis_only() -> None:
    call = '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>'
    thoughts = f"<|channel|>analysis<|message|>perhaps {call} no<|end|>"
    span = TOOL_CALLS["gpt-oss"]

    def contents(text: str) -> list[str]:
        return [text[slice(*content)] for content in span.find(text).contents]

    assert contents(f"{thoughts}<|start|>assistant<|channel|>final<|message|>hi") == []
    assert contents(f"{thoughts}{call}<|start|>assistant{thoughts}{call}") == ["f", '{"a":1}'] * 2
    # analysis in the middle of a call is removed as well, and what is left of the call is what acts
    cut = call.replace('{"a":1}', '{"a":<|channel|>analysis<|message|>?<|end|>1}')
    assert contents(cut) == ["f", '{"a":', "1}"]


def test_an_open_end_reaches_to_the_end_of_the_reply_and_not_over_its_last_special_token() -> None:
    open_ended = TagPair("<a>", "</a>", open_ended=True)
    assert roles_of(open_ended, "<a>", "x", "</a>", "so", "<a>", "y", "<|end|>") == "fafrfaf"
    assert roles_of(open_ended, "<a>", "y", "told", "z", mask="1101") == "fa.r"


def test_the_same_tag_may_open_and_close() -> None:
    assert roles_of(TagPair("``", "``"), "``", "x", "``", "y", "``", "z", "``", "``") == "fafrfaff"


def test_a_pattern_acts_in_its_groups_or_as_a_whole() -> None:
    assert roles_of(Pattern(r"Action: (\w+)"), "I go.", " Action", ": ", "Up", "!") == "rffar"
    assert roles_of(Pattern(r"(?m)^Action: .*$"), "I go.\n", "Action", ": ", "Up", "\n", "so") == "raaarr"
    assert roles_of(Pattern(r"(?:(\d)|x)+"), "1", "x", "2", "y") == "afar"  # each repetition of the group
    assert roles_of(Pattern(r"\b"), "a", " ", "b") == "rrr"  # matches without characters


def test_a_pattern_that_does_not_end_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "PATTERN_SECONDS", 0.01)
    span = build_action_span({"regex": r"(a|a|aa)+(?<!a)b"}, tool_format="hermes")
    with pytest.raises(ConfigurationError, match=r"^credit.action_span=\{'regex': '\(a\|a\|aa\)\+.*took more than"):
        span.find("a" * 5000)


@pytest.mark.parametrize(
    "span",
    [TagPair("<a>", "</a>"), TagPair("<a>", "</a>", open_ended=True), TagPair("<a>", "</a>", nearest=True)],
)
@pytest.mark.parametrize("fragment", ["<a>", "</a>", "<a", "<", "</a><a>"])
def test_a_long_hostile_text_costs_no_more_than_its_length(span: TagPair, fragment: str) -> None:
    """A search from every opening tag to the end would look at 10^11 characters here."""
    found = span.find(fragment * 200_000)
    assert len(found.tags) == 200_000 * fragment.count(">")


def slow_letters(text: str, borders: list[tuple[int, int]], special: list[bool], pair: TagPair) -> str:
    """The rules of `span_roles` for one reply, a character and a token at a time."""
    kinds = ["r"] * len(text)
    for tag in (pair.opening, pair.closing):
        for at in range(len(text)):
            if text.startswith(tag, at):
                kinds[at : at + len(tag)] = "f" * len(tag)
    at = 0
    while at < len(text):
        if text.startswith(pair.opening, at):
            start = at + len(pair.opening)
            if pair.closing not in text[start:]:
                break
            end = text.index(pair.closing, start)
            kinds[start:end] = "a" * (end - start)
            at = end + len(pair.closing)
        else:
            at += 1
    found = ""
    for position, ((start, end), is_special) in enumerate(zip(borders, special, strict=True)):
        touched = kinds[start:end]
        if "a" in touched and not (is_special and position == len(borders) - 1):
            found += "a"
        else:
            found += "f" if is_special or not touched or "f" in touched else "r"
    return found


fragments = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool_", "call>", "</", "<answer>", "</answer>", "<think>", "</think>"),
        *('{"name": "go", "arguments": {}}', " ", "\n", "Up", "<|im_end|>", "<|im_start|>", "<|endoftext|>"),
        *("🦙👩‍👩‍👧‍👦", "é", "\x00\x07\x1b[31m\u202e\ufeff", "<|im_end|>\n<|im_start|>user\n</tool_call>"),
    ]
)
texts = st.one_of(st.lists(fragments, max_size=12).map("".join), st.text(max_size=30))


@settings(deadline=None, max_examples=150)
@given(
    data=st.data(),
    name=st.sampled_from(sorted(DECODERS)),
    pair=st.sampled_from([TOOL_CALLS["hermes"], TagPair("<answer>", "</answer>"), TagPair("é", "🦙")]),
)
def test_roles_agree_with_a_loop_over_the_characters(data: st.DataObject, name: str, pair: TagPair) -> None:
    """Any text cut into tokens anywhere, and any ids at all: half of a character, ids beyond the tokenizer."""
    decoder, tokenizer = DECODERS[name], TOKENIZERS[name]
    pieces = data.draw(st.lists(texts, max_size=4))
    ids = [i for piece in pieces for i in tokenizer.encode(piece, add_special_tokens=False)]
    ids += data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=12))
    mask = np.array(
        data.draw(st.lists(st.sampled_from([True, True, True, False]), min_size=len(ids), max_size=len(ids))),
        dtype=bool,
    )
    found = letters(span_roles(pair, decoder, ids, mask))

    expected = ""
    for run in re.finditer("1+|0+", "".join(str(int(m)) for m in mask)):
        reply = ids[run.start() : run.end()]
        if run[0][0] == "0":
            expected += "." * len(reply)
            continue
        decoded = decoder.decode(reply)
        borders = list(zip(decoded.starts.tolist(), decoded.ends.tolist(), strict=True))
        expected += slow_letters(decoded.text, borders, [i in decoder.special_ids for i in reply], pair)
    assert found == expected


def test_a_response_and_a_mask_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="response_mask has 1 entries, the response 2 tokens"):
        span_roles(ACT, DECODERS["bytes"], [1, 2], np.array([True]))


def test_an_empty_response_has_no_roles() -> None:
    assert span_roles(ACT, DECODERS["bytes"], [], np.array([], dtype=bool)).tolist() == []


@pytest.mark.parametrize("value", [None, "column"])
def test_the_loops_own_column_is_no_span(value: object) -> None:
    assert build_action_span(value, tool_format="whatever") is None


def test_spans_by_name() -> None:
    assert build_action_span("answer", tool_format="hermes") == TagPair("<answer>", "</answer>", nearest=True)
    assert build_action_span("tool_call", tool_format="seed") == TagPair("<seed:tool_call>", "</seed:tool_call>")
    assert build_action_span(["[", "]"], tool_format="hermes") == TagPair("[", "]", nearest=True)
    pattern = build_action_span({"regex": r"\d+"}, tool_format="hermes")
    assert pattern is not None
    assert pattern.find("a12b3").contents == ((1, 3), (4, 5))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tool_cal", "credit.action_span='tool_cal': names no span. Write column, answer, tool_call, a pair"),
        (7, "credit.action_span=7: names no span."),
        (["<a>"], "credit.action_span=['<a>']: must be a pair of tags"),
        (["<a>", ""], "credit.action_span=['<a>', '']: must be a pair of tags"),
        (["<a>", 3], "credit.action_span=['<a>', 3]: must be a pair of tags"),
        (["<a>", "b", "c"], "must be a pair of tags, two non-empty texts"),
        ({"regex": ""}, "credit.action_span={'regex': ''}: must be {regex: expression}"),
        ({"tags": "x"}, "must be {regex: expression}"),
        ({"regex": "x", "flags": "s"}, "must be {regex: expression}"),
        ({"regex": "(a"}, "credit.action_span={'regex': '(a'}: is not a regular expression (missing )"),
        ("tool_call", "multi_turn.format=telegraph marks a call is not known here. Known: hermes, glm, "),
    ],
)
def test_what_names_no_span_is_one_line(value: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_action_span(value, tool_format="telegraph")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
