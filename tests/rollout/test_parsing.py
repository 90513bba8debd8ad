"""The form of a reply, case by case."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actfocus_verl.rollout import parse_reply
from actfocus_verl.rollout.parsing import TAGS


def test_spans_and_actions_by_hand():
    text = "<think>go</think> <answer> Left || Up </answer>\n"
    parsed = parse_reply(text)
    assert parsed.parses
    assert text[slice(*parsed.think)] == "go"
    assert text[slice(*parsed.answer)] == " Left || Up "
    assert parsed.actions == ("Left", "Up")
    assert [text[a:b] for a, b in parsed.tags] == ["<think>", "</think>", "<answer>", "</answer>"]


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("<think></think><answer>Up</answer>", ("Up",)),
        (" \n<think>a\nb</think>\n\n<answer>Up||Down||Left</answer> ", ("Up", "Down", "Left")),
        ("<think>a</think><answer></answer>", ()),
        ("<think>a</think><answer> || </answer>", ()),
        ("<think>a</think><answer>Up || </answer>", ("Up",)),
        ("<think>a</think><answer>fly | swim</answer>", ("fly | swim",)),
        ("<think>1 < 2 > 0 <thin> </ think></think><answer>Up</answer>", ("Up",)),
        ("<think><|im_end|></think><answer>Up</answer>", ("Up",)),
        ("<think>🦙\u0000</think><answer>Up</answer>", ("Up",)),
    ],
)
def test_replies_that_parse(text, actions):
    parsed = parse_reply(text)
    assert parsed.parses
    assert parsed.actions == actions


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Up",
        "<answer>Up</answer>",
        "<think>a<answer>Up</answer>",
        "<think>a</think><answer>Up",
        "<think>a</think>",
        "a</think><answer>Up</answer>",
        "<think><think>a</think></think><answer>Up</answer>",
        "<think>a</think><answer><answer>Up</answer></answer>",
        "<think>a<answer>Up</answer></think>",
        "<answer>Up</answer><think>a</think>",
        "<think>a</think><answer>Up</answer><answer>Up</answer>",
        "<think>a</think><think>b</think><answer>Up</answer>",
        "so <think>a</think><answer>Up</answer>",
        "<think>a</think> so <answer>Up</answer>",
        "<think>a</think><answer>Up</answer>!",
        "<THINK>a</THINK><ANSWER>Up</ANSWER>",
        "< think>a</think><answer>Up</answer>",
    ],
)
def test_replies_that_do_not_parse(text):
    parsed = parse_reply(text)
    assert not parsed.parses
    assert (parsed.think, parsed.answer, parsed.actions) == (None, None, ())


def test_tags_are_found_in_replies_that_do_not_parse():
    assert parse_reply("a<think>b</answer>").tags == ((1, 8), (9, 18))


WELL_FORMED = "<think>a</think><answer>Up</answer>"


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        (WELL_FORMED, ("Up",), ("Up",)),
        ("<think>a</think>\n <answer> Up || Down </answer>\n", ("Up", "Down"), ("Up", "Down")),
        ("<think>a</think><answer>Up.</answer>", ("Up.",), ("Up.",)),
        ("<think>a</think><answer>||</answer>", (), ()),
        # text around the spans, a second answer or pair, two think spans
        (WELL_FORMED + " Done.", None, ("Up",)),
        ("Well. " + WELL_FORMED, None, ("Up",)),
        (WELL_FORMED + "<answer>Down</answer>", None, ("Up",)),
        (WELL_FORMED + "<think>b</think><answer>Down</answer>", None, ("Up",)),
        ("<think>a</think><think>b</think><answer>Up</answer>", None, ("Up",)),
        ("<think>a</think> so <think>b</think><answer>Up</answer>", None, ("Up",)),
        # an answer inside the thinking, tags inside the answer, a doubled tag
        ("<think>a <answer>Left</answer></think><answer>Up</answer>", None, ("Up",)),
        ("<think>a</think><answer><answer>Up</answer>", None, ("Up",)),
        ("<think>a</think><answer>Up<think> || Down</answer>", None, ("Up", "Down")),
        ("<think><think>a</think><answer>Up</answer>", None, ("Up",)),
        ("<think>a</think></think><answer>Up</answer>", None, ("Up",)),
        ("<think>a</think><answer>Up</answer></answer>", None, ("Up",)),
        ("```\n" + WELL_FORMED + "\n```", None, ("Up",)),
        ("<think>a</think><answer><|im_start|>Up<|im_end|></answer>", ("<|im_start|>Up<|im_end|>",), ("Up",)),
        # what is deleted may leave a tag that was deleted before
        ("<think>a</think><answer><thi<answer>nk>Up</answer>", None, ("<think>Up",)),
        # neither takes these
        ("<think>a</think> so <answer>Up</answer>", None, None),
        ("<answer>Up</answer>", None, None),
        ("<think>a</think><answer>Up", None, None),
        ("<think>a<answer>Up</answer>", None, None),
        ("<THINK>a</THINK><ANSWER>Up</ANSWER>", None, None),
        ("<answer>Up</answer><think>a</think>", None, None),
        ("a</think><answer>Up</answer>", None, None),
        ("```\n<answer>Up</answer>\n```", None, None),
        ("", None, None),
    ],
)
def test_what_either_rule_makes_of_a_reply(text, strict, lenient):
    for actions, parsed in ((strict, parse_reply(text)), (lenient, parse_reply(text, lenient=True))):
        assert parsed.parses == (actions is not None)
        assert parsed.actions == (actions or ())


def test_the_spans_of_a_lenient_reply_by_hand():
    text = " Well <think>go</think>\n<answer> Up<think> </answer> || Left "
    parsed = parse_reply(text, lenient=True)
    assert text[slice(*parsed.think)] == "go"
    assert text[slice(*parsed.answer)] == " Up<think> "
    assert [text[slice(*span)] for span in parsed.ignored] == ["Well", "|| Left"]
    assert [text[slice(*span)] for span in parsed.tags] == [
        "<think>", "</think>", "<answer>", "<think>", "</answer>",
    ]  # fmt: skip
    assert parse_reply(f" {WELL_FORMED}\n", lenient=True).ignored == ()


def test_spans_are_those_of_the_text_behind_the_opening():
    text = "go</think><answer>Up</answer>"
    for lenient in (False, True):
        parsed = parse_reply(text, lenient=lenient, opening="<think>")
        assert (parsed.think, parsed.answer) == ((0, 2), (18, 20))
        assert [text[slice(*span)] for span in parsed.tags] == ["</think>", "<answer>", "</answer>"]
        assert parsed.actions == ("Up",)
        assert parsed.ignored == ()
    # a reply that opens once more is of the form there, and here only where that is passed over
    assert not parse_reply("<think>" + text, opening="<think>").parses
    assert parse_reply("<think>" + text, lenient=True, opening="<think>").think == (0, 9)
    assert parse_reply("no tag", opening="<think>").tags == ()


def slow_lenient(text: str) -> tuple[str, str, tuple[str, ...]] | None:
    """By the regular expression that the code base searches for, in time up to quadratic."""
    found = re.search(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", text, re.DOTALL)
    if found is None:
        return None
    content = found[2]
    for dropped in ("<think>", "</think>", "<answer>", "</answer>", "<|im_start|>", "<|im_end|>"):
        content = content.replace(dropped, "").strip()
    return found[1], found[2], tuple(piece.strip() for piece in content.split("||") if piece.strip())


fragments = st.sampled_from([*TAGS, "</think> <answer>", " ", "\n", "\u00a0", "Up", "||", "<thi", "nk>"])


@settings(max_examples=300, deadline=None)
@given(st.lists(fragments, max_size=14).map("".join), st.sampled_from(["", "<think>"]))
@example("<think></think><answer></answer>", "<think>")
def test_the_lenient_rule_is_the_regular_expression(text, opening):
    parsed, expected = parse_reply(text, lenient=True, opening=opening), slow_lenient(opening + text)
    assert parsed.parses == (expected is not None)
    if expected is not None:
        think, answer, actions = expected
        assert text[slice(*parsed.answer)] == answer
        assert think.endswith(text[slice(*parsed.think)])
        assert parsed.actions == actions


@pytest.mark.parametrize("piece", ["<think>", "</think>", "</think> ", "<answer>", "</think><answer>", " ", "a"])
def test_both_rules_are_linear(piece):
    """No clock is read: in quadratic time this would not come to an end."""
    text = "<think>" + piece * (400_000 // len(piece))
    assert not parse_reply(text).parses
    assert not parse_reply(text, lenient=True).parses
