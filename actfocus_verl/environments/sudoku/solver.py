"""All completions of a grid, by backtracking over bit masks of the digits still free in each row, column and box."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from actfocus_verl.environments.sudoku.rules import box_of


def ascending(free: int) -> list[int]:
    """The digits of a bit mask."""
    return [digit for digit in range(1, free.bit_length() + 1) if free >> digit - 1 & 1]


def in_random_order(rng: np.random.Generator) -> Callable[[int], list[int]]:
    """The digits of a bit mask, their order drawn from `rng`."""

    def draw(free: int) -> list[int]:
        digits = ascending(free)
        return digits if len(digits) < 2 else [digits[position] for position in rng.permutation(len(digits))]

    return draw


def completions(
    size: int, digits: Sequence[int], *, order: Callable[[int], list[int]] = ascending, by_cell: bool = False
) -> Iterator[tuple[int, ...]]:
    """The complete grids that agree with `digits` (0: blank), found one after another. No two givens may conflict.

    The blank with the fewest free digits is filled first, or with `by_cell` the first one in reading order. order: the
    free digits of a cell, a bit mask, in the order in which they are tried; asked each time a cell is reached.
    """
    grid, box = list(digits), box_of(size)
    rows, columns, boxes = ([(1 << size) - 1] * size for _ in range(3))
    blanks: list[tuple[int, int, int, int]] = []
    for cell, digit in enumerate(grid):
        row, column = divmod(cell, size)
        if digit:
            for free, house in ((rows, row), (columns, column), (boxes, box[cell])):
                free[house] &= ~(1 << digit - 1)
        else:
            blanks.append((cell, row, column, box[cell]))
    blanks.reverse()  # taken from the end

    def select() -> None:
        """Move the blank to be filled next to the end."""
        least, chosen = size + 1, 0
        for position, (_, row, column, house) in enumerate(blanks):
            count = (rows[row] & columns[column] & boxes[house]).bit_count()
            if count < least:
                least, chosen = count, position
                if count <= 1:
                    break
        blanks[chosen], blanks[-1] = blanks[-1], blanks[chosen]

    def search() -> Iterator[tuple[int, ...]]:
        if not blanks:
            yield tuple(grid)
            return
        if not by_cell:
            select()
        blank = cell, row, column, house = blanks.pop()
        for digit in order(rows[row] & columns[column] & boxes[house]):
            bit = 1 << digit - 1
            grid[cell] = digit
            rows[row], columns[column], boxes[house] = rows[row] ^ bit, columns[column] ^ bit, boxes[house] ^ bit
            yield from search()
            rows[row], columns[column], boxes[house] = rows[row] ^ bit, columns[column] ^ bit, boxes[house] ^ bit
        blanks.append(blank)

    return search()


def has_one_solution(size: int, digits: Sequence[int]) -> bool:
    """Whether exactly one complete grid agrees with `digits`."""
    return len(list(islice(completions(size, digits), 2))) == 1
