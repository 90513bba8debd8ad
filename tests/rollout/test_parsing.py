"""The form of a reply, case by case."""

from __future__ import annotations

import pytest

from actfocus_verl.rollout import parse_reply


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
