"""What the model is told about a warehouse: our own words, as short as they can be."""

from __future__ import annotations

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.settings import PAPER, Limits
from actfocus_verl.environments.sokoban.rules import Board, Move, Rewards

ACTION_NAMES = {Move.UP: "Up", Move.DOWN: "Down", Move.LEFT: "Left", Move.RIGHT: "Right"}


_LEGEND = "# wall, _ floor, O target, X box, √ box on target, P you, S you on target."


def system_prompt(limits: Limits, rewards: Rewards) -> str:
    """Task, legend, actions, limits, rewards: at most 110 words. In the paper's prompts no rewards, but an example."""
    actions = f"Actions: {', '.join(ACTION_NAMES.values())}. {action_rules(limits)}"
    if limits.prompts == PAPER:
        return (
            "This is Sokoban: you walk in a warehouse and must get every box onto a target.\n"
            "A step towards a box beside you moves it one tile further. Boxes do not go through walls, and none can be "
            f"pulled.\n{_LEGEND}\n{actions}\n"
            "The answer names actions in order, for example <answer>Down || Left || Left</answer>."
        )
    return (
        "You work in a warehouse. Bring every box onto a target.\n"
        "Moving into a box pushes it, if the tile behind it is free. A blocked move changes nothing. You cannot pull.\n"
        f"{_LEGEND} Places are (row, column), from (0, 0) at the top left.\n"
        f"{actions}\n"
        f"Rewards: {rewards.step:g} a move, {rewards.on_target:+g} a box onto a target, "
        f"{rewards.off_target:+g} a box off one, {rewards.solved:+g} when all are on targets."
    )


def render(board: Board, *, coordinates: bool) -> str:
    """The grid; before it, where wanted, the coordinates of player, boxes and targets."""
    size = board.size
    symbols = "".join([_symbol(board, tile) for tile in range(size * size)])
    grid = "\n".join(symbols[row : row + size] for row in range(0, size * size, size))
    return f"{_places(board)}\n{grid}" if coordinates else grid


def tiles_of(board: Board, mask: int) -> list[int]:
    """The tiles of a mask, in the order of reading."""
    return [tile for tile in range(board.size**2) if mask >> tile & 1]


def _places(board: Board) -> str:
    boxes, targets = (
        ", ".join(str(divmod(tile, board.size)) for tile in tiles_of(board, mask))
        for mask in (board.boxes, board.targets)
    )
    plural = ("Box", "Target") if board.boxes.bit_count() == 1 else ("Boxes", "Targets")
    return f"You: {divmod(board.player, board.size)}. {plural[0]}: {boxes}. {plural[1]}: {targets}."


def _symbol(board: Board, tile: int) -> str:
    if board.walls >> tile & 1:
        return "#"
    is_target = board.targets >> tile & 1
    if tile == board.player:
        return "S" if is_target else "P"
    if board.boxes >> tile & 1:
        return "√" if is_target else "X"
    return "O" if is_target else "_"
