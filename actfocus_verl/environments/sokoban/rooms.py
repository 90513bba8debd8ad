"""Rooms: floors drawn by random walks or from the list of all there are, and what turns and mirrors make of them."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.environments.sokoban.solver import Masks, inner_tiles

LARGEST_LISTED_SIZE: Final = 6
"""Up to this size every floor is tried: 2**16 patterns."""

_ONE = np.uint64(1)
_TURN_CHANCE: Final = 0.35
_DIRECTIONS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))
_FOOTPRINTS: Final = (
    ((0, -1), (0, 0), (0, 1)),
    ((-1, 0), (0, 0), (1, 0)),
    ((0, -1), (0, 0), (1, 0)),
    ((0, -1), (0, 0), (1, -1), (1, 0)),
    ((0, 0), (0, 1), (1, 0)),
)


def random_walk_floor(rng: Random, size: int) -> int:
    """A connected floor, as a mask: the footprints of a random walk.

    gym_sokoban's generator, number by number: steps, each after a turn into a random direction with probability 0.35
    and each leaving one of five footprints; the wall around stops the walk.
    """
    direction = rng.randrange(len(_DIRECTIONS))
    row, column = (rng.randint(1, size - 1) for _ in range(2))
    tile, floor = row * size + column, 0
    for _ in range(_walk_steps(size)):
        if rng.random() < _TURN_CHANCE:
            direction = rng.randrange(len(_DIRECTIONS))
        tile = int(_walk(size)[direction, tile])
        floor |= int(_footprints(size)[rng.randrange(len(_FOOTPRINTS)), tile])
    return floor


def random_walk_floors(rng: np.random.Generator, size: int, count: int) -> Masks:
    """`count` connected floors, as masks, with the law of `random_walk_floor`."""
    steps = _walk_steps(size)
    drawn = rng.integers(len(_DIRECTIONS), size=(steps + 1, count))
    turns = rng.random((steps + 1, count)) < _TURN_CHANCE
    latest = np.maximum.accumulate(np.where(turns, np.arange(steps + 1)[:, None], 0), axis=0)
    directions = drawn[latest, np.arange(count)]
    row, column = rng.integers(1, size, size=(2, count))
    tile = row * size + column
    path = np.empty((steps, count), dtype=np.intp)
    for step in range(steps):
        tile = _walk(size)[directions[step + 1], tile]
        path[step] = tile
    footprints = _footprints(size)[rng.integers(len(_FOOTPRINTS), size=(steps, count)), path]
    floors: Masks = np.bitwise_or.reduce(footprints, axis=0)
    return floors


def _walk_steps(size: int) -> int:
    return int(3.4 * size)


@cache
def _walk(size: int) -> NDArray[np.intp]:
    """Where a step leads, shape (directions, tiles): always to an inner tile."""
    rows, columns = np.divmod(np.arange(size * size), size)
    return np.array([np.clip(rows + r, 1, size - 2) * size + np.clip(columns + c, 1, size - 2) for r, c in _DIRECTIONS])


@cache
def _footprints(size: int) -> Masks:
    """The inner tiles of each footprint around each inner tile, as masks, shape (footprints, tiles)."""
    inner = set(inner_tiles(size))
    masks = np.zeros((len(_FOOTPRINTS), size * size), dtype=np.uint64)
    for number, footprint in enumerate(_FOOTPRINTS):
        for tile in inner:
            marked = {tile + r * size + c for r, c in footprint}
            masks[number, tile] = sum(1 << other for other in marked & inner)
    return masks


@cache
def all_floors(size: int) -> Masks:
    """All connected floors of a room with `size` <= LARGEST_LISTED_SIZE tiles a side, as masks."""
    tiles = np.array(inner_tiles(size), dtype=np.uint64)
    patterns = np.arange(1, 1 << len(tiles), dtype=np.uint64)[:, None]
    floors = ((patterns >> np.arange(len(tiles), dtype=np.uint64) & _ONE) << tiles).sum(axis=1, dtype=np.uint64)
    step = np.uint64(size)
    reached = floors & (~floors + _ONE)  # the lowest tile of each
    for _ in range(len(tiles)):
        reached |= (reached << step | reached >> step | reached << _ONE | reached >> _ONE) & floors
    connected: Masks = floors[reached == floors]
    return connected


def draw_rooms(rng: np.random.Generator, size: int, boxes: int, count: int) -> tuple[Masks, Masks]:
    """(walls, targets) of at most `count` random rooms, each shape (rooms,): those with room for player and boxes."""
    if size <= LARGEST_LISTED_SIZE:
        floors = rng.choice(all_floors(size), count)
    else:
        floors = random_walk_floors(rng, size, count)
    tiles = np.array(inner_tiles(size), dtype=np.uint64)
    is_floor = (floors[:, None] >> tiles & _ONE).astype(np.bool_)
    # the floor tiles with the highest random numbers become targets
    chosen = np.argsort(np.where(is_floor, rng.random(is_floor.shape), -1.0), axis=1)[:, -boxes:]
    targets = (_ONE << tiles[chosen]).sum(axis=1, dtype=np.uint64)
    wide = is_floor.sum(axis=1) > boxes + 1
    walls = ~floors & np.uint64((1 << size * size) - 1)
    return walls[wide], targets[wide]


@cache
def _image_weights(size: int) -> Masks:
    """The mask of the tile that each symmetry of the square sends each tile to, shape (tiles, 8)."""
    grid = np.arange(size * size).reshape(size, size)
    images = [np.rot90(side, turns).ravel() for side in (grid, grid.T) for turns in range(4)]
    return _ONE << np.argsort(images, axis=1).T.astype(np.uint64)


def symmetric_images(size: int, masks: Masks) -> Masks:
    """What the 8 symmetries of the square make of sets of tiles: shape (..., 8) for masks of shape (...)."""
    tiles = np.arange(size * size, dtype=np.uint64)
    return (masks[..., None] >> tiles & _ONE) @ _image_weights(size)
