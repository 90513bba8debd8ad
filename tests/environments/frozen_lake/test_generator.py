"""Boards: disjoint, new, stratified in `clean`; the flaws that `ragen` keeps (its boards: test_ragen_boards.py)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from actfocus_verl.environments import SPLITS, make_world, split_size
from actfocus_verl.environments.frozen_lake.generator import canonical, clean_boards
from actfocus_verl.environments.frozen_lake.rules import Board, shortest_path_length
from actfocus_verl.environments.splits import split_of


@pytest.fixture(scope="module")
def clean() -> dict[str, list]:
    return {
        split: [make_world("frozen_lake", split=split, index=i) for i in range(split_size("frozen_lake", split=split))]
        for split in SPLITS
    }


def images(board: Board) -> list[Board]:
    """All turns and mirrors, by moving tiles one by one with NumPy."""
    letters = np.zeros((board.size, board.size), dtype=int)
    for tile in range(board.size**2):
        kind = 1 if board.is_hole(tile) else 2 if tile == board.start else 3 if tile == board.goal else 0
        letters[divmod(tile, board.size)] = kind
    result = []
    for side in (letters, letters.T):
        for turns in range(4):
            flat = np.rot90(side, turns).ravel()
            holes = sum(1 << int(tile) for tile in np.flatnonzero(flat == 1))
            result.append(Board(board.size, int(np.argmax(flat == 2)), int(np.argmax(flat == 3)), holes))
    return result


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_canonical_name_is_equal_exactly_for_images_of_a_board(size):
    rng = np.random.default_rng(size)
    names: dict[str, set[Board]] = {}
    for _ in range(150):
        start, goal = (int(tile) for tile in rng.choice(size**2, 2, replace=False))
        holes = sum(1 << t for t in range(size**2) if t not in (start, goal) and rng.random() < 0.2)
        orbit = images(Board(size, start, goal, holes))
        name = {canonical(image) for image in orbit}
        assert len(name) == 1
        names.setdefault(name.pop(), set(orbit)).update(orbit)
    for one, other in combinations(names.values(), 2):
        assert one.isdisjoint(other)


def test_clean_splits_are_disjoint_and_without_repeats(clean):
    hashes = {split: {world.board_hash() for world in worlds} for split, worlds in clean.items()}
    for split, worlds in clean.items():
        assert len(hashes[split]) == len(worlds)
        assert all(split_of(canonical(world.board)) == split for world in worlds)
    for one, other in combinations(SPLITS, 2):
        assert hashes[one].isdisjoint(hashes[other])


@pytest.mark.nightly
def test_no_evaluation_board_is_among_twenty_thousand_training_boards():
    # 5x5: there are too few 4x4 boards that need six moves for 20,000 in equal shares (the next test)
    names = {
        split: {canonical(clean_boards(5, 0.9, split).board(index)) for index in range(count)}
        for split, count in (("train", 20_000), ("evaluation", 512))
    }
    assert (len(names["train"]), len(names["evaluation"])) == (20_000, 512)
    assert names["train"].isdisjoint(names["evaluation"])


def test_boards_of_six_moves_on_the_smallest_lake_in_use():
    """Every goal and set of holes of 4x4; each board is counted by the size of its orbit under the symmetries."""
    orbits = 0.0
    for start, alike in ((0, 4), (1, 8), (5, 4)):  # a corner, an edge, a middle, and how many tiles are like it
        for goal in range(16):
            if abs(start // 4 - goal // 4) + abs(start % 4 - goal % 4) not in (2, 4, 6):
                continue
            for holes in range(1 << 16):
                board = Board(4, start, goal, holes)
                if not holes & (1 << start | 1 << goal) and shortest_path_length(board) == 6:
                    orbits += alike / len(set(images(board)))
    assert round(orbits) == 6084


def test_clean_boards_cycle_through_the_solution_lengths(clean):
    for worlds in clean.values():
        assert [world.stratum() for world in worlds] == [1 + index % 6 for index in range(len(worlds))]


def test_clean_boards_do_not_depend_on_the_order_in_which_they_are_asked_for(clean):
    fresh = clean_boards.__wrapped__(4, 0.9, "evaluation")
    for index in (500, 3, 501, 499, 0):
        assert fresh.board(index) == clean["evaluation"][index].board


def test_the_boards_stay_what_they_are():
    # frozen on purpose: results are comparable between versions only while these lines hold
    assert [make_world("frozen_lake", split=split, index=53).board for split in SPLITS] == [
        Board(size=4, start=2, goal=7, holes=1 << 3 | 1 << 6 | 1 << 14),
        Board(size=4, start=3, goal=12, holes=1 << 1 | 1 << 2),
        Board(size=4, start=5, goal=10, holes=1 << 6 | 1 << 9),
    ]


@pytest.mark.parametrize(("size", "index"), [(3, 6), (6, 49), (8, 13)])
def test_other_sizes_have_boards_too(size, index):
    world = make_world("frozen_lake", size=size, split="test", index=index, frozen_probability=0.8)
    assert world.board.size == size
    assert world.stratum() == 1 + index % (2 * (size - 1))


def test_optimal_returns_are_chances_and_fall_with_the_solution_length(clean):
    worlds = clean["evaluation"][:300]
    returns = np.array([world.optimal_return() for world in worlds])
    assert ((returns > 0.0) & (returns <= 1.0)).all()
    means = [returns[[w.stratum() == length for w in worlds]].mean() for length in range(1, 7)]
    assert means == sorted(means, reverse=True)


def test_ragen_keeps_the_measured_flaws():
    boards = {
        split: [make_world("frozen_lake", preset="ragen", split=split, index=i).board for i in range(count)]
        for split, count in (("train", 1600), ("evaluation", 512))
    }
    evaluation, train = boards["evaluation"], set(boards["train"])
    assert len(set(evaluation)) < len(evaluation)
    assert 0.1 < np.mean([board in train for board in evaluation]) < 0.5
    assert 0.15 < np.mean([shortest_path_length(board) == 1 for board in evaluation]) < 0.3


def test_ragen_tiles_are_frozen_with_the_given_probability():
    boards = [make_world("frozen_lake", preset="ragen", index=i).board for i in range(2000)]
    holes = np.mean([board.holes.bit_count() / 14 for board in boards])
    assert 0.085 < holes < 0.105  # 0.1, a little less because the lake must be solvable
    starts = np.bincount([board.start for board in boards], minlength=16)
    assert starts.min() > 70  # 125 each on average
