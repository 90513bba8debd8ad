"""The rules of Sudoku and what a move pays: numbers only, no text, no randomness.

A cell is an index `row * size + column`, row 0 at the top. A grid is a sequence of size**2 digits, 0 for a blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import NamedTuple


class Placement(NamedTuple):
    """The one kind of action: write `digit`, from 1, into `cell`."""

    cell: int
    digit: int


@dataclass(frozen=True)
class Board:
    """A grid to fill. givens: what it starts with. solution: a complete grid that agrees with them."""

    size: int
    givens: tuple[int, ...]
    solution: tuple[int, ...]

    @property
    def blanks(self) -> tuple[int, ...]:
        """The cells to fill, in reading order."""
        return tuple(cell for cell, digit in enumerate(self.givens) if not digit)


class Rewards(NamedTuple):
    """0 <= legal <= correct: worth of a cell with the solution's, or another fitting digit; solved >= 0 >= invalid."""

    correct: float
    legal: float
    invalid: float
    solved: float


class Houses(NamedTuple):
    """The other cells of a cell's row, column and box."""

    row: tuple[int, ...]
    column: tuple[int, ...]
    box: tuple[int, ...]


@cache
def box_of(size: int) -> tuple[int, ...]:
    """For each cell the number of its box, boxes in reading order."""
    side = isqrt(size)
    return tuple(row // side * side + column // side for row in range(size) for column in range(size))


@cache
def houses(size: int) -> tuple[Houses, ...]:
    """For each cell, what else is in its row, column and box."""
    box, cells = box_of(size), range(size * size)
    return tuple(
        Houses(
            row=tuple(c for c in cells if c != cell and c // size == cell // size),
            column=tuple(c for c in cells if c != cell and c % size == cell % size),
            box=tuple(c for c in cells if c != cell and box[c] == box[cell]),
        )
        for cell in cells
    )


@cache
def peers(size: int) -> tuple[tuple[int, ...], ...]:
    """For each cell the cells that must hold another digit."""
    return tuple(tuple(sorted({*house.row, *house.column, *house.box})) for house in houses(size))


def candidates(size: int, digits: Sequence[int], cell: int) -> tuple[int, ...]:
    """The digits that no peer of `cell` holds, ascending; what the cell itself holds plays no part."""
    held = {digits[peer] for peer in peers(size)[cell]}
    return tuple(digit for digit in range(1, size + 1) if digit not in held)


def is_valid(board: Board, digits: Sequence[int], placement: Placement) -> bool:
    """Whether the move may be made: not into a given cell, not the digit already there, not one that a peer holds."""
    cell, digit = placement
    if board.givens[cell] or digits[cell] == digit:
        return False
    return all(digits[peer] != digit for peer in peers(board.size)[cell])


def worth(board: Board, rewards: Rewards, cell: int, digit: int) -> float:
    """What `digit` in `cell` is worth; a blank (0) nothing."""
    if digit == board.solution[cell]:
        return rewards.correct
    return rewards.legal if digit else 0.0


def best_return(board: Board, rewards: Rewards, moves: int, *, pays_again: bool) -> float:
    """The highest return of at most `moves` moves.

    Blanks are filled with the solution's digits as far as the moves go. Where a replaced digit pays in full once more
    (`pays_again`) and a blank has a second candidate, the moves left over turn that cell over and over before the last
    blank is filled: a run of s surplus moves holds s // 2 returns to the solution's digit, the others are merely legal.
    """
    blanks = board.blanks
    if moves < len(blanks):
        return moves * rewards.correct
    best = len(blanks) * rewards.correct + rewards.solved
    if pays_again and any(len(candidates(board.size, board.givens, cell)) > 1 for cell in blanks):
        surplus = moves - len(blanks)
        best += surplus // 2 * rewards.correct + (surplus - surplus // 2) * rewards.legal
    return best
