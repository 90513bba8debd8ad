"""Shortest solutions and best returns against the slow implementation, and by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from actfocus_verl.environments import Limits, make_world
from actfocus_verl.environments.sokoban.config import SokobanConfig
from actfocus_verl.environments.sokoban.rules import Board, Rewards
from actfocus_verl.environments.sokoban.solver import (
    best_return,
    configurations,
    inner_tiles,
    solution_length,
    solution_levels,
)
from tests.environments.sokoban import slow
from tests.environments.sokoban.slow import to_board, to_grid

REWARDS = SokobanConfig().rewards()


def limits(turns: int, per_turn: int, actions: int, penalty: float = -0.1) -> Limits:
    return Limits(turns, per_turn, actions, max_words=100, max_turn_tokens=400, format_penalty=penalty)


def random_board(rng: np.random.Generator, size: int, boxes: int) -> Board:
    """Walls, targets, boxes and player anywhere: often unsolvable."""
    tiles = rng.permutation(inner_tiles(size)).tolist()
    player, targets, placed = tiles[0], rng.permutation(tiles[1:])[:boxes].tolist(), tiles[1 : 1 + boxes]
    floor = {player, *targets, *placed} | {tile for tile in tiles if rng.random() < 0.75}
    walls = sum(1 << tile for tile in range(size**2) if tile not in floor)
    return Board(size, walls, sum(1 << t for t in targets), sum(1 << b for b in placed), player)


@pytest.mark.parametrize(("size", "boxes", "count"), [(5, 1, 150), (5, 2, 60), (6, 1, 100), (6, 2, 20), (8, 1, 25)])
def test_shortest_solutions_equal_a_queue_search(size, boxes, count):
    rng = np.random.default_rng(10 * size + boxes)
    lengths = []
    for _ in range(count):
        board = random_board(rng, size, boxes)
        lengths.append(solution_length(board))
        assert lengths[-1] == slow.shortest_solution(to_grid(board))
    assert None in lengths
    assert max(length or 0 for length in lengths) >= 5


def test_shortest_solutions_by_hand():
    # one push; a walk around the box first: from above it down its side, under it, up
    assert solution_length(to_board("#####", "#PXO#", "#___#", "#___#", "#####")) == 1
    assert solution_length(to_board("#####", "#PO_#", "#_X_#", "#___#", "#####")) == 4
    assert solution_length(to_board("#####", "#X__#", "#_O_#", "#__P#", "#####")) is None


def test_many_rooms_at_once_are_as_one_by_one():
    rng = np.random.default_rng(3)
    boards = [random_board(rng, 6, 2) for _ in range(8)]
    walls, targets = (np.array([getattr(b, key) for b in boards], dtype=np.uint64) for key in ("walls", "targets"))
    levels = solution_levels(6, walls, targets, 2, longest=9)
    assert len(levels) == 10
    masks = configurations(6, 2).tolist()
    for room, board in enumerate(boards):
        for number in rng.choice(len(masks), 25, replace=False):
            blocked = board.walls | masks[number]
            for player in inner_tiles(6):
                found = [d for d, level in enumerate(levels) if int(level[number, room]) >> player & 1]
                if blocked >> player & 1 or board.walls & masks[number]:
                    assert found == []
                    continue
                length = solution_length(Board(6, board.walls, board.targets, masks[number], player))
                assert found == ([length] if length is not None and length <= 9 else [])


LIMITS = [(5, 2, 10), (5, 2, 4), (3, 1, 10), (2, 3, 5), (4, 1, 3), (1, 1, 1)]


@pytest.mark.parametrize("penalty", [-0.1, -0.02, -1.0])
@pytest.mark.parametrize(("turns", "per_turn", "actions"), LIMITS)
def test_the_best_return_equals_the_recursion_over_turns(turns, per_turn, actions, penalty):
    rng = np.random.default_rng(turns + actions)
    solved = 0
    for size, boxes in [(5, 1)] * 8 + [(6, 1)] * 4 + [(5, 2)] * 3:
        board = random_board(rng, size, boxes)
        if not board.solved:
            best = best_return(board, REWARDS, limits(turns, per_turn, actions, penalty))
            assert best == pytest.approx(slow.best_return(to_grid(board), turns, per_turn, actions, penalty))
            solved += best > 5.0
    assert solved > 0 or actions < 4


@pytest.mark.parametrize("rewards", [Rewards(0.0, 2.0, -0.5, 1.0), Rewards(-0.3, 0.0, 0.0, 1.0)])
def test_the_best_return_follows_the_rewards(rewards):
    rng = np.random.default_rng(1)
    for boxes in (1, 2) * 5:
        board = random_board(rng, 5, boxes)
        if not board.solved:
            expected = slow.best_return(to_grid(board), 5, 2, 10, -0.1, rewards)
            assert best_return(board, rewards, limits(5, 2, 10)) == pytest.approx(expected)


@pytest.mark.parametrize(("turns", "per_turn", "actions"), [(2, 2, 3), (3, 1, 2), (2, 1, 5), (1, 3, 3)])
def test_the_best_return_equals_the_best_of_all_episodes(turns, per_turn, actions):
    """Every sequence of replies, an invalid action among the choices of each place."""
    choices = [*slow.STEPS, "nothing"]
    replies = [reply for length in range(1, per_turn + 1) for reply in product(choices, repeat=length)]
    for seed in range(6):
        grid = to_grid(random_board(np.random.default_rng(seed), 5, 1))
        if slow.solved(grid):
            continue
        best = max(_episode(grid, episode, actions) for episode in product(replies, repeat=turns))
        found = best_return(to_board(*grid), REWARDS, limits(turns, per_turn, actions))
        assert found == pytest.approx(best)


def _episode(grid: slow.Grid, replies: tuple[tuple[str, ...], ...], actions: int) -> float:
    total = 0.0
    for reply in replies:
        total -= 0.1 * ("nothing" in reply)
        for action in reply:
            if action != "nothing" and actions > 0 and not slow.solved(grid):
                before, grid, actions = grid, slow.step(grid, action), actions - 1
                total += slow.reward(before, grid)
        if slow.solved(grid) or actions == 0:
            break
    return total


def test_a_solvable_board_is_worth_eleven_less_its_moves():
    for index in range(0, 180, 7):
        world = make_world("sokoban", split="test", index=index)
        assert world.optimal_return() == pytest.approx(11.0 - 0.1 * world.stratum())


def test_best_returns_by_hand():
    stuck = to_board("#####", "#X__#", "#_O_#", "#__P#", "#####")
    # nothing to win, but each of the five turns costs a move or a penalty, or less when the penalty is smaller
    assert best_return(stuck, REWARDS, limits(5, 2, 10)) == pytest.approx(-0.5)
    assert best_return(stuck, REWARDS, limits(5, 2, 10, penalty=-0.02)) == pytest.approx(-0.1)
    # three moves use up the actions, which ends the episode after three turns
    assert best_return(stuck, REWARDS, limits(5, 2, 3)) == pytest.approx(-0.3)
    # one box is stuck in the corner: the other one onto a target (+1), then four more turns; or three moves in all
    half = to_board("######", "#X___#", "#PXO_#", "#__O_#", "#____#", "######")
    assert best_return(half, REWARDS, limits(5, 2, 10)) == pytest.approx(1.0 - 0.5)
    assert best_return(half, REWARDS, limits(5, 2, 3)) == pytest.approx(1.0 - 0.3)
    # four moves are needed, three are allowed; and two turns of one action are too few as well
    four = to_board("#####", "#PO_#", "#_X_#", "#___#", "#####")
    assert best_return(four, REWARDS, limits(5, 2, 4)) == pytest.approx(10.6)
    assert best_return(four, REWARDS, limits(5, 2, 3)) == pytest.approx(-0.3)
    assert best_return(four, REWARDS, limits(2, 1, 10)) == pytest.approx(-0.2)
