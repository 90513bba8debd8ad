"""Legality, pay and the best return: by hand, and against a slow implementation and an exhaustive search."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.environments.sudoku import Sudoku
from actfocus_verl.environments.sudoku.config import SudokuConfig
from actfocus_verl.environments.sudoku.rules import (
    Board,
    Placement,
    Rewards,
    best_return,
    candidates,
    houses,
    is_valid,
    peers,
    worth,
)
from tests.environments.sudoku.slow import SlowSudoku, complete, rows_of, seen_from

PAY = Rewards(correct=1.0, legal=0.5, invalid=-0.1, solved=10.0)

#   1 2 | 3 4
#   3 4 | 1 2
#   ----+----
#   2 1 | 4 3
#   4 3 | 2 1
SOLUTION = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)


def board(*blanks: int, solution: tuple[int, ...] = SOLUTION) -> Board:
    return Board(4, tuple(0 if cell in blanks else digit for cell, digit in enumerate(solution)), solution)


def test_houses_by_hand():
    # cell 6 is row 1, column 2, in the upper right box: 2 3 / 6 7
    assert houses(4)[6] == ((4, 5, 7), (2, 10, 14), (2, 3, 7))
    assert peers(4)[6] == (2, 3, 4, 5, 7, 10, 14)
    assert {len(cells) for cells in peers(4)} == {7}  # 3 + 3 + 1
    assert {len(cells) for cells in peers(9)} == {20}  # 8 + 8 + 4
    assert set(houses(9)[40].box) == {30, 31, 32, 39, 41, 48, 49, 50}


def test_candidates_and_validity_by_hand():
    # . . | 3 4      1 and 2 are missing in the row; column 0 holds 2, so (0, 0) takes 1 only; column 1 holds 1
    # 3 4 | 1 2
    grid = board(0, 1)
    assert candidates(4, grid.givens, 0) == (1,)
    assert candidates(4, grid.givens, 1) == (2,)
    assert candidates(4, (0,) * 16, 5) == (1, 2, 3, 4)
    assert is_valid(grid, grid.givens, Placement(0, 1))
    assert not is_valid(grid, grid.givens, Placement(0, 2))  # in the column
    assert not is_valid(grid, grid.givens, Placement(0, 3))  # in row and box
    assert not is_valid(grid, grid.givens, Placement(2, 3))  # given
    assert not is_valid(grid, SOLUTION, Placement(0, 1))  # there already
    assert candidates(4, SOLUTION, 0) == (1,)  # what the cell itself holds does not count


def test_worth_of_a_cell():
    assert [worth(board(0), PAY, 0, digit) for digit in (0, 1, 2)] == [0.0, 1.0, 0.5]


@pytest.mark.parametrize("preset", ["clean", "ragen"])
@pytest.mark.parametrize(("size", "blanks"), [(4, 9), (9, 12)])
def test_ten_thousand_random_steps_equal_the_slow_implementation(preset, size, blanks):
    rng = np.random.default_rng(size)
    config = SudokuConfig(size=size, blanks=blanks, max_steps=3 * blanks)
    steps, ended, refused, replaced = 0, 0, 0, 0
    index = 0
    while steps < 2500:  # four cases
        source = make_world("sudoku", preset=preset, size=size, blanks=blanks, index=index % 40)
        world = Sudoku(source.board, config, preset=preset, split="train", index=0)
        slow = SlowSudoku(source.board, ragen=preset == "ragen", max_steps=config.max_steps)
        for _ in range(5 * blanks):
            # half of the moves are the solution's at a blank, so that grids also get solved
            cell = int(rng.integers(size**2)) if rng.random() < 0.3 else int(rng.choice(world.board.blanks))
            digit = world.board.solution[cell] if rng.random() < 0.5 else int(rng.integers(1, size + 1))
            row, column = divmod(cell, size)
            replaced += bool(world.digits[cell]) and not world.board.givens[cell]
            result = world.step(Placement(cell, digit))
            assert result.reward == pytest.approx(slow.place(row + 1, column + 1, digit), abs=1e-12)
            assert rows_of(size, world.digits) == slow.grid
            assert (world.steps, result.done, world.done) == (slow.steps, slow.done, slow.done)
            assert result.success == world.success == complete(slow.grid)
            steps += 1
            refused += result.reward == -0.1
            if result.done:
                ended += 1
                break
        index += 1
    assert min(ended, refused, replaced) > 20


def best_by_search(grid: Board, moves: int, *, ragen: bool, pay: Rewards = PAY) -> float:
    """The best return by trying every placement at every blank, as far as the moves go."""
    blanks = grid.blanks
    worths = [lambda digit, c=c: worth(grid, pay, c, digit) for c in blanks]

    @cache
    def best(held: tuple[int, ...], left: int) -> float:
        if left == 0:
            return 0.0
        lines = rows_of(4, grid.givens)
        for cell, digit in zip(blanks, held, strict=True):
            lines[cell // 4][cell % 4] = digit
        value = pay.invalid + best(held, left - 1)
        for position, digit in product(range(len(blanks)), range(1, 5)):
            if digit in seen_from(lines, *divmod(blanks[position], 4)):
                continue
            gained = worths[position](digit) - (0.0 if ragen else worths[position](held[position]))
            after = (*held[:position], digit, *held[position + 1 :])
            value = max(value, gained + (pay.solved if 0 not in after else best(after, left - 1)))
        return value

    return best((0,) * len(blanks), moves)


# 3, 7, 11, 15: a column, one candidate each; 0 and 3 with the two below them in the other order: 2 candidates
TWO_WAYS = board(0, 1, 8, 9)  # 1 2 / 2 1 may also be 2 1 / 1 2
BOARDS = [board(0), board(0, 5), board(3, 7, 11), TWO_WAYS, board(0, 1, 4), board(2, 5, 8)]


@pytest.mark.parametrize("grid", BOARDS, ids=lambda grid: str(grid.blanks))
@pytest.mark.parametrize("moves", [1, 2, 3, 4, 5, 6, 7])
def test_the_best_return_equals_an_exhaustive_search(grid, moves):
    for ragen in (False, True):
        for pay in (PAY, Rewards(2.0, 2.0, 0.0, 0.0), Rewards(1.0, 0.0, -1.0, 3.0)):
            expected = best_by_search(grid, moves, ragen=ragen, pay=pay)
            assert best_return(grid, pay, moves, pays_again=ragen) == pytest.approx(expected)


def test_the_best_return_by_hand():
    assert best_return(TWO_WAYS, PAY, 3, pays_again=False) == 3.0
    assert best_return(TWO_WAYS, PAY, 4, pays_again=False) == 14.0
    assert best_return(TWO_WAYS, PAY, 10, pays_again=False) == 14.0
    # six moves to spare in one cell of two candidates: wrong and right three times, 3 * 1.5 more
    assert best_return(TWO_WAYS, PAY, 10, pays_again=True) == 18.5
    assert best_return(board(3, 7, 11), PAY, 10, pays_again=True) == 13.0  # nothing else ever fits


def test_the_optimal_return_respects_the_limits():
    def optimal(**limits: int) -> float:
        return make_world("sudoku", index=4, **limits).optimal_return()  # 8 blanks

    assert optimal() == 18.0
    assert optimal(max_actions_per_episode=7) == 7.0
    assert optimal(max_turns=3) == 6.0
    assert optimal(max_actions_per_turn=1) == 18.0
    assert optimal(max_steps=5) == 5.0
    assert make_world("sudoku", index=4, correct_reward=2, solved_reward=1).optimal_return() == 17.0
