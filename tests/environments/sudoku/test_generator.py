"""Boards: one solution, disjoint, new, in equal shares in `clean`; the flaws that `ragen` keeps."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from actfocus_verl.environments import SPLITS, make_world, split_size
from actfocus_verl.environments import sudoku as package
from actfocus_verl.environments.splits import split_of
from actfocus_verl.environments.sudoku.generator import clean_boards
from actfocus_verl.environments.sudoku.rules import Board
from actfocus_verl.environments.sudoku.solver import completions, has_one_solution
from actfocus_verl.environments.sudoku.symmetry import family, name, small_grids
from actfocus_verl.errors import ConfigurationError
from tests.environments.readme import table_row
from tests.environments.sudoku.slow import all_small_grids, complete, rows_of

GRIDS = np.array(all_small_grids())


@pytest.fixture(scope="module")
def clean() -> dict[str, list[Board]]:
    return {
        split: [make_world("sudoku", split=split, index=i).board for i in range(split_size("sudoku", split=split))]
        for split in SPLITS
    }


def solutions_of(board: Board) -> int:
    """By looking through all 288 grids."""
    givens = np.array(board.givens)
    return int(((givens == GRIDS) | (givens == 0)).all(axis=1).sum())


def text(board: Board) -> str:
    return " ".join("".join(map(str, row)) for row in rows_of(board.size, board.givens))


def test_sizes_of_the_splits():
    assert split_size("sudoku", split="train") >= 20_000
    assert split_size("sudoku", split="evaluation") == split_size("sudoku", split="test") == 1024
    assert split_size("sudoku", preset="ragen", split="test") is None


def test_clean_splits_share_no_family_and_hold_no_name_twice(clean):
    names = {split: [name(board) for board in boards] for split, boards in clean.items()}
    families = {split: {family(board) for board in boards} for split, boards in clean.items()}
    for split in SPLITS:
        assert len(set(names[split])) == len(names[split])
        assert {split_of(each) for each in families[split]} == {split}
    for one, other in combinations(SPLITS, 2):
        assert families[one].isdisjoint(families[other])
        assert set(names[one]).isdisjoint(names[other])
    assert all(len(families[split]) > 500 for split in SPLITS)  # boards in some variety


def test_clean_boards_have_one_solution_which_is_theirs(clean):
    for boards in clean.values():
        for board in boards[::4]:
            assert solutions_of(board) == 1
            assert complete(rows_of(4, board.solution))
            assert all(given in (0, digit) for given, digit in zip(board.givens, board.solution, strict=True))


def test_clean_boards_cycle_through_the_numbers_of_blanks(clean):
    for boards in clean.values():
        assert [len(board.blanks) for board in boards] == [4 + index % 5 for index in range(len(boards))]
    assert [make_world("sudoku", index=index).stratum() for index in range(6)] == [4, 5, 6, 7, 8, 4]


def test_clean_boards_do_not_depend_on_the_order_in_which_they_are_asked_for(clean):
    fresh = clean_boards.__wrapped__(4, 6, "evaluation")
    for index in (500, 3, 501, 499, 0):
        assert fresh.board(index) == clean["evaluation"][index]


def test_grids_and_places_of_blanks_are_drawn_evenly(clean):
    train = clean["train"]
    blanks = np.zeros(16)
    digits = np.zeros(4)
    for board in train:
        blanks[list(board.blanks)] += 1
        digits[board.solution[0] - 1] += 1
    # 7,500 and 5,000 each; five standard deviations of a binomial count. The choice of the families may tilt them too.
    assert np.abs(blanks - 7500).max() < 5 * 70
    assert np.abs(digits - 5000).max() < 5 * 61
    grids = np.bincount([small_grids().number[board.solution] for board in train], minlength=288)
    assert grids.min() > 20  # 69 each on average


def test_the_boards_stay_what_they_are():
    # frozen on purpose: results are comparable between versions only while these lines hold
    assert [text(make_world("sudoku", split=split, index=53).board) for split in SPLITS] == [
        "0132 0241 2013 0000",
        "3000 4002 1423 0041",
        "1324 0410 4002 0040",
    ]
    assert text(make_world("sudoku", size=9, index=2).board) == (
        "890041675 124765938 675938142 230014569 569307814 481659723 352196087 918402356 746583290"
    )


@pytest.mark.parametrize(("blanks", "index"), [(8, 3), (30, 4), (40, 1)])
@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_large_boards(blanks, index, split):
    boards = [make_world("sudoku", size=9, blanks=blanks, split=split, index=i).board for i in range(index + 1)]
    for number, board in enumerate(boards):
        assert len(board.blanks) == blanks - 2 + number
        assert list(completions(9, board.givens)) == [board.solution]
        assert complete(rows_of(9, board.solution))
        assert split_of(family(board)) == split_of(name(board)) == split


@pytest.mark.parametrize(("blanks", "counts"), [(4, {2, 3, 4, 5, 6}), (9, {7, 8, 9, 10, 11})])
@pytest.mark.parametrize("split", SPLITS)
def test_few_and_many_blanks(blanks, counts, split):
    boards = [make_world("sudoku", blanks=blanks, split=split, index=index).board for index in range(25)]
    assert {len(board.blanks) for board in boards} == counts
    assert all(solutions_of(board) == 1 for board in boards)


def test_an_index_for_which_there_is_no_board_is_refused():
    # of the boards with a single blank there are two families, one trains and one evaluates
    with pytest.raises(ConfigurationError, match=r"env\.index=0: split 'test' has no such board") as caught:
        clean_boards(4, 3, "test").board(0)
    assert "env.blanks=3" in str(caught.value)


def test_ragen_boards_have_the_set_number_of_blanks():
    assert [make_world("sudoku", preset="ragen", blanks=blanks, index=3).stratum() for blanks in (4, 8)] == [4, 8]


def test_the_figures_on_ragen_in_the_readme():
    readme = Path(package.__file__).with_name("README.md").read_text(encoding="utf-8")
    evaluation = [make_world("sudoku", preset="ragen", split="evaluation", index=index) for index in range(512)]
    train = [make_world("sudoku", preset="ragen", split="train", index=index).board for index in range(1600)]
    unique = [solutions_of(world.board) == 1 for world in evaluation]
    families = {family(board) for board in train if solutions_of(board) == 1}
    trained = [one and family(world.board) in families for one, world in zip(unique, evaluation, strict=True)]
    cells = [f"{sum(trained[:count])} of {sum(unique[:count])}" for count in (512, 32)]
    assert f"| one solution, and a family that also trains | {cells[0]} | {cells[1]} |" in readme
    assert f"| several solutions | {512 - sum(unique)} | {32 - sum(unique[:32])} |" in readme
    assert not {world.board for world in evaluation} & set(train)
    assert table_row("mean optimal return", "{:.2f}", [world.optimal_return() for world in evaluation]) in readme
    clean = [make_world("sudoku", split="evaluation", index=index).optimal_return() for index in range(512)]
    assert f"mean optimal return is {np.mean(clean):.2f}" in readme
    several = [several_of(count, size, blanks) for count, size, blanks in ((200, 4, 8), (100, 9, 32))]
    assert f"`blanks=8` {several[0]} of the first 200" in readme
    assert f"`size=9 blanks=32` {several[1]} of the first 100" in readme


def several_of(count: int, size: int, blanks: int) -> int:
    """Of the first `count` evaluation boards, those with several solutions: as many as were counted of the original."""
    keys = {"preset": "ragen", "split": "evaluation", "size": size, "blanks": blanks}
    boards = [make_world("sudoku", index=index, **keys).board for index in range(count)]
    return sum(not has_one_solution(size, board.givens) for board in boards)
