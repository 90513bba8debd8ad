"""The dynamics against gymnasium's, the values against an expectation written out as a recursion."""

from __future__ import annotations

from collections import deque
from functools import cache

import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from actfocus_verl.environments import make_world
from actfocus_verl.environments.frozen_lake.rules import (
    Board,
    Move,
    action_values,
    best_success_rate,
    shortest_path_length,
    transitions,
)

BOARDS = [make_world("frozen_lake", preset="ragen", index=index).board for index in range(25)]
DENSE = [make_world("frozen_lake", preset="ragen", index=i, frozen_probability=0.6).board for i in range(10)]
LARGE = [make_world("frozen_lake", preset="ragen", index=i, size=6, frozen_probability=0.8).board for i in range(3)]


def describe(board: Board) -> list[str]:
    letters = ["H" if board.is_hole(tile) else "F" for tile in range(board.size**2)]
    letters[board.start], letters[board.goal] = "S", "G"
    return ["".join(letters[row * board.size : (row + 1) * board.size]) for row in range(board.size)]


def summed(outcomes) -> dict[int, float]:
    total: dict[int, float] = {}
    for probability, tile in outcomes:
        total[tile] = total.get(tile, 0.0) + probability
    return total


@pytest.mark.parametrize("success_rate", [0.8, 1.0, 1 / 3])
@pytest.mark.parametrize("board", [*BOARDS, *DENSE, *LARGE], ids=lambda board: "/".join(describe(board)))
def test_transitions_equal_gymnasium_everywhere(board, success_rate):
    reference = FrozenLakeEnv(desc=describe(board), is_slippery=True, success_rate=success_rate).unwrapped.P
    for tile in range(board.size**2):
        for move in Move:
            ours = summed(transitions(board, success_rate, tile, move))
            theirs = summed((p, following) for p, following, _, _ in reference[tile][int(move)])
            assert ours == pytest.approx(theirs, abs=1e-12)
            for _, following, reward, ended in reference[tile][int(move)]:
                assert ended == board.is_terminal(following)
                if not board.is_terminal(tile):
                    assert reward == float(following == board.goal)


def test_a_corner_by_hand():
    #  S _ _ _   from the corner, Left: the edge (0.8) and the slip up (0.1) keep the player, the slip down moves it
    board = Board(size=4, start=0, goal=15, holes=0)
    assert summed(transitions(board, 0.8, 0, Move.LEFT)) == pytest.approx({0: 0.9, 4: 0.1})
    assert summed(transitions(board, 0.8, 5, Move.UP)) == pytest.approx({1: 0.8, 4: 0.1, 6: 0.1})


def test_hole_and_goal_are_absorbing():
    board = Board(size=4, start=0, goal=15, holes=1 << 5)
    for tile in (5, 15):
        for move in Move:
            assert transitions(board, 0.8, tile, move) == ((1.0, tile),)


def slow_shortest_path(board: Board) -> int | None:
    distance, queue = {board.start: 0}, deque([board.start])
    while queue:
        tile = queue.popleft()
        row, column = divmod(tile, board.size)
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            near = r * board.size + c
            inside = 0 <= r < board.size and 0 <= c < board.size
            if inside and near not in distance and not board.is_hole(near):
                distance[near] = distance[tile] + 1
                queue.append(near)
    return distance.get(board.goal)


def test_shortest_paths_equal_a_queue_search():
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(500):
        size = int(rng.integers(2, 7))
        start, goal = (int(tile) for tile in rng.choice(size**2, 2, replace=False))
        holes = sum(1 << t for t in range(size**2) if t not in (start, goal) and rng.random() < 0.35)
        board = Board(size, start, goal, holes)
        expected = slow_shortest_path(board)
        lengths.add(expected)
        assert shortest_path_length(board) == expected
    assert None in lengths
    assert max(length for length in lengths if length is not None) > 6


