"""The dynamics and rewards against the slow implementation, and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.environments.sokoban import Sokoban
from actfocus_verl.environments.sokoban.config import SokobanConfig
from actfocus_verl.environments.sokoban.prompt import ACTION_NAMES
from actfocus_verl.environments.sokoban.rules import Board, Move, after
from tests.environments.sokoban import slow
from tests.environments.sokoban.slow import PAPER, to_board, to_grid


def play(board: Board, moves: str) -> tuple[Board, list[float]]:
    """The board and the rewards after moves given as initials."""
    by_initial = {name[0]: move for move, name in ACTION_NAMES.items()}
    rewards = []
    for initial in moves:
        following = after(board, by_initial[initial])
        rewards.append(PAPER.earned(board.placed, following.placed, board.targets.bit_count()))
        board = following
    return board, rewards


def every_state(*rows: str) -> list[Board]:
    """The room with its boxes and its player on all tiles they can be on."""
    room = to_board(*rows)
    floor = [tile for tile in range(room.size**2) if not room.walls >> tile & 1]
    return [
        Board(room.size, room.walls, room.targets, sum(1 << box for box in boxes), player)
        for boxes in combinations(floor, room.boxes.bit_count())
        for player in floor
        if player not in boxes
    ]


@pytest.mark.parametrize(
    "rows",
    [
        ("#####", "#PX_#", "#_O_#", "#___#", "#####"),
        ("#####", "#PXO#", "#_X_#", "##_O#", "#####"),
        ("######", "#P_X_#", "#_#__#", "#_O__#", "##__##", "######"),
    ],
    ids="".join,
)
def test_every_move_from_every_state_equals_the_slow_implementation(rows):
    states = every_state(*rows)
    assert len(states) > 70
    for board in states:
        for move, name in ACTION_NAMES.items():
            before, expected = to_grid(board), slow.step(to_grid(board), name)
            following = after(board, move)
            assert to_grid(following) == expected
            assert following.solved == slow.solved(expected)
            if not board.solved:
                earned = PAPER.earned(board.placed, following.placed, board.targets.bit_count())
                assert earned == pytest.approx(slow.reward(before, expected))


@pytest.mark.parametrize(("size", "boxes"), [(5, 1), (6, 1), (6, 3), (7, 2), (8, 2)])
def test_random_play_equals_the_slow_implementation(size, boxes):
    rng = np.random.default_rng(size + boxes)
    pushes = 0
    for index in range(40):
        world = make_world("sokoban", preset="ragen", index=index, size=size, boxes=boxes)
        grid = to_grid(world.start)
        for _ in range(100):
            action = ["Up", "Down", "Left", "Right"][rng.integers(4)]
            before, grid, boxes_before = grid, slow.step(grid, action), world.board.boxes
            result = world.step(world.parse_action(action))
            pushes += world.board.boxes != boxes_before
            assert world.render() == "\n".join(grid)
            assert result.reward == pytest.approx(slow.reward(before, grid))
            assert result.done == result.success == world.done == world.success == slow.solved(grid)
            if result.done:
                break
    assert pushes > 30


def test_one_push_solves_by_hand():
    board, rewards = play(to_board("#####", "#PXO#", "#___#", "#___#", "#####"), "R")
    assert to_grid(board)[1] == "#_P√#"
    assert board.solved
    assert rewards == pytest.approx([10.9])


def test_onto_a_target_off_it_and_against_the_wall_by_hand():
    board, rewards = play(to_board("######", "#PXO_#", "#____#", "#_XO_#", "#____#", "######"), "RRR")
    assert rewards == pytest.approx([0.9, -1.1, -0.1])
    assert to_grid(board) == ("######", "#__SX#", "#____#", "#_XO_#", "#____#", "######")


def test_two_boxes_by_hand():
    board, rewards = play(to_board("######", "#PXO_#", "#____#", "#_XO_#", "#____#", "######"), "RLDDR")
    assert rewards == pytest.approx([0.9, -0.1, -0.1, -0.1, 10.9])
    assert board.solved


def test_from_one_target_straight_to_the_next_is_neither_on_nor_off():
    board, rewards = play(to_board("######", "#PXOO#", "#____#", "#_X__#", "#____#", "######"), "RR")
    assert rewards == pytest.approx([0.9, -0.1])
    assert to_grid(board)[1] == "#__S√#"


@pytest.mark.parametrize("row", ["#PXX_#", "#PX#_#", "#PX√_#"])
def test_what_cannot_be_pushed_stays(row):
    board = to_board("######", row, "#_O__#", "#_O__#", "#____#", "######")
    following, rewards = play(board, "R")
    assert following == board
    assert rewards == pytest.approx([-0.1])


def test_rewards_of_ones_own_reach_the_world():
    config = SokobanConfig(step_reward=-0.5, on_target_reward=2.0, off_target_reward=-3.0, solved_reward=7.0)
    start = to_board("######", "#PXO_#", "#____#", "#_XO_#", "#____#", "######")
    world = Sokoban(start, config, preset="clean", split="train", index=0)
    assert [world.step(move).reward for move in (Move.RIGHT, Move.RIGHT)] == [1.5, -3.5]
    world = Sokoban(start, config, preset="clean", split="train", index=0)
    rewards = [world.step(world.parse_action(name)).reward for name in ("Right", "Left", "Down", "Down", "Right")]
    assert rewards == [1.5, -0.5, -0.5, -0.5, 8.5]
    with pytest.raises(RuntimeError, match="after the episode ended"):
        world.step(Move.UP)
