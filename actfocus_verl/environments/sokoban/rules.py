"""The dynamics of Sokoban: numbers only, no text, no randomness.

A tile is an index `row * size + column`, row 0 at the top; a set of tiles is an int with one bit a tile. The outermost
tiles are always walls, so no step leaves the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache


class Move(IntEnum):
    """The four actions."""

    UP = 0
    DOWN = 1
    LEFT = 2
    RIGHT = 3


@dataclass(frozen=True)
class Board:
    """A state: size x size tiles; bit masks of walls, targets and boxes (as many as targets); the player's tile."""

    size: int
    walls: int
    targets: int
    boxes: int
    player: int

    @property
    def solved(self) -> bool:
        """Whether every box is on a target, which ends the episode."""
        return self.boxes == self.targets

    @property
    def placed(self) -> int:
        """Boxes on targets."""
        return (self.boxes & self.targets).bit_count()


@dataclass(frozen=True)
class Rewards:
    """What an action earns: `step` always, `on_target` or `off_target` when one box more or less is on a target.

    `solved` comes on top when all are. Only the number of boxes on targets counts: from one target straight to the
    next is neither on nor off.
    """

    step: float
    on_target: float
    off_target: float
    solved: float

    def earned(self, placed_before: int, placed: int, boxes: int) -> float:
        """Reward of an action after which `placed` of `boxes` boxes are on targets."""
        reward = self.step
        if placed > placed_before:
            reward += self.on_target
        elif placed < placed_before:
            reward += self.off_target
        return reward + self.solved if placed == boxes else reward


@cache
def offsets(size: int) -> tuple[int, int, int, int]:
    """By move, what it adds to the index of the player's tile."""
    return (-size, size, -1, 1)


def advance(walls: int, boxes: int, player: int, offset: int) -> tuple[int, int]:
    """(player, boxes) after a step by `offset`, which pushes the box in its way; unchanged where that cannot happen."""
    ahead = player + offset
    if walls >> ahead & 1:
        return player, boxes
    if boxes >> ahead & 1:
        behind = ahead + offset
        if (walls | boxes) >> behind & 1:
            return player, boxes
        boxes ^= 1 << ahead | 1 << behind
    return ahead, boxes


def after(board: Board, move: Move) -> Board:
    """The board after `move`: the same where the move cannot happen."""
    player, boxes = advance(board.walls, board.boxes, board.player, offsets(board.size)[move])
    return board if player == board.player else Board(board.size, board.walls, board.targets, boxes, player)