def gymnasium_model(board: Board, success_rate: float):
    return FrozenLakeEnv(desc=describe(board), is_slippery=True, success_rate=success_rate).unwrapped.P


def slow_best(model, tile: int, horizon: int, move: int | None = None) -> float:
    """Expected reward of the best play, straight from the definition and gymnasium's model."""

    @cache
    def best(at: int, left: int) -> float:
        return 0.0 if left == 0 else max(value(at, a, left) for a in range(4))

    def value(at: int, a: int, left: int) -> float:
        return sum(p * (r + (0.0 if end else best(to, left - 1))) for p, to, r, end in model[at][a])

    return best(tile, horizon) if move is None else value(tile, move, horizon)


@pytest.mark.parametrize("horizon", [1, 2, 10])
@pytest.mark.parametrize("board", [*BOARDS[:6], *DENSE[:4]], ids=lambda board: "/".join(describe(board)))
def test_action_values_equal_the_recursion(board, horizon):
    model = gymnasium_model(board, 0.8)
    values = action_values(board, 0.8, horizon)
    for tile in range(board.size**2):
        if not board.is_terminal(tile):
            expected = [slow_best(model, tile, horizon, move) for move in range(4)]
            np.testing.assert_allclose(values[tile], expected, atol=1e-12)


def slow_protocol(model, tile: int, turns: int, per_turn: int, actions: int) -> float:
    """Best play when a turn commits to a sequence: every sequence is enumerated at every turn."""

    @cache
    def turn(at: int, turns_left: int, left: int) -> float:
        if turns_left == 0 or left == 0:
            return 0.0
        plans = [[a] for a in range(4)]
        for _ in range(min(per_turn, left) - 1):
            plans += [[*plan, a] for plan in plans for a in range(4)]
        return max(follow(at, tuple(plan), turns_left, left) for plan in plans)

    def follow(at: int, plan: tuple[int, ...], turns_left: int, left: int) -> float:
        if not plan:
            return turn(at, turns_left - 1, left)
        return sum(
            p * (r + (0.0 if end else follow(to, plan[1:], turns_left, left - 1)))
            for p, to, r, end in model[at][plan[0]]
        )

    return turn(tile, turns, actions)


@pytest.mark.parametrize(("turns", "per_turn", "actions"), [(3, 2, 6), (3, 2, 5), (2, 3, 4), (4, 1, 3), (1, 1, 1)])
@pytest.mark.parametrize("board", [*BOARDS[:3], *DENSE[:3]], ids=lambda board: "/".join(describe(board)))
def test_the_optimal_return_equals_the_enumeration_of_plans(board, turns, per_turn, actions):
    expected = slow_protocol(gymnasium_model(board, 0.8), board.start, turns, per_turn, actions)
    assert best_success_rate(board, 0.8, turns, per_turn, actions) == pytest.approx(expected, abs=1e-12)


def test_with_one_action_a_turn_the_protocol_is_plain_value_iteration():
    for board in BOARDS[:10]:
        plain = action_values(board, 0.8, 10)[board.start].max()
        assert best_success_rate(board, 0.8, 10, 1, 10) == pytest.approx(plain, abs=1e-12)
        assert best_success_rate(board, 0.8, 5, 2, 10) <= plain + 1e-12


def test_one_move_by_hand():
    # S G   one intended move reaches the goal with 0.8; both slips of Right keep a 1-row view: here the row below
    # _ _   slip down leaves the goal in reach of nothing more, the slip up stays
    board = Board(size=2, start=0, goal=1, holes=0)
    assert best_success_rate(board, 0.8, 1, 1, 1) == pytest.approx(0.8)
    # two moves in one turn: 0.8, then from the start again (0.1 * 0.8); after slipping down Right leads away from it,
    # so the best second move is Right all the same (0.1 from tile 2: the slip of Right goes up to tile 0, no goal)
    assert best_success_rate(board, 0.8, 1, 2, 2) == pytest.approx(0.8 + 0.1 * 0.8)
