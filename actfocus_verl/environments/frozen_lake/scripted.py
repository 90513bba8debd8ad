"""Scripted play of FrozenLake: compass words describe, so that only a coupled reply names a move before its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.environments.frozen_lake.prompt import ACTION_NAMES
from actfocus_verl.environments.frozen_lake.rules import Move, action_values, destination
from actfocus_verl.environments.scripted import ScriptedPlayer, bearing, mistake

if TYPE_CHECKING:
    from actfocus_verl.environments.frozen_lake.world import FrozenLake

HABIT = Move.LEFT

TWO_MOVES = 0.5
"""Chance to plan a second move, where the limits allow it and the first is not meant to end the episode: fewer than is
best, which is left to be found."""


def describe(world: FrozenLake) -> str:
    """Position, goal, dangers and the goal's bearing in words: a function of the state alone.

    Worded so that a very small model learns it within minutes: places as the state words them, to be copied, and the
    bearing one coordinate at a time, with the two numbers it follows from.
    """
    size = world.board.size
    (row, column), (goal_row, goal_column) = divmod(world.player, size), divmod(world.board.goal, size)
    holes = ", ".join(str(divmod(tile, size)) for tile in range(size * size) if world.board.is_hole(tile))
    return (
        f"I am at ({row}, {column}). The goal is at ({goal_row}, {goal_column}). Dangers: {holes or 'none'}. "
        f"Row {row} to {goal_row}: {bearing(goal_row - row, 'south', 'north')}. "
        f"Column {column} to {goal_column}: {bearing(goal_column - column, 'east', 'west')}."
    )


def best_moves(world: FrozenLake, count: int) -> list[Move]:
    """The best `count` moves from where the player is, each for the tile that the one before is meant to reach.

    Fewer where that is hole or goal, and none where the goal cannot be reached.
    """
    values = action_values(world.board, world.config.success_rate, world.limits.max_actions_per_episode)
    tile, moves = world.player, list[Move]()
    while len(moves) < count and not world.board.is_terminal(tile) and values[tile].max() > 0:
        moves.append(best_move(values[tile]))
        tile = destination(world.board.size, tile, moves[-1])
    return moves


def best_move(values: NDArray[np.float64]) -> Move:
    """The first move of the highest value, so that the same state always has the same one. values: (4,)."""
    return Move(int(np.argmax(values.round(9))))


def plan(world: FrozenLake, rng: np.random.Generator, skill: float) -> list[str]:
    """One or two moves, the second for the tile that the first is meant to reach."""
    values = action_values(world.board, world.config.success_rate, world.limits.max_actions_per_episode)
    wanted = 2 if world.limits.max_actions_per_turn >= 2 and rng.random() < TWO_MOVES else 1
    tile = world.player
    moves: list[Move] = []
    while len(moves) < wanted and not world.board.is_terminal(tile):
        move = best_move(values[tile]) if rng.random() < skill else mistake(rng, HABIT, tuple(Move))
        moves.append(move)
        tile = destination(world.board.size, tile, move)
    return [ACTION_NAMES[move] for move in moves]


PLAYER = ScriptedPlayer(plan, describe, skill={"loose": 0.5, "coupled": 0.3})
