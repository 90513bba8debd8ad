"""Exact values of boards: lengths of shortest solutions, for many rooms at once, and the best return of an episode.

A room is what no move changes: walls and targets. A configuration is a set of tiles that the boxes may be on.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import combinations, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.sokoban.rules import Board, Rewards, advance, offsets

Masks: TypeAlias = "NDArray[np.uint64]"
_Indices: TypeAlias = "NDArray[np.intp]"
_State: TypeAlias = tuple[int, int]
_ONE = np.uint64(1)


@cache
def inner_tiles(size: int) -> tuple[int, ...]:
    """All tiles but the wall around."""
    return tuple(row * size + column for row in range(1, size - 1) for column in range(1, size - 1))


@cache
def configurations(size: int, boxes: int) -> Masks:
    """Every set of `boxes` inner tiles, as masks, shape (configurations,)."""
    chosen = combinations(inner_tiles(size), boxes)
    return np.array([sum(1 << tile for tile in tiles) for tiles in chosen], dtype=np.uint64)


@cache
def _configuration_numbers(size: int, boxes: int) -> dict[int, int]:
    return {mask: number for number, mask in enumerate(configurations(size, boxes).tolist())}


@cache
def _pushes(size: int, boxes: int) -> list[tuple[_Indices, _Indices, Masks, Masks]]:
    """All pushes between configurations, as columns: from, to, the pushed box's tile, the player's tile before.

    Listed by direction and by rank of the box among the boxes, so that no "from" occurs twice in a list. Walls are not
    known here: they take away states, not pushes.
    """
    numbers = _configuration_numbers(size, boxes)
    rows: list[list[tuple[int, ...]]] = [[] for _ in range(4 * boxes)]
    for tiles, (mask, number) in zip(combinations(inner_tiles(size), boxes), numbers.items(), strict=True):
        for kind, (offset, box) in enumerate(product(offsets(size), tiles)):
            pushed = numbers.get(mask ^ 1 << box | 1 << box + offset)  # None: onto a wall or another box
            if pushed is not None:
                rows[kind].append((number, pushed, box, box - offset))
    return [_push_columns(np.array(kind, dtype=np.intp).reshape(-1, 4)) for kind in rows]


def _push_columns(pushes: _Indices) -> tuple[_Indices, _Indices, Masks, Masks]:
    before, to, box, player = pushes.T
    return before, to, box[:, None].astype(np.uint64), player[:, None].astype(np.uint64)


def solution_levels(size: int, walls: Masks, targets: Masks, boxes: int, longest: int | None = None) -> list[Masks]:
    """Where the player must be for a shortest solution of 0, 1, 2, ... moves, at most `longest`.

    walls, targets: of several rooms, shape (rooms,). Element d has shape (configurations, rooms): the player's tiles
    from which exactly d moves solve that room with that configuration of boxes; it is empty for no d but perhaps the
    last. One breadth-first search back from the solved states, one bit a state.
    """
    # A step back from (player, boxes) leads to all neighbours of the player that are free, the boxes staying, and for
    # every push that ends there, to the state before it.
    step = np.uint64(size)
    masks = configurations(size, boxes)[:, None]
    free = np.where(masks & walls == 0, ~walls & ~masks, np.uint64(0)) & np.uint64((1 << size * size) - 1)
    level = np.where(masks == targets, free, np.uint64(0))
    unknown = free & ~level
    levels = [level]
    while level.any() and len(levels) - 1 != longest:
        before = level << step | level >> step | level << _ONE | level >> _ONE
        for source, to, box, player in _pushes(size, boxes):
            before[source] |= (level[to] >> box & _ONE) << player
        level = before & unknown
        unknown &= ~level
        levels.append(level)
    return levels


@lru_cache(maxsize=256)  # a megabyte each for three boxes at size 8
def _solution_lengths(size: int, walls: int, targets: int) -> NDArray[np.int16]:
    """Moves to solve the room from each state, -1 where it cannot be solved, shape (configurations, tiles)."""
    rooms = np.array([[walls], [targets]], dtype=np.uint64)
    levels = solution_levels(size, rooms[0], rooms[1], targets.bit_count())
    tiles = np.arange(size * size, dtype=np.uint64)
    lengths = np.full((len(levels[0]), len(tiles)), -1, dtype=np.int16)
    for length, level in enumerate(levels):
        lengths[(level >> tiles & _ONE).astype(np.bool_)] = length
    return lengths


def solution_length(board: Board) -> int | None:
    """Moves of a shortest solution, walking included; None when there is none."""
    number = _configuration_numbers(board.size, board.boxes.bit_count())[board.boxes]
    length = int(_solution_lengths(board.size, board.walls, board.targets)[number, board.player])
    return None if length < 0 else length


@lru_cache(maxsize=4096)
def best_return(board: Board, rewards: Rewards, limits: Limits) -> float:
    """The highest return an episode of `board`, which is not solved yet, can have.

    Play is deterministic, so it does not matter how a sequence of moves is spread over the turns. But every turn until
    the end holds at least one move or pays `format_penalty`, and the end comes when the board is solved, the moves are
    used up, or the turns are. So n moves that do not solve the board cost max(0, max_turns - n) penalties, none when n
    is `max_actions_per_episode`. The best rewards of n moves are found for each state they may lead to, n = 0, 1, ...
    """
    most = min(limits.max_actions_per_episode, limits.max_turns * limits.max_actions_per_turn)
    best = limits.max_turns * limits.format_penalty
    returns: dict[_State, float] = {(board.player, board.boxes): 0.0}
    for moves in range(1, most + 1):
        solved, returns = _one_move_more(board, rewards, returns)
        empty_turns = 0 if moves == limits.max_actions_per_episode else max(0, limits.max_turns - moves)
        best = max(best, solved, max(returns.values()) + empty_turns * limits.format_penalty)
    return best


def _one_move_more(board: Board, rewards: Rewards, returns: dict[_State, float]) -> tuple[float, dict[_State, float]]:
    """The best return of those that solve the board with this move, and by state of those that do not."""
    walls, targets, goal = board.walls, board.targets, board.targets.bit_count()
    best_solved = float("-inf")
    following: dict[_State, float] = {}
    for (player, boxes), so_far in returns.items():
        placed = (boxes & targets).bit_count()
        for offset in offsets(board.size):
            state = advance(walls, boxes, player, offset)
            total = so_far + rewards.earned(placed, (state[1] & targets).bit_count(), goal)
            if state[1] == targets:
                best_solved = max(best_solved, total)
            elif total > following.get(state, float("-inf")):
                following[state] = total
    return best_solved, following
