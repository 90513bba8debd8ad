"""Actions from text: both forms, and whatever else a model may write."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.environments import execute_turn, make_world
from actfocus_verl.environments.sudoku.prompt import format_placement
from actfocus_verl.environments.sudoku.rules import Placement

SMALL, LARGE = make_world("sudoku"), make_world("sudoku", size=9)


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("place 3 at row 1 col 2", Placement(1, 3)),
        ("PLACE 3 At Row 1 COL 2", Placement(1, 3)),
        (" place\t3  at row 1\ncol 2 ", Placement(1, 3)),
        ("1,2,3", Placement(1, 3)),
        (" 4 , 1,\t2\n", Placement(12, 2)),
        ("4,4,4", Placement(15, 4)),
        *[
            (text, None)
            for text in (
                "",
                "1,2",
                "1,2,3,4",
                "1,2,3.",
                "1 2 3",
                "1,,2,3",
                "(1, 2, 3)",
                "0,1,1",
                "1,0,1",
                "1,1,0",
                "5,1,1",
                "1,5,1",
                "1,1,5",
                "-1,2,3",
                "01,2,3",
                "1,2,10",
                "1,2,3" + " " * 100,
                "1,2," + "3" * 100_000,
                "," * 100_000,
                " " * 100_000 + "x",
                "place " * 20_000,
                "place 3 at row 1 col " + "9" * 5000,
                "place 5 at row 1 col 2",
                "place three at row 1 col 2",
                "place 3 at row 1 col 2 || 1,1,1",
                "place3atrow1col2",
                "1,2,3 place 3 at row 1 col 2",
                "१,२,३",
                "１,２,３",
                "¹,²,³",
                "1،2،3",
                "place 3 at row\u00a01 col 2",
                "p\u0406ace 3 at row 1 col 2",
                "1,2,3\x00",
                "__import__('os').system('true')",
            )
        ],
    ],
)
def test_actions_by_name(text, move):
    assert SMALL.parse_action(text) == move


WHITESPACE = " \t\n\r\f\v"
pieces = st.sampled_from(
    [*"0123456789", *WHITESPACE, ",", "place", "at", "row", "col", "PLACE", "２", "٣", "\u00a0", "ſ", "K"]
)
texts = st.one_of(
    st.text(max_size=30),
    st.lists(pieces, max_size=16).map("".join),
    st.lists(pieces, max_size=9).map(" ".join),
    st.builds(
        "{}{},{}{},{}".format, st.sampled_from(WHITESPACE), *[st.integers(-1, 12)] * 2, pieces, st.integers(-1, 12)
    ),
    st.builds("place {} at{}row {} col {}".format, st.integers(0, 10), pieces, st.integers(0, 10), st.integers(0, 10)),
)


def slow_parse(size: int, text: str) -> Placement | None:
    """The same by splitting into words."""
    if len(text) > 100 or not text.isascii():
        return None
    inner = text.strip(WHITESPACE)
    if "," in inner:
        words = [word.strip(WHITESPACE) for word in inner.split(",")]
        order = (0, 1, 2)
    else:
        words = re.split(f"[{WHITESPACE}]+", inner.lower())
        if len(words) != 7 or [words[i] for i in (0, 2, 3, 5)] != ["place", "at", "row", "col"]:
            return None
        words, order = [words[1], words[4], words[6]], (1, 2, 0)
    numbers = {str(number): number for number in range(1, size + 1)}
    if len(words) != 3 or any(word not in numbers for word in words):
        return None
    row, column, digit = (numbers[words[i]] for i in order)
    return Placement((row - 1) * size + column - 1, digit)


@given(texts)
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_as_the_slow_parser_reads_it(text):
    for world in (SMALL, LARGE):
        assert world.parse_action(text) == slow_parse(world.board.size, text)


def test_the_slow_parser_reads_both_forms():
    assert slow_parse(9, " place 3  at row 1 COL 9") == Placement(8, 3)
    assert slow_parse(9, "2 ,1, 9\n") == Placement(9, 9)
    for size, move in ((4, Placement(7, 1)), (9, Placement(80, 9))):
        assert slow_parse(size, format_placement(size, move)) == move


@given(st.lists(st.lists(texts, max_size=4), max_size=8))
@settings(max_examples=50, deadline=None)
def test_no_reply_breaks_a_turn(turns):
    world = make_world("sudoku", preset="clean", index=1)
    left = world.limits.max_actions_per_episode
    for turn in turns:
        if world.done or not left:
            break
        known = [world.parse_action(text) is not None for text in turn[:2]]
        outcome = execute_turn(world, turn, actions_left=left)
        assert outcome.valid == (bool(known) and all(known))
        assert outcome.executed <= sum(known)
        left -= outcome.executed
