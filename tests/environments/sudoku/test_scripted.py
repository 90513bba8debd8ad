"""The scripted play: well-formed, mostly reasoning, as skilled as it says; and the episode shown in the README."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from actfocus_verl.environments import execute_turn, make_world, scripted_player, turn_message
from actfocus_verl.environments import sudoku as package
from actfocus_verl.environments.sudoku import Sudoku
from actfocus_verl.environments.sudoku.config import SudokuConfig
from actfocus_verl.environments.sudoku.rules import Board, Placement
from actfocus_verl.environments.sudoku.scripted import describe, plan, targets

PLAYER = scripted_player("sudoku")
README = Path(package.__file__).with_name("README.md").read_text(encoding="utf-8")
REPLY = re.compile(r"<think> (.+) </think> <answer> (\d,\d,\d(?: \|\| \d,\d,\d)?) </answer>")

SOLUTION = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)


def sudoku(*blanks: int) -> Sudoku:
    board = Board(4, tuple(0 if cell in blanks else digit for cell, digit in enumerate(SOLUTION)), SOLUTION)
    return Sudoku(board, SudokuConfig(), preset="clean", split="train", index=0)


def actions_of(reply: str) -> list[str]:
    match = REPLY.fullmatch(reply)
    assert match
    return match[2].split(" || ")


@pytest.mark.parametrize("coupling", ["loose", "coupled"])
@pytest.mark.parametrize("size", [4, 9])
def test_demonstrations_are_well_formed_and_mostly_reasoning(coupling, size):
    rng = np.random.default_rng(0)
    lengths = set()
    for index in range(100):
        world = make_world("sudoku", size=size, index=index)
        reply = PLAYER.reply(world, rng, coupling=coupling, skill=0.5)
        actions = actions_of(reply)
        reasoning = REPLY.fullmatch(reply)[1]
        lengths.add(len(actions))
        assert all(world.parse_action(action) is not None for action in actions)
        assert len(reasoning.split()) >= 0.6 * len(reply.split())
        assert len(reply.split()) <= 60
        named = re.search(r"\d\s*,\s*\d\s*,\s*\d|place", reasoning)
        if coupling == "coupled":
            assert reasoning.endswith(f"So I choose {' then '.join(actions)}.")
        else:
            assert not named
    assert lengths == {1, 2}


def test_the_description_by_hand():
    #   . 2 3 4     (3, 1) has the candidates 1 and 2, the others one each
    #   3 4 1 2
    #   . . 4 3
    #   4 3 . 1
    world = sudoku(0, 8, 9, 14)
    assert targets(world) == [0, 9]
    assert describe(world) == (
        "First is (1, 1). Row 1, column 1. It is a blank that may be 1. "
        "Second is (3, 2). Row 3, column 2. It is a blank that may be 1."
    )
    world.step(Placement(0, 1))
    assert describe(world) == (
        "First is (3, 1). Row 3, column 1. It is a blank that may be 2. "
        "Second is (3, 2). Row 3, column 2. It is a blank that may be 1."
    )
    for cell in (8, 9):
        world.step(Placement(cell, SOLUTION[cell]))
    assert describe(world) == "First is (4, 3). Row 4, column 3. It is a blank that may be 2."


def test_wrong_digits_are_replaced_when_nothing_else_is_left():
    world = sudoku(0, 8, 9, 14)
    world.step(Placement(8, 1))  # wrong; (1, 1) and (3, 2) cannot take their digits any more
    assert targets(world) == [14]
    world.step(Placement(14, 2))
    assert targets(world) == [8]
    rng = np.random.default_rng(0)
    assert plan(world, rng, 1.0) == ["3,1,2"]


def test_a_stuck_or_complete_grid_is_described_all_the_same():
    solution = (3, 1, 4, 2, 4, 2, 3, 1, 1, 3, 2, 4, 2, 4, 1, 3)
    board = Board(4, tuple(0 if cell in (0, 3, 5, 6, 12, 15) else d for cell, d in enumerate(solution)), solution)
    world = Sudoku(board, SudokuConfig(), preset="clean", split="train", index=0)
    for cell, digit in ((0, 2), (3, 3)):
        world.step(Placement(cell, digit))  # from here no move is of use
    assert describe(world) == "First is (2, 2). Row 2, column 2. It is a blank that may be none."
    assert plan(world, np.random.default_rng(0), 1.0) == ["2,2,2"]
    world = sudoku(0)
    world.step(Placement(0, 1))
    assert describe(world) == "First is (1, 1). Row 1, column 1. It is a blank that may be 1."


def test_the_loose_reasoning_does_not_depend_on_the_moves():
    rng = np.random.default_rng(1)
    replies = {PLAYER.reply(sudoku(0, 8, 9, 14), rng, skill=0.0) for _ in range(60)}
    assert len(replies) > 4
    assert len({reply.split("<answer>")[0] for reply in replies}) == 1


def test_a_demonstration_leaves_the_world_alone():
    world = sudoku(0, 8)
    PLAYER.reply(world, np.random.default_rng(0))
    assert (world.steps, world.digits) == (0, list(world.board.givens))


def test_a_habit_is_what_thoughtless_moves_mostly_are():
    rng = np.random.default_rng(0)
    digits = [plan(sudoku(1, 8), rng, 0.0)[0][-1] for _ in range(400)]
    # the habit, and a quarter of the other mistakes: 0.8 + 0.2 / 4; the bound is four standard errors
    assert abs(digits.count("1") / 400 - 0.85) < 4 * (0.85 * 0.15 / 400) ** 0.5


def episode(index: int, skill: float, rng: np.random.Generator, split: str = "evaluation") -> tuple[Sudoku, float]:
    world = make_world("sudoku", split=split, index=index)
    limits, executed, total = world.limits, 0, 0.0
    for _ in range(limits.max_turns):
        left = limits.max_actions_per_episode - executed
        outcome = execute_turn(world, actions_of(PLAYER.reply(world, rng, skill=skill)), actions_left=left)
        executed, total = executed + outcome.executed, total + outcome.reward
        if world.done or executed == limits.max_actions_per_episode:
            break
    return world, total


def test_with_all_skill_every_clean_board_is_solved_within_the_limits_and_without_loss():
    rng = np.random.default_rng(3)
    for split, boards in (("evaluation", 1024), ("test", 200), ("train", 200)):
        for index in range(boards):
            world, total = episode(index, 1.0, rng, split)
            assert world.success
            assert total == pytest.approx(world.optimal_return())


def test_skill_is_what_it_says():
    rng = np.random.default_rng(2)
    rates = [np.mean([episode(index, skill, rng)[0].success for index in range(150)]) for skill in (0.0, 0.4, 0.8)]
    assert rates[0] < 0.1 < rates[1] < rates[2]


def test_the_example_in_the_readme_is_what_an_episode_shows():
    example = README.split("## Example episode")[1].split("```")[1]
    replies = re.findall(r"assistant  (.+?)(?=\nuser|\Z)", example, re.DOTALL)
    world, shown, executed, reward = make_world("sudoku", split="evaluation", index=5), [], 0, None
    for turn, reply in enumerate(replies, 1):
        left = world.limits.max_actions_per_episode - executed
        message = turn_message(world, turn=turn, actions_left=left, last_reward=reward).text
        shown += ["user", message, "assistant", reply]
        answer = reply.split("<answer>")[1].split("</answer>")[0].split("||")
        outcome = execute_turn(world, [action.strip() for action in answer], actions_left=left)
        executed, reward = executed + outcome.executed, outcome.reward
    assert world.success
    assert example.split() == " ".join(shown).split()
    assert f"reward {reward:g}, stop reason `success`" in README
