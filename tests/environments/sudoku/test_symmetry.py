"""Names and families against orbits spelled out image by image."""

from __future__ import annotations

import re
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest

from actfocus_verl.environments import SPLITS, make_world
from actfocus_verl.environments import sudoku as package
from actfocus_verl.environments.splits import split_of
from actfocus_verl.environments.sudoku.rules import Board, candidates
from actfocus_verl.environments.sudoku.solver import has_one_solution
from actfocus_verl.environments.sudoku.symmetry import family, family_of_key, name, small_grids

README = Path(package.__file__).with_name("README.md").read_text(encoding="utf-8")


def board_of(givens: np.ndarray, solution: np.ndarray) -> Board:
    return Board(len(givens), tuple(givens.ravel().tolist()), tuple(solution.ravel().tolist()))


def grids_of(board: Board) -> tuple[np.ndarray, np.ndarray]:
    shape = (board.size, board.size)
    return np.array(board.givens).reshape(shape), np.array(board.solution).reshape(shape)


def turned(board: Board) -> list[Board]:
    givens, solution = grids_of(board)
    pairs = [(givens, solution), (givens.T, solution.T)]
    return [board_of(np.rot90(g, k), np.rot90(s, k)) for g, s in pairs for k in range(4)]


LINES = [order for order in permutations(range(4)) if {order[0] // 2, order[1] // 2} in ({0}, {1})]
"""Orders of rows, or columns, that leave boxes boxes."""

CELLS = np.arange(16).reshape(4, 4)
PLACES = np.array([cells[list(r)][:, list(c)].ravel() for cells in (CELLS, CELLS.T) for r in LINES for c in LINES])
RENAMINGS = np.array([(0, *names) for names in permutations((1, 2, 3, 4))])


def small_orbit(board: Board) -> list[Board]:
    """All 2 * 8 * 8 * 24 images: transposed, lines reordered, digits renamed."""
    pairs = (RENAMINGS[:, np.array(grid)[PLACES]].reshape(-1, 16).tolist() for grid in (board.givens, board.solution))
    return [Board(4, tuple(givens), tuple(solution)) for givens, solution in zip(*pairs, strict=True)]


def random_image(board: Board, rng: np.random.Generator) -> Board:
    """A random one of the 9x9 symmetries."""
    givens, solution = grids_of(board)
    rename = np.array([0, *(rng.permutation(9) + 1)])
    rows, columns = (np.concatenate([3 * band + rng.permutation(3) for band in rng.permutation(3)]) for _ in range(2))
    givens, solution = (rename[grid][rows][:, columns] for grid in (givens, solution))
    return board_of(givens.T, solution.T) if rng.random() < 0.5 else board_of(givens, solution)


SMALL = [make_world("sudoku", split=split, index=index).board for split in SPLITS for index in range(5)]


@pytest.mark.parametrize("size", [4, 9])
def test_names_are_equal_exactly_for_turned_and_mirrored_boards(size):
    boards = [make_world("sudoku", size=size, index=index).board for index in range(60)]
    orbits: dict[str, set[tuple[int, ...]]] = {}
    for board in boards:
        images = turned(board)
        named = {name(image) for image in images}
        assert len(named) == 1
        orbits.setdefault(named.pop(), set()).update(image.givens for image in images)
    assert len(orbits) == 60
    assert all(one.isdisjoint(other) for one, other in combinations(orbits.values(), 2))


def test_small_families_are_equal_exactly_for_symmetric_boards():
    orbits: dict[str, set[tuple[int, ...]]] = {}
    for board in SMALL:
        images = small_orbit(board)
        assert len(images) == 3072
        assert turned(board)[1] in images
        assert {family(image) for image in images[:: 1 if board is SMALL[0] else 37]} == {family(board)}
        orbits.setdefault(family(board), {image.givens for image in images})
        assert board.givens in orbits[family(board)]  # of equal family, hence of equal orbit
    assert len(orbits) > 10
    assert all(one.isdisjoint(other) for one, other in combinations(orbits.values(), 2))


def test_large_families_are_equal_for_symmetric_boards_and_mostly_differ_for_others():
    rng = np.random.default_rng(0)
    families = set()
    for index in range(100):
        board = make_world("sudoku", size=9, blanks=12, index=index).board
        image = random_image(board, rng)
        assert has_one_solution(9, image.givens)
        assert family(image) == family(board)
        families.add(family(board))
    assert len(families) > 95


def test_turning_a_board_stays_in_its_family():
    for board in [*SMALL[:5], make_world("sudoku", size=9).board]:
        assert {family(image) for image in turned(board)} == {family(board)}


def complete_grids() -> list[tuple[tuple[int, ...], int]]:
    """One of each kind of complete grid, and how many are of its kind."""
    left, kinds = set(small_grids().solutions), []
    while left:
        grid = min(left)
        orbit = {image.solution for image in small_orbit(Board(4, grid, grid))}
        kinds.append((grid, len(orbit)))
        left -= orbit
    return kinds


def boards_with(grid: tuple[int, ...], blanks: int) -> tuple[np.ndarray, np.ndarray]:
    """For `SmallGrids`: the boards with this solution and so many blanks."""
    masks = np.array([mask for mask in range(1 << 16) if mask.bit_count() == blanks])
    return np.full(len(masks), small_grids().number[grid]), masks


def test_there_are_two_kinds_of_complete_grids():
    assert sorted(count for _, count in complete_grids()) == [96, 192]


def test_the_number_of_families_equals_a_count_of_orbits():
    # Orbit by orbit, without the tables: of all boards with 3 blanks (each has one solution) strike out the images of
    # the first, then of the first that is left, ...
    orbits, keys = 0, []
    for grid, _ in complete_grids():
        numbers, masks = boards_with(grid, 3)
        assert small_grids().have_one_solution(numbers, masks).all()
        keys.append(small_grids().family_keys(numbers, masks))
        left = {tuple(0 if mask >> cell & 1 else digit for cell, digit in enumerate(grid)) for mask in masks.tolist()}
        while left:
            left -= {image.givens for image in small_orbit(Board(4, min(left), grid))}
            orbits += 1
    assert len(np.unique(np.concatenate(keys))) == orbits


def test_the_table_of_boards_and_families_in_the_readme():
    rows = re.findall(
        r"^\| (\d) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| (\d+) / (\d+) / (\d+) \|$", README, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["4", "5", "6", "7", "8"]
    for blanks, *told in rows:
        boards, unique_boards, families = 0, 0, set()
        for grid, kind in complete_grids():
            numbers, masks = boards_with(grid, int(blanks))
            unique = small_grids().have_one_solution(numbers, masks)
            boards, unique_boards = boards + kind * len(masks), unique_boards + kind * unique.sum()
            families |= set(map(family_of_key, small_grids().family_keys(numbers[unique], masks[unique]).tolist()))
        shares = [sum(split_of(each) == split for each in families) for split in SPLITS]
        assert [int(number.replace(",", "")) for number in told] == [boards, unique_boards, len(families), *shares]


@pytest.mark.parametrize("blanks", range(2, 11))
def test_one_candidate_after_the_other_solves_every_small_board_of_one_solution(blanks):
    # a board of each family will do: a symmetry turns the one's single candidates into the other's
    for grid, _ in complete_grids():
        numbers, masks = boards_with(grid, blanks)
        unique = small_grids().have_one_solution(numbers, masks)
        keys = small_grids().family_keys(numbers[unique], masks[unique])
        for mask in masks[unique][np.unique(keys, return_index=True)[1]].tolist():
            digits = [0 if mask >> cell & 1 else digit for cell, digit in enumerate(grid)]
            while 0 in digits:
                single = next(cell for cell in range(16) if not digits[cell] and len(candidates(4, digits, cell)) == 1)
                digits[single] = candidates(4, digits, single)[0]
            assert tuple(digits) == grid
