"""`World.known_answer`: playing it solves the board as fast as can be, and asking for it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from actfocus_verl.environments import World, execute_turn, make_world
from actfocus_verl.environments.frozen_lake.rules import Board as Lake
from actfocus_verl.environments.frozen_lake.rules import shortest_path_length
from actfocus_verl.environments.sokoban import Sokoban
from actfocus_verl.environments.sokoban.config import SokobanConfig
from actfocus_verl.environments.sudoku import Sudoku
from actfocus_verl.environments.sudoku.config import SudokuConfig
from actfocus_verl.environments.sudoku.rules import Board as Grid
from actfocus_verl.environments.sudoku.rules import Placement
from tests.environments.sokoban.slow import to_board
from tests.helpers.episodes import dry_lake

NEVER_SLIPS: dict[str, dict[str, Any]] = {"frozen_lake": {"success_rate": 1.0}, "sokoban": {}, "sudoku": {}}


def follow(world: World) -> list[int]:
    """Play known answers to the end; how many actions each of them held."""
    counts: list[int] = []
    while len(counts) < 40 and (answer := world.known_answer()) is not None:
        turn = execute_turn(world, answer.split(" || "), actions_left=100)
        assert turn.valid
        counts.append(turn.executed)
    return counts


@pytest.mark.parametrize("name", NEVER_SLIPS)
@pytest.mark.parametrize("per_turn", [1, 2, 5])
def test_following_it_solves_every_board_by_a_shortest_way(name: str, per_turn: int) -> None:
    for index in range(20):
        world = make_world(
            name,
            index=index,
            max_actions_per_turn=per_turn,
            max_actions_per_episode=40,
            max_turns=40,
            **NEVER_SLIPS[name],
        )
        counts = follow(world)
        assert world.success
        assert sum(counts) == world.stratum()
        assert max(counts) <= per_turn


@pytest.mark.parametrize("name", ["frozen_lake", "sokoban", "sudoku", "webshop"])
def test_asking_changes_nothing(name: str) -> None:
    world = make_world(name, index=3)
    before = (world.render(), world.anchor(), world.done)
    first = world.known_answer()
    assert first is not None
    assert first == world.known_answer()
    assert (world.render(), world.anchor(), world.done) == before
    assert all(world.parse_action(action) is not None for action in first.split(" || ")) or name == "webshop"


def test_lakes_by_hand() -> None:
    assert dry_lake().known_answer() == "Right || Right"
    assert dry_lake(max_actions_per_turn=5).known_answer() == "Right || Right || Right"
    walled_in = Lake(size=4, start=0, goal=15, holes=1 << 1 | 1 << 4)
    assert shortest_path_length(walled_in) is None
    assert dry_lake(walled_in).known_answer() is None
    drowned = dry_lake(Lake(size=4, start=0, goal=15, holes=1 << 1))
    drowned.step(drowned.parse_action("Right"))
    assert (drowned.done, drowned.known_answer()) == (True, None)


def test_a_box_in_a_corner_leaves_no_answer() -> None:
    board = to_board("######", "#____#", "#_X__#", "#P___#", "#__O_#", "######")
    world = Sokoban(board, SokobanConfig(), preset="clean", split="train", index=0)
    assert world.known_answer() is not None
    stuck = Sokoban(
        to_board("######", "#X___#", "#____#", "#P___#", "#__O_#", "######"),
        SokobanConfig(),
        preset="clean",
        split="train",
        index=0,
    )
    assert stuck.known_answer() is None


def test_a_grid_whose_digits_block_each_other_leaves_no_answer() -> None:
    """Two blanks of a row hold each other's digit: neither can be entered while the other stands."""
    solution = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)
    givens = tuple(0 if cell in (0, 1, 4, 5, 8) else digit for cell, digit in enumerate(solution))
    world = Sudoku(Grid(4, givens, solution), SudokuConfig(), preset="clean", split="train", index=0)
    assert world.known_answer() is not None
    world.digits[0], world.digits[1], world.digits[4], world.digits[5], world.digits[8] = 2, 1, 3, 4, 0
    assert world.parse_action("1,1,1") == Placement(0, 1)
    assert world.known_answer() is None


def test_webshop_names_the_product_on_every_page() -> None:
    world = make_world("webshop", index=3)
    answer = world.known_answer()
    assert answer == f"click[{world.goal.product.key}]"  # type: ignore[attr-defined]
    world.step(world.parse_action(f"search[{world.goal.query}]"))  # type: ignore[attr-defined]
    assert world.known_answer() == answer
    assert world.parse_action(answer) is not None  # the search found it


def test_a_world_offers_none_by_default() -> None:
    assert World.known_answer(make_world("frozen_lake")) is None
