"""Boards: disjoint, new, stratified in `clean`; the flaws that `ragen` keeps (its boards: test_ragen_boards.py)."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from actfocus_verl.environments import SPLITS, make_world, split_size
from actfocus_verl.environments import frozen_lake as package
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.frozen_lake.generator import canonical, clean_boards
from actfocus_verl.environments.frozen_lake.rules import Board, shortest_path_length, transition_matrices
from actfocus_verl.environments.splits import split_of
from tests.environments.readme import in_any, table_row


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


def random_success(world: FrozenLake) -> float:
    """The chance of ten uniformly random moves to reach the goal."""
    matrix = transition_matrices(world.board, world.config.success_rate).mean(axis=0)
    return float(np.linalg.matrix_power(matrix, 10)[world.board.start, world.board.goal])


def test_the_figures_on_ragen_in_the_readme():
    readme = Path(package.__file__).with_name("README.md").read_text(encoding="utf-8")
    train = [make_world("frozen_lake", preset="ragen", index=i) for i in range(1600)]
    evaluation = [make_world("frozen_lake", preset="ragen", split="evaluation", index=i) for i in range(512)]
    rows = [
        ("also train", "share", in_any(train, evaluation, lambda world: world.board)),
        ("also train, up to turning and mirroring", "share", in_any(train, evaluation, FrozenLake.board_hash)),
        ("solved by one move", "share", [world.stratum() == 1 for world in evaluation]),
        ("mean shortest solution", "{:.2f} moves", [world.stratum() for world in evaluation]),
        ("mean optimal return", "{:.3f}", [world.optimal_return() for world in evaluation]),
        ("success of ten uniformly random moves", "{:.1%}", [random_success(world) for world in evaluation]),
    ]
    for row in rows:
        assert table_row(*row) in readme
    clean = [make_world("frozen_lake", split="evaluation", index=i).optimal_return() for i in range(512)]
    assert f"`clean` the mean optimal return is {np.mean(clean):.3f}" in readme
