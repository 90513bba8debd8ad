"""The world as the rollout sees it: text, moves, pay, the end, anchors, settings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actfocus_verl.environments import Limits, make_world, turn_message
from actfocus_verl.environments.sudoku import Sudoku
from actfocus_verl.environments.sudoku.config import SudokuConfig
from actfocus_verl.environments.sudoku.rules import Board, Placement, is_valid
from actfocus_verl.errors import ConfigurationError
from tests.helpers.paper_worlds import CLEAN_PROTOCOL

#   . 2 | 3 4      (1, 1) is 1; (1, 4) is given; of (3, 1) and (3, 2), (4, 1) and (4, 2) nothing else is known
#   3 4 | 1 2
#   ----+----
#   . . | 4 3      column 1 holds 3 and, once filled, 1; column 2 holds 2 and 4: (3, 2) must be 1, so (3, 1) is 2
#   4 3 | . 1
SOLUTION = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)
BOARD = Board(4, tuple(0 if cell in (0, 8, 9, 14) else digit for cell, digit in enumerate(SOLUTION)), SOLUTION)


def sudoku(board: Board = BOARD, *, preset: str = "clean", **overrides) -> Sudoku:
    return Sudoku(board, SudokuConfig(**overrides), preset=preset, split="train", index=0)


def play(world: Sudoku, *texts: str) -> list[float]:
    return [world.step(world.parse_action(text)).reward for text in texts]


def test_the_state_is_steps_grid_and_candidates():
    world = sudoku()
    assert world.render() == (
        "Steps: 0/16. Yours: none.\n"
        ". 2 3 4\n3 4 1 2\n. . 4 3\n4 3 . 1\n"
        "First: (1, 1). First may be: 1. Second: (3, 2). Second may be: 1. Then: (4, 3) 2, (3, 1) 1 2."
    )
    play(world, "3,1,1", "1,2,2")
    assert world.render() == (
        "Steps: 2/16. Yours: (3, 1).\n"
        ". 2 3 4\n3 4 1 2\n1 . 4 3\n4 3 . 1\n"
        "First: (4, 3). First may be: 2. Second: (1, 1). Second may be: none. Then: (3, 2) none."
    )
    play(world, "3,1,2", "1,1,1", "3,2,1", "4,3,2")
    assert world.render() == (
        "Steps: 6/16. Yours: (1, 1), (3, 1), (3, 2), (4, 3).\n1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1\nNo blanks."
    )


def test_prompts_hold_what_the_protocol_asks_for_in_few_words():
    world = sudoku()
    system = world.system_prompt()
    for part in ("place 3 at row 1 col 2", "`1,2,3`", "(row, column, digit)", "` || `", "up to 2 actions", "8 turns"):
        assert part in system
    for part in ("10 actions", "2x2", "(4, 4)", "(.)", "1 for", "0.5 for", "-0.1 for", "10 for", "pays the difference"):
        assert part in system
    assert len(system.split()) <= 125
    assert "pays the difference" not in sudoku(preset="ragen").system_prompt()
    message = turn_message(world, turn=2, actions_left=8, last_reward=-0.1).text
    assert message.startswith("Reward: -0.1\nTurn 2\n" + world.render())
    assert "150 words" in message
    longest = max(len(make_world("sudoku", index=index).render().split()) for index in range(100))
    assert longest <= 60
    large = make_world("sudoku", size=9)
    assert "3x3" in large.system_prompt()
    assert "from 1 to 9" in large.system_prompt()


def test_the_grid_tells_row_and_column_apart():
    world = make_world("sudoku", size=9)
    lines = world.render().split("\n")
    assert len(lines) == 11
    for row, line in enumerate(lines[1:-1]):
        assert line.split() == [str(digit or ".") for digit in world.board.givens[9 * row : 9 * row + 9]]


def test_what_a_move_pays_in_clean():
    world = sudoku()
    # given; held by the row, the column, the box of (1, 1); right; there already
    assert play(world, "1,2,2", "1,1,2", "1,1,4", "1,1,3", "1,1,1", "1,1,1") == [-0.1] * 4 + [1.0, -0.1]
    world = sudoku()
    # (3, 1): another candidate, then the solution's digit for the difference, and back
    assert play(world, "3,1,1", "3,1,2", "3,1,1", "3,1,2") == [0.5, 0.5, -0.5, 0.5]
    assert world.outcome() == {"solved_cells": 0.25}
    assert play(world, "1,1,1", "3,2,1", "4,3,2") == [1.0, 1.0, 11.0]
    assert (world.done, world.success, world.outcome()) == (True, True, {"solved_cells": 1.0})
    with pytest.raises(RuntimeError, match="after the episode ended"):
        world.step(Placement(0, 1))


def test_in_ragen_a_replaced_digit_pays_in_full_again():
    world = sudoku(preset="ragen")
    assert play(world, "3,1,1", "3,1,2", "3,1,1", "3,1,2") == [0.5, 1.0, 0.5, 1.0]


def test_a_refused_move_changes_nothing_but_the_steps():
    world = sudoku()
    before = list(world.digits)
    play(world, "1,2,1", "1,1,2")
    assert world.digits == before
    assert world.steps == 2


def test_rewards_can_be_set():
    world = sudoku(correct_reward=2, legal_reward=1.5, invalid_reward=-3, solved_reward=0)
    assert play(world, "1,2,2", "3,1,1", "3,1,2", "1,1,1", "3,2,1", "4,3,2") == [-3, 1.5, 0.5, 2, 2, 2]
    assert "2 for the solution's digit, 1.5 for another candidate, -3 for any other" in world.system_prompt()


def test_every_move_counts_towards_the_cap_in_clean():
    world = sudoku(max_steps=3)
    results = [world.step(Placement(1, 1)) for _ in range(3)]
    assert [(result.done, result.success) for result in results] == [(False, False), (False, False), (True, False)]
    assert world.done
    with pytest.raises(RuntimeError):
        world.step(Placement(0, 1))


def test_in_ragen_refused_moves_never_end_the_episode_and_the_next_valid_one_does():
    world = sudoku(preset="ragen", max_steps=3)
    assert not any(world.step(Placement(1, 1)).done for _ in range(50))
    result = world.step(Placement(0, 1))
    assert (result.reward, result.done, result.success) == (1.0, True, False)
    assert "Steps: 51/3." in world.render()


def test_the_grid_may_be_completed_with_the_last_step():
    world = sudoku(max_steps=4)
    play(world, "1,1,1", "3,1,2", "3,2,1", "4,3,2")
    assert world.success


def test_a_single_wrong_digit_can_be_corrected_and_two_may_not():
    #   . 1 4 .     (1, 1) and (1, 4) are 3 and 2; the other way round both fit, and then neither can be corrected
    solution = (3, 1, 4, 2, 4, 2, 3, 1, 1, 3, 2, 4, 2, 4, 1, 3)
    board = Board(4, tuple(0 if cell in (0, 3, 5, 6, 12, 15) else d for cell, d in enumerate(solution)), solution)
    world = sudoku(board)
    assert play(world, "1,1,2", "1,4,3") == [0.5, 0.5]
    assert not can_be_solved(board, tuple(world.digits))
    for cell in board.blanks:
        for digit in range(1, 5):
            if digit != solution[cell] and is_valid(board, board.givens, Placement(cell, digit)):
                wrong = (*board.givens[:cell], digit, *board.givens[cell + 1 :])
                assert is_valid(board, wrong, Placement(cell, solution[cell]))
                assert can_be_solved(board, wrong)


def can_be_solved(board: Board, start: tuple[int, ...]) -> bool:
    """Whether valid moves lead from these digits to a complete grid."""
    seen, queue = {start}, [start]
    while queue:
        digits = queue.pop()
        if 0 not in digits:
            return True
        moves = (Placement(cell, digit) for cell in board.blanks for digit in range(1, 5))
        following = {(*digits[: m.cell], m.digit, *digits[m.cell + 1 :]) for m in moves if is_valid(board, digits, m)}
        queue += following - seen
        seen |= following
    return False


def test_another_complete_grid_is_a_success_too():
    # 1 2 / 2 1 in the left columns may also be 2 1 / 1 2: only ragen has such boards
    board = Board(4, tuple(0 if cell in (0, 1, 8, 9) else digit for cell, digit in enumerate(SOLUTION)), SOLUTION)
    world = sudoku(board, preset="ragen")
    assert play(world, "1,1,2", "1,2,1", "3,1,1", "3,2,2") == [0.5, 0.5, 0.5, 10.5]
    assert world.success
    assert world.outcome() == {"solved_cells": 0.0}


def test_anchors_tell_states_apart_and_nothing_else():
    world, again = sudoku(), sudoku(preset="ragen")
    first = world.anchor()
    assert first == again.anchor()
    assert 0 <= first < 2**63
    play(world, "1,2,1")
    assert world.anchor() == first  # steps do not matter while the actions end before the cap
    play(world, "3,1,1")
    assert world.anchor() != first
    play(world, "3,1,2")
    play(again, "3,1,2")
    assert world.anchor() == again.anchor()
    # a digit of one's own is not a given one
    shown = Board(4, tuple(world.digits), SOLUTION)
    assert sudoku(shown).anchor() != world.anchor()
    assert sudoku(Board(4, BOARD.givens, SOLUTION[4:] + SOLUTION[:4])).anchor() != first
    capped = sudoku(max_steps=9)
    before = capped.anchor()
    play(capped, "1,2,1")
    assert capped.anchor() != before


def test_the_board_hash_is_that_of_the_turned_board():
    turned = Board(4, BOARD.givens[::-1], SOLUTION[::-1])
    assert sudoku(turned).board_hash() == sudoku().board_hash()
    assert sudoku(Board(4, SOLUTION, SOLUTION)).board_hash() != sudoku().board_hash()
    assert re.fullmatch("[0-9a-f]{32}", sudoku().board_hash())


def test_the_episode_seed_changes_nothing():
    one, other = (make_world("sudoku", index=3, episode_seed=seed) for seed in (0, 1))
    assert one.board == other.board
    assert one.anchor() == other.anchor()


@pytest.mark.parametrize("preset", ["clean", "ragen"])
def test_default_limits_are_those_of_the_paper(preset):
    world = make_world("sudoku", preset=preset, **CLEAN_PROTOCOL)
    assert world.limits == Limits(
        max_turns=8,
        max_actions_per_turn=2,
        max_actions_per_episode=10,
        max_words=150,
        max_turn_tokens=400,
        format_penalty=-0.1,
    )
    assert (world.config.max_steps, world.config.blank_cells) == (16, 6)
    assert tuple(world.config.rewards()) == (1.0, 0.5, -0.1, 10.0)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"size": 5}, ["env.size", "5", "4 or 9"]),
        ({"size": "4"}, ["env.size", "'4'"]),
        ({"size": True}, ["env.size", "True"]),
        ({"blanks": 3}, ["env.blanks", "3", "between 4 and 9"]),
        ({"blanks": 10}, ["env.blanks", "10"]),
        ({"blanks": 46, "size": 9}, ["env.blanks", "46", "between 4 and 45"]),
        ({"max_steps": 0}, ["env.max_steps", "0"]),
        ({"correct_reward": -1}, ["env.correct_reward", "-1"]),
        ({"legal_reward": 1.5}, ["env.legal_reward", "1.5", "between 0 and 1"]),
        ({"invalid_reward": 0.1}, ["env.invalid_reward", "0.1"]),
        ({"solved_reward": float("nan")}, ["env.solved_reward", "nan"]),
        ({"solved_reward": float("inf")}, ["env.solved_reward", "inf"]),
        ({"max_words": 0}, ["env.max_words", "0"]),
        ({"success_rate": 0.8}, ["env.success_rate", "blanks", "max_steps"]),
        ({"index": 20_000}, ["env.index", "20000", "19999"]),
    ],
)
def test_bad_settings_are_refused_in_one_line_that_names_them(overrides, named):
    with pytest.raises(ConfigurationError) as caught:
        make_world("sudoku", **overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert part in message


def test_a_size_is_an_integer():
    with pytest.raises(ConfigurationError, match=r"env\.size=4\.0"):
        SudokuConfig(size=4.0)


moves = st.lists(st.tuples(st.integers(0, 15), st.integers(1, 4)), max_size=30)


@given(st.sampled_from(["clean", "ragen"]), st.integers(0, 200), moves, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_whatever_is_played_the_rules_hold(preset, index, sequence, max_steps):
    world, same = (make_world("sudoku", preset=preset, index=index, max_steps=max_steps) for _ in range(2))
    total = 0.0
    for cell, digit in sequence:
        if world.done:
            break
        before = list(world.digits)
        result = world.step(Placement(cell, digit))
        assert result == same.step(Placement(cell, digit))
        assert (world.render(), world.anchor()) == (same.render(), same.anchor())
        assert -0.5 <= result.reward <= 11.0
        assert result.done == world.done
        assert result.success == world.success
        assert all(given in (0, digit) for given, digit in zip(world.board.givens, world.digits, strict=True))
        assert (world.digits == before) == (result.reward == -0.1)
        total += result.reward
    if preset == "clean":
        # what the digits are worth, whichever way they got there, less the refused moves
        right = sum(world.digits[cell] == world.board.solution[cell] for cell in world.board.blanks)
        wrong = sum(world.digits[cell] not in (0, world.board.solution[cell]) for cell in world.board.blanks)
        assert total <= right + 0.5 * wrong + 10 * world.success + 1e-9
        assert total <= world.optimal_return() + 1e-9 or max_steps < world.stratum()
    if world.done:
        with pytest.raises(RuntimeError):
            world.step(Placement(0, 1))
