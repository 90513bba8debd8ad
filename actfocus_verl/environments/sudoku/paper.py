"""Sudoku as the paper's prompts tell it and as its code base reads it: the information of both, in our own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from math import isqrt
from typing import Final

from actfocus_verl.environments.sudoku.rules import Board, Placement, box_of, candidates, peers

_PATTERNS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"place\s++(\d++)\s++at\s++row\s++(\d++)\s++col\s++(\d++)",
        r"place\s++(\d++)\s++at\s++\((\d++),\s*+(\d++)\)",
        r"place\s++(\d++)\s++at\s++(\d++),\s*+(\d++)",
        r"(?<!\d)(\d++)\s++at\s++(\d++),\s*+(\d++)",
        r"\((\d++),\s*+(\d++),\s*+(\d++)\)",
        r"(?<!\d)(\d++),\s*+(\d++),\s*+(\d++)",
    )
)
"""The six forms, in the order they are looked for anywhere in a text. What a group takes it keeps, and a number is read
from its first digit: linear, and the same matches."""

_LISTED_BLANKS: Final = 10
"""The paper's prompts list what fits where no more blanks than these are left."""


class Nonsense(Enum):
    """A text that names no move on the grid, and why: an action of its own in the code base."""

    FORM = "not understood. Write for example `place 4 at row 2 col 1` or `2,1,4`"
    ROW = "there is no such row, rows go from 1 to {size}"
    COLUMN = "there is no such column, columns go from 1 to {size}"
    DIGIT = "there is no such digit, digits go from 1 to {size}"


def parse_move(size: int, text: str) -> Placement | Nonsense:
    """What the code base makes of a text: the first of the six forms that occurs in it decides, in any case.

    Digits of any script count, with leading zeros. Where `place` or `at` stands anywhere in the text, the first number
    is the digit, else the last one.
    """
    text = text.lower()
    match = next(filter(None, (pattern.search(text) for pattern in _PATTERNS)), None)
    if match is None:
        return Nonsense.FORM
    first, second, third = (_number(group, size) for group in match.groups())
    digit, row, column = (first, second, third) if "place" in text or "at" in text else (third, first, second)
    for number, problem in ((row, Nonsense.ROW), (column, Nonsense.COLUMN), (digit, Nonsense.DIGIT)):
        if not 1 <= number <= size:
            return problem
    return Placement((row - 1) * size + column - 1, digit)


def _number(digits: str, size: int) -> int:
    """Its value, or `size` + 1 for one so long that Python refuses to read it."""
    try:
        return int(digits)
    except ValueError:
        return size + 1


def system_prompt(size: int) -> str:
    """Task, legend, the two forms of a move. It names neither a separator nor a number of actions."""
    side = isqrt(size)
    return (
        f"This is a {size}x{size} Sudoku. Complete it: each of the digits 1 to {size} belongs once into every row, "
        f"every column and every {side}x{side} box.\n"
        "[ ] encloses the given digits, which stay. A dot is a blank.\n"
        "Write one digit at a time, as <answer>place 4 at row 2 col 1</answer> or <answer>2,1,4</answer>.\n"
        "You will be told whether a move was accepted, and what it collides with."
    )


def render(board: Board, digits: Sequence[int], steps: int, max_steps: int, verdict: str) -> str:
    """The grid with its boxes, what the last move did, the blanks in reading order with what fits, and counts."""
    size, cells = board.size, range(board.size**2)
    blanks = [cell for cell in cells if not digits[cell]]
    fitting = [(cell, candidates(size, digits, cell)) for cell in blanks] if len(blanks) <= _LISTED_BLANKS else []
    listed = [f"{_place(size, cell)} {_spaced(found)}" for cell, found in fitting if found]
    given, filled = size * size - len(board.blanks), size * size - len(blanks)
    lines = [
        *_grid(board, digits),
        "[4] given, 4 yours, *4* in conflict, . blank.",
        *([f"Last move: {verdict}."] if verdict else []),
        *([f"What fits: {', '.join(listed)}."] if listed else []),
        f"Filled: {filled} of {size * size}, {given} given and {filled - given} yours. Steps: {steps}/{max_steps}.",
    ]
    return "\n".join(lines)


def verdict_on(board: Board, digits: Sequence[int], action: Placement | Nonsense) -> str:
    """What is said of an action before it changes `digits`; of nonsense never what the model wrote."""
    size = board.size
    if isinstance(action, Nonsense):
        return action.value.format(size=size)
    cell, digit = action
    where = _place(size, cell)
    if board.givens[cell]:
        return f"{where} is given and stays"
    holders = [other for other in (cell, *peers(size)[cell]) if digits[other] == digit]
    if holders:
        fitting = () if digits[cell] else candidates(size, digits, cell)
        advice = f", {where} may be {_spaced(fitting)}" if fitting else ""
        return f"{digit} at {where} is refused, it is already in {_houses(size, cell, holders)}{advice}"
    if digit == board.solution[cell]:
        return f"{digit} at {where} is right"
    return f"{digit} at {where} is allowed, but not the best choice"


def _houses(size: int, cell: int, holders: Sequence[int]) -> str:
    """Those of row, column and box of `cell` that one of `holders` is in."""
    box = box_of(size)
    row, column = divmod(cell, size)
    shared = {
        f"row {row + 1}": any(other // size == row for other in holders),
        f"column {column + 1}": any(other % size == column for other in holders),
        f"box ({', '.join(str(part + 1) for part in divmod(box[cell], isqrt(size)))})": any(
            box[other] == box[cell] for other in holders
        ),
    }
    return " and ".join(name for name, held in shared.items() if held)


def _grid(board: Board, digits: Sequence[int]) -> list[str]:
    size, side = board.size, isqrt(board.size)
    rows = []
    for start in range(0, size * size, size):
        if start and start // size % side == 0:
            rows.append("+".join(["-" * (3 * side)] * side))
        shown = [_symbol(board.givens[cell], digits[cell]) for cell in range(start, start + size)]
        rows.append("|".join("".join(shown[box : box + side]) for box in range(0, size, side)).rstrip())
    return rows


def _symbol(given: int, digit: int) -> str:
    return f"[{given}]" if given else f" {digit or '.'} "


def _place(size: int, cell: int) -> str:
    row, column = divmod(cell, size)
    return f"({row + 1},{column + 1})"


def _spaced(digits: Sequence[int]) -> str:
    return " ".join(map(str, digits))
