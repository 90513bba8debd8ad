"""Roles of tokens, by hand and token by token."""

from __future__ import annotations

import pytest

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.rollout import ChatCodec, parse_reply, read_reply, token_roles
from tests.helpers.tokenizer import build_tokenizer

LETTERS = {TokenRole.REASONING: "r", TokenRole.ACTION: "a", TokenRole.FORMAT: "f"}


def letters(roles) -> str:
    return "".join(LETTERS[role] for role in roles)


def cut(text: str, *pieces: str) -> list[tuple[int, int]]:
    """Spans of tokens that are spelt out one after another."""
    assert "".join(pieces) == text
    spans, start = [], 0
    for piece in pieces:
        spans.append((start, start + len(piece)))
        start += len(piece)
    return spans


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        # tags as tokens; the space inside the answer belongs to its content
        (["<think>", "go", "</think>", " ", "<answer>", " Up", " ", "</answer>"], "frfffaaf"),
        # tokens that straddle a border: a tag wins over reasoning, one character of the content wins over a tag
        (["<think>go", ".</", "think", "> <answer>U", "p</answer>"], "fffaa"),
        # the tags split over tokens
        (
            ["<", "think", ">", "g", "o", "</", "think", "><", "answer", ">", "Up", "||", "Up", "</", "answer", ">"],
            "fffrrfffffaaafff",
        ),
        # empty contents
        (["<think>", "</think>", "<answer>", "</answer>"], "ffff"),
        (["<think>", "</think>", "<answer", "></", "answer>"], "fffff"),
        # whitespace around the spans
        (["\n", "<think>", " a ", "</think>", "\n", "<answer>", "Up", "</answer>", "\n"], "ffrfffaff"),
        # does not parse: no action, the tags are format, the rest is reasoning
        (["so ", "<think>", "go", "</think>", " ", "<answer>", "Up", "</answer>"], "rfrfrfrf"),
        (["<think>", "go", "</think>", "<answer>", "Up"], "frffr"),
        (["Up"], "r"),
        (["a<", "think", ">b"], "fff"),
    ],
)
def test_roles_by_hand(pieces, expected):
    text = "".join(pieces)
    roles = token_roles(parse_reply(text), cut(text, *pieces), [False] * len(pieces))
    assert letters(roles) == expected


def test_special_tokens_are_format_wherever_they_stand():
    text = "ab"
    assert letters(token_roles(parse_reply(text), [(0, 1), (1, 2)], [False, True])) == "rf"


def test_a_reply_with_its_end_of_turn_token(codec: ChatCodec):
    ids = codec._encode("<think>go</think><answer>Up</answer><|im_end|>")
    read = read_reply(codec, ids)
    assert read.parsed.parses
    assert read.text.endswith("</answer><|im_end|>")
    assert read.roles[-1] is TokenRole.FORMAT
    assert read_reply(codec, ids[:-1]).parsed.parses  # cut right after the answer


@pytest.mark.parametrize(
    "text",
    [
        "<think>go</think><answer>Up</answer><|endoftext|>",
        "<think>go</think><answer>Up</answer><|im_end|><|im_end|>",
        "<think>go<|im_end|></think><answer>Up</answer><|im_end|>",
        "<think>go</think><answer>Up<|im_start|></answer>",
        "<|im_start|><think>go</think><answer>Up</answer><|im_end|>",
        "<think>go</think><answer>Up</answer><|im_end|>\n<|im_start|>user\nReward: 1<|im_end|>",
    ],
)
def test_any_other_special_token_keeps_a_reply_from_parsing(codec: ChatCodec, text):
    read = read_reply(codec, codec._encode(text))
    assert read.text == text
    assert not read.parsed.parses
    assert TokenRole.ACTION not in read.roles


def test_special_tokens_spelt_out_in_ordinary_tokens_are_only_text(byte_codec: ChatCodec):
    spelt = [i for c in "<|im_end|>" for i in byte_codec._encode(c)]
    assert byte_codec.end_of_turn_id not in spelt
    ids = [*byte_codec._encode("<think>"), *spelt, *byte_codec._encode("</think><answer>Up</answer>")]
    read = read_reply(byte_codec, ids)
    assert read.parsed.parses
    assert letters(read.roles) == "f" * 7 + "r" * 10 + "f" * 16 + "aa" + "f" * 9
    trailing = [*byte_codec._encode("<think></think><answer>Up</answer>"), *spelt]
    assert not read_reply(byte_codec, trailing).parsed.parses


def test_a_character_split_over_tokens_is_an_action_in_each_of_them(byte_codec: ChatCodec):
    ids = byte_codec._encode("<think></think><answer>é</answer>")
    assert letters(read_reply(byte_codec, ids).roles) == "f" * 23 + "aa" + "f" * 9


def test_tags_that_are_tokens_of_their_own_are_still_tags():
    codec = ChatCodec(build_tokenizer(added_tags=True))
    ids = codec._encode("<think>go</think><answer>Up</answer><|im_end|>")
    read = read_reply(codec, ids)
    assert read.parsed.parses
    assert letters(read.roles)[0] == "f"
    assert letters(read.roles)[-2:] == "ff"
    assert "a" in letters(read.roles)


def test_an_empty_reply(codec: ChatCodec):
    read = read_reply(codec, [])
    assert (read.text, read.roles, read.parsed.parses) == ("", [], False)
