"""What the model is told about a grid, and how it names a move: our own words, as short as they can be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import isqrt

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.sudoku.rules import Board, Placement, Rewards, candidates

_LONGEST_ACTION = 100
"""Characters; generous with whitespace."""

_ACTION = re.compile(
    r"\s*(?:place\s+([1-9])\s+at\s+row\s+([1-9])\s+col\s+([1-9])|([1-9])\s*,\s*([1-9])\s*,\s*([1-9]))\s*",
    re.ASCII | re.IGNORECASE,
)
"""Never two ways to match the same text, hence linear."""


def parse_placement(size: int, text: str) -> Placement | None:
    """The move that `place 3 at row 1 col 2` or `1,2,3` names; None for other text or what is not on the grid."""
    match = _ACTION.fullmatch(text) if len(text) <= _LONGEST_ACTION else None
    if match is None:
        return None
    digit, row, column = (int(match[group]) for group in ((1, 2, 3) if match[1] else (6, 4, 5)))
    return Placement((row - 1) * size + column - 1, digit) if max(digit, row, column) <= size else None


def format_placement(size: int, placement: Placement) -> str:
    """The short name of a move: `1,2,3` is row, column, digit."""
    row, column = divmod(placement.cell, size)
    return f"{row + 1},{column + 1},{placement.digit}"


def place(size: int, cell: int) -> str:
    """A cell as the state names it: (row, column), from (1, 1)."""
    row, column = divmod(cell, size)
    return f"({row + 1}, {column + 1})"


def spaced(digits: Iterable[int]) -> str:
    """Digits side by side, or `none`."""
    return " ".join(map(str, digits)) or "none"


def system_prompt(size: int, limits: Limits, rewards: Rewards, *, pays_again: bool) -> str:
    """Task, legend, actions, limits: at most 125 words."""
    side = isqrt(size)
    replacing = "" if pays_again else " Replacing pays the difference."
    return (
        f"You solve a Sudoku: every row, column and {side}x{side} box must hold each digit from 1 to {size} once.\n"
        "Fill the blanks (.). Given digits stay, yours can be replaced. "
        f"Places are (row, column), from (1, 1) at the top left to ({size}, {size}) at the bottom right. "
        "Each blank is shown with its candidates, the digits missing in its row, column and box.\n"
        f"Actions: `place 3 at row 1 col 2` or `1,2,3` (row, column, digit). {action_rules(limits)}\n"
        f"Rewards: {rewards.correct:g} for the solution's digit, {rewards.legal:g} for another candidate, "
        f"{rewards.invalid:g} for any other move, which changes nothing, {rewards.solved:g} for the solved grid."
        f"{replacing}"
    )


def open_blanks(board: Board, digits: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Each blank with its candidates: first those that have the fewest, last those that have none; in reading order."""
    blanks = [(cell, candidates(board.size, digits, cell)) for cell in board.blanks if not digits[cell]]
    return sorted(blanks, key=lambda blank: (not blank[1], len(blank[1])))


def render(board: Board, digits: Sequence[int], steps: int, max_steps: int) -> str:
    """Steps made and the player's own digits, the grid, then the blanks with their candidates (`open_blanks`).

    The first two have names, and so has what they may hold: a reader need neither count nor look for what belongs
    together.
    """
    size, cells = board.size, range(board.size**2)
    own = ", ".join(place(size, cell) for cell in cells if digits[cell] and not board.givens[cell])
    rows = (" ".join(str(digit or ".") for digit in digits[row : row + size]) for row in cells[::size])
    blanks = [(place(size, cell), spaced(found)) for cell, found in open_blanks(board, digits)]
    named = zip(("First", "Second"), blanks, strict=False)
    listed = [f"{name}: {cell}. {name} may be: {found}." for name, (cell, found) in named]
    if blanks[2:]:
        listed.append(f"Then: {', '.join(map(' '.join, blanks[2:]))}.")
    lines = [f"Steps: {steps}/{max_steps}. Yours: {own or 'none'}.", *rows, " ".join(listed) or "No blanks."]
    return "\n".join(lines)
