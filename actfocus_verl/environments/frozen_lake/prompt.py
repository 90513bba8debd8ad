"""What the model is told about a lake: our own words, as short as they can be."""

from __future__ import annotations

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.frozen_lake.rules import Board, Move
from actfocus_verl.environments.settings import PAPER, Limits

ACTION_NAMES = {Move.LEFT: "Left", Move.DOWN: "Down", Move.RIGHT: "Right", Move.UP: "Up"}


def system_prompt(board: Board, limits: Limits, success_rate: float) -> str:
    """Task, legend, actions, limits: at most 110 words.

    The paper's prompts name the game without its rules, and that the ice is slippery without saying how much.
    """
    actions = f"Actions: {', '.join(ACTION_NAMES.values())}. {action_rules(limits)}"
    if limits.prompts == PAPER:
        return (
            "This is the game FrozenLake. Every state gives the places of start, goal, player and holes, counted from "
            "zero, and the grid.\n"
            "The ice is slippery: you may slide to a tile that you did not mean.\n"
            f"P player, _ empty, O hole, G goal, X player in a hole, √ player on the goal.\n{actions}\n"
            "The answer names actions in order, for example <answer>Down || Right || Right</answer>."
        )
    last = (board.size - 1, board.size - 1)
    slip = (1.0 - success_rate) / 2.0
    return (
        "You cross a frozen lake. Reach the goal and do not fall into a hole.\n"
        f"The ice is slippery: a move goes as intended with chance {success_rate:g} "
        f"and to either side with chance {slip:.3g}. The edge stops you.\n"
        "P you, _ ice, O hole, G goal, X you in a hole, √ you on the goal. "
        f"Places are (row, column), from (0, 0) at the top left to {last} at the bottom right.\n"
        f"{actions} The goal gives reward 1."
    )


def render(board: Board, player: int, *, paper: bool) -> str:
    """The coordinates of player, goal and holes, then the grid. paper: with the size and the start, as the paper's."""
    size = board.size
    holes = ", ".join([str(divmod(tile, size)) for tile in range(size * size) if board.is_hole(tile)])
    start, goal, you = (divmod(tile, size) for tile in (board.start, board.goal, player))
    if paper:
        places = f"Size: {size} rows, {size} columns. Start: {start}. Goal: {goal}. Player: {you}."
        places += f" Holes: {holes}." if holes else ""
    else:
        places = f"You: {you}. Goal: {goal}. Holes: {holes or 'none'}."
    symbols = [_symbol(board, player, tile) for tile in range(size * size)]
    return "\n".join([places, *("".join(symbols[row : row + size]) for row in range(0, size * size, size))])


def _symbol(board: Board, player: int, tile: int) -> str:
    if tile == player:
        return "X" if board.is_hole(tile) else "√" if tile == board.goal else "P"
    return "O" if board.is_hole(tile) else "G" if tile == board.goal else "_"
