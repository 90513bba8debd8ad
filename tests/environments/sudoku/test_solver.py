"""The solver against brute force and a published puzzle."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from actfocus_verl.environments.sudoku.solver import completions, has_one_solution, in_random_order
from actfocus_verl.environments.sudoku.symmetry import small_grids
from tests.environments.sudoku.slow import all_small_grids, complete, rows_of

GRIDS = all_small_grids()

# the example of Wikipedia's article on Sudoku
PUBLISHED = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def digits(text: str) -> tuple[int, ...]:
    return tuple(map(int, text))


def test_there_are_288_small_grids():
    assert len(GRIDS) == 288
    assert set(completions(4, (0,) * 16)) == set(GRIDS) == set(small_grids().solutions)


@pytest.mark.parametrize("blanks", [1, 3, 6, 9, 12])
def test_small_completions_equal_those_found_by_looking_through_all_grids(blanks):
    rng = np.random.default_rng(blanks)
    counts = set()
    for _ in range(40):
        solution = GRIDS[rng.integers(288)]
        empty = set(rng.choice(16, blanks, replace=False).tolist())
        givens = tuple(0 if cell in empty else digit for cell, digit in enumerate(solution))
        expected = {grid for grid in GRIDS if all(g in (0, d) for g, d in zip(givens, grid, strict=True))}
        found = list(completions(4, givens))
        assert len(found) == len(set(found))
        assert set(found) == expected
        assert set(completions(4, givens, order=in_random_order(rng), by_cell=True)) == expected
        assert has_one_solution(4, givens) == (len(expected) == 1)
        mask = np.array([sum(1 << cell for cell in empty)])
        number = np.array([small_grids().number[solution]])
        assert small_grids().have_one_solution(number, mask).tolist() == [len(expected) == 1]
        counts.add(len(expected) == 1)
    assert {blanks < 12, blanks < 4} <= counts  # both answers occur, where there are both


def test_a_blank_grid_filled_by_brute_force():
    # 1 2 | 3 4     every filling of the lower right box is tried
    # 3 4 | 1 2
    # 2 1 | . .
    # 4 3 | . .
    givens = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 0, 0, 4, 3, 0, 0)
    tried = [(*givens[:10], a, b, 4, 3, c, d) for a, b, c, d in product(range(1, 5), repeat=4)]
    assert set(completions(4, givens)) == {grid for grid in tried if complete(rows_of(4, grid))}


def test_a_published_puzzle():
    assert list(completions(9, digits(PUBLISHED))) == [digits(SOLVED)]
    assert has_one_solution(9, digits(PUBLISHED))
    assert not has_one_solution(9, digits("0" * 81))
    # without the 9 of the last row the 7 before it may stay or not, but the grid is no longer determined
    twice = digits(PUBLISHED.replace("53", "00", 1).replace("79", "00"))
    assert not has_one_solution(9, twice)


def test_grids_without_a_completion():
    # (0, 0) sees 1 2 in its row, 3 below and 4 in the box
    assert list(completions(4, (0, 0, 1, 2, 3, 4, 0, 0, *(0,) * 8))) == []
    assert not has_one_solution(4, (0, 0, 1, 2, 3, 4, 0, 0, *(0,) * 8))


@pytest.mark.parametrize("by_cell", [False, True])
def test_random_large_grids_are_complete_and_differ(by_cell):
    order = in_random_order(np.random.default_rng(0))
    grids = [next(completions(9, (0,) * 81, order=order, by_cell=by_cell)) for _ in range(20)]
    assert all(complete(rows_of(9, grid)) for grid in grids)
    assert len(set(grids)) == 20
