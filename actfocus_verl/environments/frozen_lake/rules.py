"""The dynamics of FrozenLake and the value of a board: numbers only, no text, no randomness.

A tile is an index `row * size + column`, row 0 at the top; a set of tiles is an int with one bit a tile.
Actions and transitions are those of gymnasium's FrozenLakeEnv, which the tests compare them with.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache, lru_cache
from itertools import product
from math import inf
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray


class Move(IntEnum):
    """The four actions, numbered as in gymnasium: neighbours in this circle are perpendicular."""

    LEFT = 0
    DOWN = 1
    RIGHT = 2
    UP = 3


_Mask = TypeVar("_Mask", int, NDArray[np.uint64])

_STEPS = {Move.LEFT: (0, -1), Move.DOWN: (1, 0), Move.RIGHT: (0, 1), Move.UP: (-1, 0)}


class Board(NamedTuple):
    """size x size tiles; `start` and `goal` are tiles, `holes` a bit mask that holds neither of them."""

    size: int
    start: int
    goal: int
    holes: int

    def is_hole(self, tile: int) -> bool:
        """Whether `tile` is a hole."""
        return bool(self.holes >> tile & 1)

    def is_terminal(self, tile: int) -> bool:
        """Whether the episode is over on `tile`."""
        return tile == self.goal or self.is_hole(tile)


@cache
def destination(size: int, tile: int, move: Move) -> int:
    """The tile one step away; the edge keeps the player in place."""
    row, column = divmod(tile, size)
    down, right = _STEPS[move]
    row, column = min(max(row + down, 0), size - 1), min(max(column + right, 0), size - 1)
    return row * size + column


def slip_probabilities(move: Move, success_rate: float) -> tuple[tuple[Move, float], ...]:
    """The moves that may really happen: the intended one, and each perpendicular with half of the rest."""
    slip = (1.0 - success_rate) / 2.0
    return ((Move((move - 1) % 4), slip), (move, success_rate), (Move((move + 1) % 4), slip))


def transitions(board: Board, success_rate: float, tile: int, move: Move) -> tuple[tuple[float, int], ...]:
    """(probability, next tile) of each thing that may happen; hole and goal are absorbing."""
    if board.is_terminal(tile):
        return ((1.0, tile),)
    return tuple((p, destination(board.size, tile, m)) for m, p in slip_probabilities(move, success_rate))


@cache
def _edges(size: int) -> tuple[int, int]:
    """Bit masks: all tiles but the first column, all but the last column."""
    everything = (1 << size * size) - 1
    first_column = sum(1 << row * size for row in range(size))
    return everything & ~first_column, everything & ~(first_column << (size - 1))


def spread(size: int, tiles: _Mask) -> _Mask:
    """The tiles and their neighbours; an int, or a uint64 array of masks."""
    not_first, not_last = _edges(size)
    sideways = (tiles & not_first) >> 1 | (tiles & not_last) << 1
    return tiles | sideways | tiles >> size | tiles << size  # type: ignore[return-value]  # NumPy's stub says int64


def shortest_path_length(board: Board) -> int | None:
    """Moves from start to goal on dry ice around the holes; None when there is no way.

    Breadth-first search with one bit a tile: each round spreads the reached set in four directions at once.
    """
    goal, open_tiles = 1 << board.goal, (1 << board.size**2) - 1 & ~board.holes
    reached, length = 1 << board.start, 0
    while not reached & goal:
        wider = spread(board.size, reached) & open_tiles
        if wider == reached:
            return None
        reached, length = wider, length + 1
    return length


@lru_cache(maxsize=1024)
def transition_matrices(board: Board, success_rate: float) -> NDArray[np.float64]:
    """T[move, tile, next tile], float64, shape (4, size**2, size**2)."""
    tiles = board.size**2
    matrices = np.zeros((4, tiles, tiles))
    for move, tile in product(Move, range(tiles)):
        for probability, following in transitions(board, success_rate, tile, move):
            matrices[move, tile, following] += probability
    return matrices


@lru_cache(maxsize=4096)
def action_values(board: Board, success_rate: float, horizon: int) -> NDArray[np.float64]:
    """Q[tile, move], shape (size**2, 4): chance to reach the goal within `horizon` >= 1 moves, the first being `move`.

    Undiscounted value iteration with an observation after every move:
    V_0 = [tile is goal];  Q_h = T V_{h-1};  V_h = max_move Q_h.
    """
    matrices = transition_matrices(board, success_rate)
    values = np.zeros(board.size**2)
    values[board.goal] = 1.0
    for _ in range(horizon):
        q = matrices @ values  # (4, tiles)
        values = q.max(axis=0)
    return np.ascontiguousarray(q.T)


def best_moves(board: Board, success_rate: float, horizon: int, tile: int, count: int) -> list[Move]:
    """The best `count` moves from a tile, each for where the one before is meant to lead; fewer where that is the end.

    The highest of `action_values`; of equal ones, which dry ice has many of, the one that leads nearest to the goal.
    None from where the goal cannot be reached.
    """
    values, moves = action_values(board, success_rate, horizon).round(9), list[Move]()
    while len(moves) < count and not board.is_terminal(tile) and values[tile].max() > 0:
        best = [move for move in Move if values[tile, move] == values[tile].max()]
        moves.append(min(best, key=lambda move: _distance(board, destination(board.size, tile, move))))
        tile = destination(board.size, tile, moves[-1])
    return moves


def _distance(board: Board, tile: int) -> float:
    length = shortest_path_length(board._replace(start=tile))
    return inf if length is None else length


@lru_cache(maxsize=4096)
def best_success_rate(board: Board, success_rate: float, turns: int, per_turn: int, per_episode: int) -> float:
    """Highest chance to reach the goal under the turn protocol, which is the optimal return: only the goal pays.

    A turn commits to 1..per_turn moves without seeing what the first of them did, so this is value iteration over
    move sequences, with the turns and the moves left as part of the state:
    V(turns, moves, tile) = max over sequences m_1..m_k, k <= min(per_turn, moves), of
    (T_{m_1} ... T_{m_k} V(turns - 1, moves - k))(tile).  Longer sequences are built from shorter ones from the back.
    """
    matrices = transition_matrices(board, success_rate)
    solved = np.zeros(board.size**2)
    solved[board.goal] = 1.0
    values = dict.fromkeys(range(per_episode + 1), solved)
    for _ in range(turns):
        following = {0: solved}
        for moves in range(1, per_episode + 1):
            options = [solved]
            for count in range(1, min(per_turn, moves) + 1):
                after = values[moves - count][None, :]  # (sequences, tiles)
                for _ in range(count):
                    after = (after @ matrices.transpose(0, 2, 1)).reshape(-1, after.shape[1])
                options.append(after.max(axis=0))
            following[moves] = np.max(options, axis=0)
        values = following
    return float(values[per_episode][board.start])
