"""Scripted play of Sudoku: descriptions look at cells, so that only a coupled reply names a move before its answer."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from actfocus_verl.environments.scripted import ScriptedPlayer, mistake
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.sudoku.prompt import format_placement, place, spaced
from actfocus_verl.environments.sudoku.rules import Board, Placement, candidates, is_valid

HABIT = 1

TWO_MOVES = 0.7
"""Chance to fill a second cell, where the limits allow it and there is one."""


class Grid(Protocol):
    """What the player looks at: of `Sudoku`, which imports this module."""

    board: Board
    digits: list[int]
    limits: Limits


def targets(world: Grid) -> list[int]:
    """The one or two cells to be filled next: blanks with the fewest candidates, in reading order.

    The player's own wrong digits come after them, and last the blanks that the solution's digit cannot enter yet. The
    second cell is a blank with one candidate: for it, nothing hangs on what is written into the first.
    """
    board, digits = world.board, world.digits
    count = {cell: len(candidates(board.size, digits, cell)) for cell in board.blanks}
    takes = [cell for cell in board.blanks if is_valid(board, digits, Placement(cell, board.solution[cell]))]
    order = sorted(takes or board.blanks, key=lambda cell: (digits[cell] != 0, count[cell], cell))
    return [order[0], *(cell for cell in order[1:2] if count[cell] == 1 and not digits[cell])]


def describe(world: Grid) -> str:
    """The cells to be filled next, with what they may hold: the state alone.

    Worded so that a very small model learns it within minutes: what the state says under a name of its own is repeated,
    row and column as the answer needs them.
    """
    size, digits = world.board.size, world.digits
    return " ".join(
        f"{which} is {place(size, cell)}. Row {cell // size + 1}, column {cell % size + 1}. "
        f"It is a blank that may be {spaced(candidates(size, digits, cell))}."
        for which, cell in zip(("First", "Second"), targets(world), strict=False)
    )


def plan(world: Grid, rng: np.random.Generator, skill: float) -> list[str]:
    """A digit for each of the cells the description looks at, or for the first only."""
    board = world.board
    wanted = 2 if world.limits.max_actions_per_turn >= 2 and rng.random() < TWO_MOVES else 1
    moves: list[str] = []
    for cell in targets(world)[:wanted]:
        digit = board.solution[cell] if rng.random() < skill else mistake(rng, HABIT, range(1, board.size + 1))
        moves.append(format_placement(board.size, Placement(cell, digit)))
    return moves


PLAYER = ScriptedPlayer(plan, describe, skill={"loose": 0.3, "coupled": 0.3}, episodes=1400, batch_size=1)
