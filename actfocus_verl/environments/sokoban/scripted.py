"""Scripted play of Sokoban: compass words describe, so that only a coupled reply names a move before its answer."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from actfocus_verl.environments.scripted import ScriptedPlayer, bearing, mistake
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.sokoban.prompt import ACTION_NAMES, tiles_of
from actfocus_verl.environments.sokoban.rules import Board, Move, after
from actfocus_verl.environments.sokoban.solver import solution_length

HABIT = Move.LEFT

_Place = tuple[int, int]


class Warehouse(Protocol):
    """What the player looks at: of `Sokoban`, which imports this module."""

    board: Board
    limits: Limits


def describe(world: Warehouse) -> str:
    """The places of player, box and target, and which way one lies from the other: a function of the state alone.

    One relation a sentence and one coordinate a relation, with the numbers it follows from: a very small model learns
    to say that. Of several boxes the nearest to the player that is not in place yet, with the target nearest to it.
    """
    board = world.board
    me = divmod(board.player, board.size)
    places = f"I am at {me}."
    if board.solved:
        return f"{places} Every box is on a target."
    box = _nearest(board, board.boxes & ~board.targets, me)
    target = _nearest(board, board.targets & ~board.boxes, box)
    return (
        f"{places} The box is at {box}. The target is at {target}. "
        f"{_relation('Target', box, target)} {_relation('Box', me, box)}"
    )


def _nearest(board: Board, tiles: int, place: _Place) -> _Place:
    row, column = place
    places = [divmod(tile, board.size) for tile in tiles_of(board, tiles)]
    return min(places, key=lambda other: abs(other[0] - row) + abs(other[1] - column))


def _relation(name: str, origin: _Place, place: _Place) -> str:
    rows, columns = (
        (here, there, bearing(there - here, *words))
        for here, there, words in zip(origin, place, (("south", "north"), ("east", "west")), strict=True)
    )
    return f"{name} row {rows[0]} to {rows[1]}: {rows[2]}. {name} column {columns[0]} to {columns[1]}: {columns[2]}."


def plan(world: Warehouse, rng: np.random.Generator, skill: float) -> list[str]:
    """As many moves as a turn may hold, or a single one: turns are scarce, so their number is a choice like each move.

    A board that can no longer be solved has no best move: what is left is habit.
    """
    wanted = world.limits.max_actions_per_turn if rng.random() < skill else 1
    board = world.board
    moves: list[Move] = []
    while len(moves) < wanted and not board.solved:
        move = best_move(board) if rng.random() < skill else None
        if move is None:
            move = mistake(rng, HABIT, tuple(Move))
        moves.append(move)
        board = after(board, move)
    return [ACTION_NAMES[move] for move in moves]


def best_moves(board: Board, count: int) -> list[Move]:
    """The first `count` moves of a shortest solution, or all of them; none where there is no solution."""
    moves: list[Move] = []
    while len(moves) < count and not board.solved and (move := best_move(board)) is not None:
        moves.append(move)
        board = after(board, move)
    return moves


def best_move(board: Board) -> Move | None:
    """The first move of a shortest solution, the same one whenever the state is the same; None without a solution."""
    options = [(length, move) for move in Move if (length := solution_length(after(board, move))) is not None]
    return min(options)[1] if options else None


PLAYER = ScriptedPlayer(plan, describe, skill={"loose": 0.5, "coupled": 0.4}, episodes=2200)
