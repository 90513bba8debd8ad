"""Where boards come from: one function of (preset, split, index), the same in every process.

`ragen` has the boards of the paper's code base, each drawn from its seed: one in twenty has several solutions, and most
are training boards up to the symmetries of Sudoku.
`clean` draws until a board has one solution, belongs to the split and is new; the number of blanks takes turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.environments.distinct import DistinctBoards
from actfocus_verl.environments.ragen_seeds import board_seed
from actfocus_verl.environments.splits import split_of
from actfocus_verl.environments.sudoku.config import BLANKS_SPREAD, SudokuConfig
from actfocus_verl.environments.sudoku.rules import Board
from actfocus_verl.environments.sudoku.solver import completions, has_one_solution, in_random_order
from actfocus_verl.environments.sudoku.symmetry import family, family_of_key, name, small_grids

CLEAN_SPLIT_SIZES = {"train": 20_000, "evaluation": 1024, "test": 1024}

_SMALL_BATCHES = tuple(min(32 << round_, 1024) for round_ in range(100))
"""4x4 candidates drawn at a time: one in 4 (train) or 16 belongs to the split, by family and by name."""

_LARGE_GRIDS, _DRAWS_PER_GRID = 2000, 16
"""9x9: complete grids tried for a board, and choices of the blanks tried with each, since a grid costs more."""


def make_board(config: SudokuConfig, preset: str, split: str, index: int) -> Board:
    """Board `index` of the split. Raises ConfigurationError when there is no such board."""
    if preset == "clean":
        return clean_boards(config.size, config.blank_cells, split).board(index)
    return _ragen_board(config.size, config.blank_cells, split, index)


@lru_cache(maxsize=4096)
def _ragen_board(size: int, blanks: int, split: str, index: int) -> Board:
    """A grid filled cell by cell, digits in random order; then random cells emptied, whatever that does to it.

    Number by number as the code base draws it: all digits are shuffled each time a cell is reached, also those that do
    not fit. Its 9x9 boards of the levels easy, medium and hard have 32, 40 and 48 blanks, its 4x4 boards 6, 8 and 9.
    """
    rng = Random(board_seed(split, index))

    def shuffled(free: int) -> list[int]:
        digits = list(range(1, size + 1))
        rng.shuffle(digits)
        return [digit for digit in digits if free >> digit - 1 & 1]

    solution = next(completions(size, (0,) * size**2, order=shuffled, by_cell=True))
    cells = list(range(size**2))
    rng.shuffle(cells)
    return _board(size, solution, cells[:blanks])


@lru_cache(maxsize=64)
def clean_boards(size: int, blanks: int, split: str) -> DistinctBoards[Board]:
    """The boards of a clean split: index i has `blanks` - 2 + i % 5 blank cells."""

    def candidates(rng: np.random.Generator, count: int) -> Iterator[Board]:
        return _small_candidates(rng, count, split) if size == 4 else _large_candidates(rng, size, count, split)

    counts = range(blanks - BLANKS_SPREAD, blanks + BLANKS_SPREAD + 1)
    return DistinctBoards("sudoku", split, counts, candidates, name, f"env.size={size}, env.blanks={blanks}")


def _small_candidates(rng: np.random.Generator, count: int, split: str) -> Iterator[Board]:
    """4x4 boards with `count` blanks, one solution, and a family of the split: uniform among those."""
    catalogue, choices = small_grids(), _masks(count)
    for batch in _SMALL_BATCHES:
        grids = rng.integers(len(catalogue.grids), size=batch)
        blanks = choices[rng.integers(len(choices), size=batch)]
        unique = catalogue.have_one_solution(grids, blanks)
        grids, blanks = grids[unique], blanks[unique]
        for grid, mask, key in zip(
            grids.tolist(), blanks.tolist(), catalogue.family_keys(grids, blanks).tolist(), strict=True
        ):
            if split_of(family_of_key(key)) == split:
                yield _board(4, catalogue.solutions[grid], (cell for cell in range(16) if mask >> cell & 1))


@cache
def _masks(count: int) -> NDArray[np.int64]:
    """All sets of `count` of 16 cells."""
    masks = np.arange(1 << 16)
    sizes = ((masks[:, None] >> np.arange(16)) & 1).sum(axis=1)
    chosen: NDArray[np.int64] = masks[sizes == count]
    return chosen


def _large_candidates(rng: np.random.Generator, size: int, count: int, split: str) -> Iterator[Board]:
    """Random boards with `count` blanks, one solution, and a family of the split."""
    for _ in range(_LARGE_GRIDS):
        solution = next(completions(size, (0,) * size**2, order=in_random_order(rng)))
        for _ in range(_DRAWS_PER_GRID):
            board = _board(size, solution, rng.choice(size**2, count, replace=False).tolist())
            if split_of(family(board)) == split and has_one_solution(size, board.givens):
                yield board


def _board(size: int, solution: tuple[int, ...], blanks: Iterable[int]) -> Board:
    empty = set(blanks)
    return Board(size, tuple(0 if cell in empty else digit for cell, digit in enumerate(solution)), solution)
