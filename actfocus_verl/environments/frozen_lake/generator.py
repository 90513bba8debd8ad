"""Where boards come from: one function of (preset, split, index), the same in every process.

`ragen` has the boards of the paper's code base, each drawn from its seed: boards repeat, splits overlap, a quarter of
them needs one move.
`clean` draws until a board belongs to the split, has the solution length whose turn it is, and is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.environments.distinct import DistinctBoards, no_such_board
from actfocus_verl.environments.frozen_lake.config import FrozenLakeConfig
from actfocus_verl.environments.frozen_lake.rules import Board, shortest_path_length, spread
from actfocus_verl.environments.ragen_seeds import board_seed

CLEAN_SPLIT_SIZES = {"train": 6000, "evaluation": 1024, "test": 1536}

_ByteTables: TypeAlias = "tuple[tuple[int, ...], ...]"
_Masks: TypeAlias = "NDArray[np.uint64]"
_ONE = np.uint64(1)
_MAX_DRAWS = 10_000
_BATCHES = (64, *(1024 for _ in range(100)))
"""Candidates drawn at a time: most boards are found among the first few, the last of the longest need thousands."""


def make_board(config: FrozenLakeConfig, preset: str, split: str, index: int) -> Board:
    """Board `index` of the split. Raises ConfigurationError when there is no such board."""
    if preset == "clean":
        return clean_boards(config.size, config.frozen_probability, split).board(index)
    return _ragen_board(config.size, config.frozen_probability, split, index)


@lru_cache(maxsize=1 << 14)  # most boards are drawn several times
def canonical(board: Board) -> str:
    """The board's name under the 8 symmetries of the square: equal exactly for boards that are turned or mirrored."""
    name, images = _canonical_pair(board.size, board.start, board.goal)
    holes = min([_permute(board.holes, tables) for tables in images])
    return f"{name}/{holes}"


@cache
def _symmetries(size: int) -> tuple[tuple[int, ...], ...]:
    """For each of the 8 symmetries, where it sends each tile."""
    grid = np.arange(size * size).reshape(size, size)
    images = [np.rot90(side, turns) for side in (grid, grid.T) for turns in range(4)]
    return tuple(tuple(int(tile) for tile in np.argsort(image.ravel())) for image in images)


@cache
def _byte_tables(size: int, symmetry: int) -> _ByteTables:
    """Tables that turn a mask byte by byte: entry b of table k is the image of byte b at position k."""
    to = _symmetries(size)[symmetry]
    return tuple(
        tuple(sum(1 << to[low + bit] for bit in range(min(8, len(to) - low)) if byte >> bit & 1) for byte in range(256))
        for low in range(0, len(to), 8)
    )


@cache
def _canonical_pair(size: int, start: int, goal: int) -> tuple[str, tuple[_ByteTables, ...]]:
    """The least image of (start, goal) as text, and the tables of the symmetries that reach it: mostly a single one."""
    images = [(to[start], to[goal]) for to in _symmetries(size)]
    least = min(images)
    tables = tuple(_byte_tables(size, k) for k, image in enumerate(images) if image == least)
    return f"frozen_lake/{size}/{least[0]}/{least[1]}", tables


def _permute(mask: int, tables: _ByteTables) -> int:
    image = 0
    for table in tables:
        image |= table[mask & 255]
        mask >>= 8
    return image


def _draw_holes(rng: np.random.Generator, size: int, frozen_probability: float, count: int) -> _Masks:
    """`count` masks, each tile a hole with probability 1 - frozen_probability."""
    holes = np.zeros((count, 64), dtype=np.bool_)
    holes[:, : size * size] = rng.random(count * size * size).reshape(count, -1) >= frozen_probability
    return np.packbits(holes, axis=1, bitorder="little").view("<u8")[:, 0]


@lru_cache(maxsize=4096)
def _ragen_board(size: int, frozen_probability: float, split: str, index: int) -> Board:
    """The board of the index's seed, number by number as the code base draws it: tiles, start, goal, until they fit."""
    rng = np.random.default_rng(board_seed(split, index))
    for _ in range(_MAX_DRAWS):
        is_hole = rng.choice(2, size * size, p=[frozen_probability, 1 - frozen_probability])
        start, goal = (int(row * size + column) for row, column in (rng.integers(size, size=2) for _ in range(2)))
        holes = int.from_bytes(np.packbits(is_hole, bitorder="little"), "little")
        board = Board(size, start, goal, holes & ~(1 << start | 1 << goal))
        if start != goal and shortest_path_length(board) is not None:
            return board
    raise no_such_board(split, index, "a solvable board", _settings(size, frozen_probability))


@lru_cache(maxsize=64)
def clean_boards(size: int, frozen_probability: float, split: str) -> DistinctBoards[Board]:
    """The boards of a clean split: index i has solution length 1 + i % L, L = 2 (size - 1)."""

    def candidates(rng: np.random.Generator, length: int) -> Iterator[Board]:
        return _candidates(rng, size, frozen_probability, length)

    lengths = range(1, 2 * (size - 1) + 1)
    return DistinctBoards("frozen_lake", split, lengths, candidates, canonical, _settings(size, frozen_probability))


def _candidates(rng: np.random.Generator, size: int, frozen_probability: float, length: int) -> Iterator[Board]:
    """Random boards whose shortest solution has `length` moves, distributed as among all random boards."""
    pairs = _pairs(size, length)
    for count in _BATCHES:
        starts, goals = pairs.take(rng.integers(len(pairs), size=count), axis=0).T
        holes = _draw_holes(rng, size, frozen_probability, count)
        holes &= ~(_ONE << starts | _ONE << goals)
        fits = _has_length(size, starts, goals, holes, length)
        for start, goal, mask in zip(starts[fits].tolist(), goals[fits].tolist(), holes[fits].tolist(), strict=True):
            yield Board(size, start, goal, mask)


@cache
def _pairs(size: int, length: int) -> _Masks:
    """All (start, goal) that some holes may place `length` moves apart: near enough, and of the right parity."""
    tiles = [divmod(tile, size) for tile in range(size * size)]
    return np.array(
        [
            (start, goal)
            for start, (r, c) in enumerate(tiles)
            for goal, (x, y) in enumerate(tiles)
            if 0 < abs(r - x) + abs(c - y) <= length and (abs(r - x) + abs(c - y) - length) % 2 == 0
        ],
        dtype=np.uint64,
    )


def _has_length(size: int, starts: _Masks, goals: _Masks, holes: _Masks, length: int) -> NDArray[np.bool_]:
    """Which boards have a shortest solution of exactly `length` moves: `shortest_path_length`, many at a time."""
    around, open_tiles = _around(size), ~holes
    reached = _ONE << starts if length == 1 else around[starts] & open_tiles
    for _ in range(length - 2):
        reached = spread(size, reached) & open_tiles
    # What length - 1 moves reach holds all that fewer reach: not yet the goal, but a tile beside it.
    exact: NDArray[np.bool_] = (reached & _ONE << goals == 0) & (reached & around[goals] != 0)
    return exact


@cache
def _around(size: int) -> _Masks:
    """For each tile, itself and its neighbours."""
    return spread(size, _ONE << np.arange(size * size, dtype=np.uint64)) & np.uint64((1 << size * size) - 1)


def _settings(size: int, frozen_probability: float) -> str:
    return f"env.size={size}, env.frozen_probability={frozen_probability:g}"
