"""Boards as in the paper: a random room with its boxes on the targets, played backwards by pulling them away.

Written anew after the law of gym_sokoban's generator in the form the paper's code base gives it: a player who steps
away from a box pulls it along, and at last walks up to three steps on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, TypeAlias

import numpy as np

from actfocus_verl.environments.sokoban.rooms import random_walk_floors
from actfocus_verl.environments.sokoban.rules import Board, offsets
from actfocus_verl.environments.sokoban.solver import inner_tiles

SEARCH_DEPTH: Final = 300
MOST_STATES: Final = 20_000
"""Explored by one search at most; there are fewer below three boxes at size 7 or two at size 8."""

_ROOMS_AT_ONCE: Final = 4
_MOST_WALK: Final = 3
_GO_ON_CHANCE: Final = 0.5
_WALK_CHANCE: Final = 0.5
_WALK_CHANCE_NEAR: Final = 0.8
"""Where the boxes are no more than one tile away from their targets in all."""

_Places: TypeAlias = tuple[int, ...]


def reverse_played_board(rng: np.random.Generator, size: int, boxes: int, rooms: int) -> Board | None:
    """A board in the first of `rooms` random rooms where every box can be pulled off its target; None without one."""
    for _ in range(0, rooms, _ROOMS_AT_ONCE):
        for floor in random_walk_floors(rng, size, _ROOMS_AT_ONCE).tolist():
            tiles = [tile for tile in inner_tiles(size) if floor >> tile & 1]
            if len(tiles) <= boxes + 1:
                continue
            player, *targets = rng.permutation(tiles)[: boxes + 1].tolist()
            player, places, distance = pull_away(size, floor, player, tuple(targets))
            if distance > 0:
                player = _walk(rng, size, floor & ~_mask(places), player, distance)
                return Board(size, ~floor & (1 << size * size) - 1, _mask(targets), _mask(places), player)
    return None


def _mask(tiles: Sequence[int]) -> int:
    return sum(1 << tile for tile in tiles)


@cache
def _distances(size: int) -> list[list[int]]:
    """Manhattan distance of any two tiles."""
    places = [divmod(tile, size) for tile in range(size * size)]
    return [[abs(row - r) + abs(column - c) for r, c in places] for row, column in places]


def pull_away(size: int, floor: int, player: int, targets: _Places) -> tuple[int, _Places, int]:
    """Player, boxes and the boxes' summed distance from their targets in the best state of a depth-first search.

    A state scores its distance times how often the box pulled changed on the way there, the first pull included; with
    one box that is the distance. It scores 0 while a target is covered. The first of the best wins.
    """
    distances, target_mask = _distances(size), _mask(targets)
    best, best_score = (player, targets, 0), 0
    explored: set[tuple[int, int]] = set()
    # player, boxes in the order of their targets, rank of the box pulled last, changes of that, depth
    stack = [(player, targets, -1, 0, 1)]
    while stack and len(explored) < MOST_STATES:
        player, boxes, last, changes, depth = stack.pop()
        occupied = _mask(boxes)
        if (player, occupied) in explored or depth >= SEARCH_DEPTH:
            continue
        explored.add((player, occupied))
        if not (occupied | 1 << player) & target_mask:
            distance = sum(distances[target][box] for target, box in zip(targets, boxes, strict=True))
            if changes * distance > best_score:
                best, best_score = (player, boxes, distance), changes * distance
        for offset in reversed(offsets(size)):  # the stack turns their order round again
            if (floor & ~occupied) >> player + offset & 1:
                pulled, rank, changed = boxes, last, changes
                if occupied >> player - offset & 1:
                    rank = boxes.index(player - offset)
                    pulled, changed = (*boxes[:rank], player, *boxes[rank + 1 :]), changes + (rank != last)
                stack.append((player + offset, pulled, rank, changed, depth + 1))
    return best


def _walk(rng: np.random.Generator, size: int, free: int, player: int, distance: int) -> int:
    """Where the player ends who may walk over `free` tiles, never over one twice."""
    if rng.random() >= (_WALK_CHANCE_NEAR if distance == 1 else _WALK_CHANCE):
        return player
    for _ in range(_MOST_WALK):
        free &= ~(1 << player)
        open_tiles = [player + offset for offset in offsets(size) if free >> player + offset & 1]
        if not open_tiles:
            break
        player = open_tiles[int(rng.integers(len(open_tiles)))]
        if rng.random() >= _GO_ON_CHANCE:
            break
    return player
