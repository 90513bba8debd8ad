"""Where boards come from: one function of (preset, split, index), the same in every process.

`ragen` has the boards of the paper's code base, each drawn from its seed: boards repeat, splits overlap.
`clean` takes, length by length, the boards of ever more random rooms: a room belongs to one split, a board occurs once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from threading import Lock
from typing import Final

import numpy as np

from actfocus_verl.environments.distinct import no_such_board
from actfocus_verl.environments.ragen_seeds import board_seed
from actfocus_verl.environments.sokoban.config import SokobanConfig
from actfocus_verl.environments.sokoban.reverse_play import reverse_played_board
from actfocus_verl.environments.sokoban.rooms import draw_rooms, symmetric_images
from actfocus_verl.environments.sokoban.rules import Board
from actfocus_verl.environments.sokoban.solver import Masks, configurations, solution_levels
from actfocus_verl.environments.splits import seeded_generator, split_of

CLEAN_SPLIT_SIZES: Final = {"train": 20_160, "evaluation": 1152, "test": 1152}
"""Whole rounds of nine solution lengths."""

_MOST_BLOCKS: Final = 1024
_MOST_BARREN_BLOCKS: Final = 4
"""In a row, without a new room of the split: there is hardly another one then."""

_STATES_PER_BLOCK: Final = 1 << 16


def make_board(config: SokobanConfig, preset: str, split: str, index: int) -> Board:
    """Board `index` of the split. Raises ConfigurationError when there is no such board."""
    if preset == "clean":
        return clean_boards(config.size, config.boxes, split).board(index)
    return _ragen_board(config.size, config.boxes, split, index)


def solution_lengths(size: int, boxes: int) -> range:
    """Moves of the shortest solutions of `clean`. An episode has ten; at size 5 there is hardly a board beyond five.

    A box needs a push at least, but boards with a push a box and next to no walking are too few.
    """
    return range(2 * boxes - 1, 6 if size == 5 else 10)


def canonical(board: Board) -> str:
    """The board's name under the 8 symmetries of the square: equal exactly for boards that are turned or mirrored."""
    parts = np.array([[board.walls, board.targets, board.boxes, 1 << board.player]], dtype=np.uint64)
    return next(_least_images(board.size, parts))


def canonical_room(board: Board) -> str:
    """The same for the board's room, its walls and targets: what decides its split."""
    return next(_least_images(board.size, np.array([[board.walls, board.targets]], dtype=np.uint64)))


def _least_images(size: int, things: Masks) -> Iterator[str]:
    """A name for each row of masks, shape (things, masks): its least image, all masks being turned together."""
    for images in symmetric_images(size, things).tolist():
        yield f"sokoban/{size}/" + "/".join(map(str, min(zip(*images, strict=True))))


@lru_cache(maxsize=4096)
def _ragen_board(size: int, boxes: int, split: str, index: int) -> Board:
    board = reverse_played_board(board_seed(split, index), size, boxes)
    if board is None:
        raise no_such_board(split, index, "a room where boxes can be pulled", _settings(size, boxes))
    return board


@lru_cache(maxsize=64)
def clean_boards(size: int, boxes: int, split: str) -> CleanBoards:
    """The boards of a clean split, shared by all worlds of a process."""
    return CleanBoards(size, boxes, split)


class CleanBoards:
    """The boards of one clean split, found in order and remembered.

    Board `index` has the solution length `lengths[index % len(lengths)]`. Rooms come in blocks, each from a generator
    of its own; new ones whose canonical name belongs to the split are kept, all their boards are found at once
    (`solution_levels`), shuffled, and handed out by length. So the boards of a length are one fixed sequence, however
    they are asked for. Boards of different rooms cannot be images of each other; those of one room can, when it is
    symmetric itself, and are given once.
    """

    def __init__(self, size: int, boxes: int, split: str) -> None:
        self.lengths = solution_lengths(size, boxes)
        self._size = size
        self._boxes = boxes
        self._split = split
        self._blocks = 0
        self._barren_blocks = 0
        self._rooms: set[str] = set()
        self._found: dict[int, list[Board]] = {length: [] for length in self.lengths}
        self._names: set[str] = set()
        self._waiting: dict[int, deque[list[int]]] = {length: deque() for length in self.lengths}
        self._lock = Lock()

    def board(self, index: int) -> Board:
        """Board `index` >= 0; finds those before it of the same length first. Raises ConfigurationError for none."""
        rank, row = divmod(index, len(self.lengths))
        length = self.lengths[row]
        found = self._found[length]
        if rank >= len(found):
            with self._lock:
                while rank >= len(found):
                    board = self._next(length)
                    if board is None:
                        wanted = f"{rank + 1} boards of solution length {length}"
                        raise no_such_board(self._split, index, wanted, _settings(self._size, self._boxes))
                    found.append(board)
        return found[rank]

    def _next(self, length: int) -> Board | None:
        waiting = self._waiting[length]
        while waiting or (self._blocks < _MOST_BLOCKS and self._barren_blocks < _MOST_BARREN_BLOCKS):
            if not waiting:
                self._load_block()
                continue
            board = Board(self._size, *waiting.popleft())
            name = canonical(board)
            if name not in self._names:
                self._names.add(name)
                return board
        return None

    def _load_block(self) -> None:
        size, boxes = self._size, self._boxes
        rng = seeded_generator("sokoban", "clean", self._split, size, boxes, "rooms", self._blocks)
        self._blocks += 1
        count = max(1, _STATES_PER_BLOCK // len(configurations(size, boxes)))
        walls, targets = draw_rooms(rng, size, boxes, count)
        mine = self._new_rooms(np.stack([walls, targets], axis=1))
        self._barren_blocks = 0 if mine else self._barren_blocks + 1
        walls, targets = walls[mine], targets[mine]
        levels = solution_levels(size, walls, targets, boxes, self.lengths[-1])
        for length in self.lengths:
            if length < len(levels):
                starts = _starts(size, walls, targets, boxes, levels[length])
                self._waiting[length].extend(rng.permutation(starts).tolist())

    def _new_rooms(self, rooms: Masks) -> list[int]:
        """Which of the rooms belong to the split and have not been there before."""
        mine = []
        for number, name in enumerate(_least_images(self._size, rooms)):
            if name not in self._rooms and split_of(name) == self._split:
                self._rooms.add(name)
                mine.append(number)
        return mine


def _starts(size: int, walls: Masks, targets: Masks, boxes: int, level: Masks) -> Masks:
    """The states of a level (see `solution_levels`) in which no box is on a target.

    Rows of (walls, targets, boxes, player's tile), shape (states, 4).
    """
    masks = configurations(size, boxes)
    level = np.where(masks[:, None] & targets == 0, level, np.uint64(0))
    configuration, room = np.nonzero(level)
    tiles = np.arange(size * size, dtype=np.uint64)
    state, player = np.nonzero(level[configuration, room][:, None] >> tiles & np.uint64(1))
    configuration, room = configuration[state], room[state]
    return np.stack([walls[room], targets[room], masks[configuration], player.astype(np.uint64)], axis=1)


def _settings(size: int, boxes: int) -> str:
    return f"env.size={size}, env.boxes={boxes}"
