"""Scripted play of FrozenLake: compass words describe, so that only a coupled reply names a move before its answer."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from actfocus_verl.environments.frozen_lake.config import FrozenLakeConfig
from actfocus_verl.environments.frozen_lake.prompt import ACTION_NAMES
from actfocus_verl.environments.frozen_lake.rules import Board, Move, action_values, destination
from actfocus_verl.environments.scripted import ScriptedPlayer, bearing, mistake
from actfocus_verl.environments.settings import Limits

HABIT = Move.LEFT

TWO_MOVES = 0.5
"""Chance to plan a second move, where the limits allow it and the first is not meant to end the episode: fewer than is
best, which is left to be found."""


class Lake(Protocol):
    """What the player looks at: of `FrozenLake`, which imports this module."""

    board: Board
    config: FrozenLakeConfig
    limits: Limits
    player: int


def describe(world: Lake) -> str:
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


def plan(world: Lake, rng: np.random.Generator, skill: float) -> list[str]:
    """One or two moves, the second for the tile that the first is meant to reach."""
    values = action_values(world.board, world.config.success_rate, world.limits.max_actions_per_episode)
    wanted = 2 if world.limits.max_actions_per_turn >= 2 and rng.random() < TWO_MOVES else 1
    tile = world.player
    moves: list[Move] = []
    while len(moves) < wanted and not world.board.is_terminal(tile):
        # argmax takes the first of equals: the same state always has the same best move
        best = Move(int(np.argmax(values[tile].round(9))))
        move = best if rng.random() < skill else mistake(rng, HABIT, tuple(Move))
        moves.append(move)
        tile = destination(world.board.size, tile, move)
    return [ACTION_NAMES[move] for move in moves]


PLAYER = ScriptedPlayer(plan, describe, skill={"loose": 0.5, "coupled": 0.3})
