"""Scripted play with visible reasoning: what the tiny policy of the CPU platform is first taught.

The reasoning says where the player, the goal and the dangers are. In `loose` demonstrations it stops there, so the
decision is made by the action tokens; in `coupled` ones it ends by naming the moves the answer then repeats, so the
decision is made by the reasoning. Directions are compass words in the description, so that only a coupled reply
names a move before its answer.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from actfocus_verl.environments.base import require_number
from actfocus_verl.environments.frozen_lake.prompt import ACTION_NAMES
from actfocus_verl.environments.frozen_lake.rules import Move, action_values, destination
from actfocus_verl.environments.frozen_lake.world import FrozenLake
from actfocus_verl.environments.protocol import ACTION_SEPARATOR
from actfocus_verl.errors import ConfigurationError

Coupling = Literal["loose", "coupled"]
COUPLINGS: tuple[Coupling, ...] = ("loose", "coupled")

HABIT = Move.LEFT
"""What a player with a habit does without thinking."""


def demonstrate(
    world: FrozenLake,
    rng: np.random.Generator,
    *,
    coupling: Coupling = "loose",
    skill: float = 0.7,
    two_moves: float = 0.7,
    habit: float = 0.0,
) -> str:
    """One reply to the present state of `world`, which is left as it is.

    skill: chance that a move is the best one, and not a thoughtless one. habit: chance that a thoughtless move is
    HABIT; the others are drawn uniformly from all four. two_moves: chance to plan a second move, where the limits allow
    it and the first is not meant to end the episode.
    """
    if coupling not in COUPLINGS:
        raise ConfigurationError("coupling", coupling, "unknown coupling", f"Use one of: {', '.join(COUPLINGS)}")
    require_number("skill", skill, low=0.0, high=1.0)
    require_number("two_moves", two_moves, low=0.0, high=1.0)
    require_number("habit", habit, low=0.0, high=1.0)
    names = [ACTION_NAMES[move] for move in _plan(world, rng, skill, two_moves, habit)]
    reasoning = describe(world)
    if coupling == "coupled":
        reasoning += f" So I go {' then '.join(names)}."
    answer = f" {ACTION_SEPARATOR} ".join(names)
    return f"<think> {reasoning} </think> <answer> {answer} </answer>"


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
        f"Row {row} to {goal_row}: {_bearing(goal_row - row, 'south', 'north')}. "
        f"Column {column} to {goal_column}: {_bearing(goal_column - column, 'east', 'west')}."
    )


def _bearing(difference: int, ahead: str, behind: str) -> str:
    if difference == 0:
        return "level"
    return ahead if difference > 0 else behind


def _plan(world: FrozenLake, rng: np.random.Generator, skill: float, two_moves: float, habit: float) -> list[Move]:
    """One or two moves, the second for the tile that the first is meant to reach."""
    values = action_values(world.board, world.config.success_rate, world.limits.max_actions_per_episode)
    wanted = 2 if world.limits.max_actions_per_turn >= 2 and rng.random() < two_moves else 1
    tile = world.player
    moves: list[Move] = []
    while len(moves) < wanted and not world.board.is_terminal(tile):
        if rng.random() < skill:
            # argmax takes the first of equals: the same state always has the same best move
            move = Move(int(np.argmax(values[tile].round(9))))
        else:
            move = HABIT if rng.random() < habit else Move(int(rng.integers(4)))
        moves.append(move)
        tile = destination(world.board.size, tile, move)
    return moves
