"""What the model is told about a lake: our own words, as short as they can be."""

from __future__ import annotations

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.frozen_lake.rules import Board, Move
from actfocus_verl.environments.settings import Limits

ACTION_NAMES = {Move.LEFT: "Left", Move.DOWN: "Down", Move.RIGHT: "Right", Move.UP: "Up"}

_FLAWED_LAST_COORDINATE = (5, 5)
"""The paper's code base names this corner whatever the size of the grid: flaw 5, kept in `ragen`."""


def system_prompt(board: Board, limits: Limits, success_rate: float, *, flawed_coordinates: bool) -> str:
    """Task, legend, actions, limits: at most 110 words."""
    last = _FLAWED_LAST_COORDINATE if flawed_coordinates else (board.size - 1, board.size - 1)
    slip = (1.0 - success_rate) / 2.0
    return (
        "You cross a frozen lake. Reach the goal and do not fall into a hole.\n"
        f"The ice is slippery: a move goes as intended with chance {success_rate:g} "
        f"and to either side with chance {slip:.3g}. The edge stops you.\n"
        "P you, _ ice, O hole, G goal, X you in a hole, √ you on the goal. "
        f"Places are (row, column), from (0, 0) at the top left to {last} at the bottom right.\n"
        f"Actions: {', '.join(ACTION_NAMES.values())}. {action_rules(limits)} The goal gives reward 1."
    )


def render(board: Board, player: int) -> str:
    """The coordinates of player, goal and holes, then the grid."""
    size = board.size
    holes = [str(divmod(tile, size)) for tile in range(size * size) if board.is_hole(tile)]
    places = f"You: {divmod(player, size)}. Goal: {divmod(board.goal, size)}. Holes: {', '.join(holes) or 'none'}."
    symbols = [_symbol(board, player, tile) for tile in range(size * size)]
    return "\n".join([places, *("".join(symbols[row : row + size]) for row in range(0, size * size, size))])


def _symbol(board: Board, player: int, tile: int) -> str:
    if tile == player:
        return "X" if board.is_hole(tile) else "√" if tile == board.goal else "P"
    return "O" if board.is_hole(tile) else "G" if tile == board.goal else "_"
