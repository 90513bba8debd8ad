"""The boards of the paper's code base: a random room with its boxes on the targets, played backwards.

Written anew after what that code does, every random number in its order: a walk makes the floor, player and targets are
drawn, the boxes are pulled away by a player who never steps away from a box without it, and the player walks off.

A seed without a board is replaced, there by Python's `hash` of its digits, which differs from process to process. Here
`stable_hash` takes its place. Of the training seeds from 10,000 on, 11,482 and 12,230 are the first (6x6, one box); no
evaluation seed from 123 to 634 is. All others give the code base's boards.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final, TypeAlias

import numpy as np

from actfocus_verl.environments.sokoban.rooms import random_walk_floor
from actfocus_verl.environments.sokoban.rules import Board, offsets
from actfocus_verl.environments.sokoban.solver import inner_tiles
from actfocus_verl.environments.splits import stable_hash

SEARCH_DEPTH: Final = 300
MOST_STATES: Final = 300_000
"""Explored by one search at most: reached with three boxes from size 7 on."""

_MOST_SEEDS: Final = 1000
_ROOMS_PER_SEED: Final = 4
_MOST_WALK: Final = 3
_GO_ON_CHANCE: Final = 0.5
_WALK_CHANCE: Final = 0.5
_WALK_CHANCE_NEAR: Final = 0.8
"""Where the boxes are no more than one tile away from their targets in all."""

_Places: TypeAlias = tuple[int, ...]


def reverse_played_board(seed: int, size: int, boxes: int) -> Board | None:
    """The board of a seed in [0, 2**32), or of the first seed in its place that has one; None if there is none."""
    for _ in range(_MOST_SEEDS):
        board = board_of_seed(seed, size, boxes)
        if board is not None:
            return board
        seed = stable_hash(str(seed), bits=32)
    return None


def board_of_seed(seed: int, size: int, boxes: int) -> Board | None:
    """A board in the first of four random rooms where every box can be pulled off its target.

    None without one, and once a room has no tile to spare beside those of player and boxes.
    """
    rng, places_rng = Random(seed), np.random.RandomState(seed)
    for _ in range(_ROOMS_PER_SEED):
        floor = random_walk_floor(rng, size)
        tiles = [tile for tile in inner_tiles(size) if floor >> tile & 1]
        if len(tiles) <= boxes + 1:
            return None
        player, *targets = (tiles.pop(places_rng.randint(len(tiles))) for _ in range(boxes + 1))
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
    one box that is the distance. It scores 0 while a target is covered. The first of the best wins. A box that was
    pulled is another than one that never was, even back on its target: such states are explored apart.
    """
    distances, target_mask = _distances(size), _mask(targets)
    best, best_score = (player, targets, 0), 0
    explored: set[tuple[int, int, int]] = set()
    # player, boxes in the order of their targets, which of them were pulled, rank of the last, changes of that, depth
    stack = [(player, targets, 0, -1, 0, 1)]
    while stack and len(explored) < MOST_STATES:
        player, boxes, pulled, last, changes, depth = stack.pop()
        occupied = _mask(boxes)
        if (player, occupied, pulled) in explored or depth >= SEARCH_DEPTH:
            continue
        explored.add((player, occupied, pulled))
        if not (occupied | 1 << player) & target_mask:
            distance = sum(distances[target][box] for target, box in zip(targets, boxes, strict=True))
            if changes * distance > best_score:
                best, best_score = (player, boxes, distance), changes * distance
        for offset in reversed(offsets(size)):  # the stack turns their order round again
            if (floor & ~occupied) >> player + offset & 1:
                following = (boxes, pulled, last, changes)
                if occupied >> player - offset & 1:
                    rank = boxes.index(player - offset)
                    moved = (*boxes[:rank], player, *boxes[rank + 1 :])
                    following = (moved, pulled | 1 << rank, rank, changes + (rank != last))
                stack.append((player + offset, *following, depth + 1))
    return best


def _walk(rng: Random, size: int, free: int, player: int, distance: int) -> int:
    """Where the player ends who may walk over `free` tiles, never over one twice."""
    if rng.random() > (_WALK_CHANCE_NEAR if distance == 1 else _WALK_CHANCE):
        return player
    for step in range(1, _MOST_WALK + 1):
        free &= ~(1 << player)
        open_tiles = [player + offset for offset in offsets(size) if free >> player + offset & 1]
        if not open_tiles:
            break
        player = rng.choice(open_tiles)
        if step < _MOST_WALK and rng.random() > _GO_ON_CHANCE:
            break
    return player
