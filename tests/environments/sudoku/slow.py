"""Sudoku once more, slowly and in other terms: what the tests compare the world with. Rows, columns, digits from 1."""

from __future__ import annotations

from itertools import permutations, product

Grid = tuple[tuple[int, ...], ...]


def rows_of(size: int, digits) -> list[list[int]]:
    return [list(digits[row * size : (row + 1) * size]) for row in range(size)]


def seen_from(grid: list[list[int]], row: int, column: int) -> list[int]:
    """Digits of row, column and box, the cell's own included."""
    side = {4: 2, 9: 3}[len(grid)]
    top, left = row - row % side, column - column % side
    box = [grid[r][c] for r in range(top, top + side) for c in range(left, left + side)]
    return [*grid[row], *(line[column] for line in grid), *box]


def complete(grid: list[list[int]]) -> bool:
    wanted = set(range(1, len(grid) + 1))
    side = {4: 2, 9: 3}[len(grid)]
    boxes = [
        {grid[r + i][c + j] for i in range(side) for j in range(side)}
        for r in range(0, len(grid), side)
        for c in range(0, len(grid), side)
    ]
    return all(set(house) == wanted for house in (*grid, *zip(*grid, strict=True), *boxes))


def all_small_grids() -> list[tuple[int, ...]]:
    """Every complete 4x4 grid: rows are permutations, and then everything is checked."""
    rows = list(permutations((1, 2, 3, 4)))
    pairs = [(a, b) for a, b in product(rows, rows) if {*a[:2], *b[:2]} == {*a[2:], *b[2:]} == {1, 2, 3, 4}]
    grids = ([*upper, *lower] for upper, lower in product(pairs, pairs))
    return [sum(grid, ()) for grid in grids if complete(grid)]


class SlowSudoku:
    """One episode. ragen: a move that is refused never ends it, and every digit written pays in full."""

    def __init__(self, board, *, ragen: bool, max_steps: int) -> None:
        self.givens = rows_of(board.size, board.givens)
        self.solution = rows_of(board.size, board.solution)
        self.grid = rows_of(board.size, board.givens)
        self.ragen, self.max_steps, self.steps, self.done = ragen, max_steps, 0, False

    def place(self, row: int, column: int, digit: int) -> float:
        r, c = row - 1, column - 1
        self.steps += 1
        late = self.steps >= self.max_steps
        if self.givens[r][c] != 0 or digit in seen_from(self.grid, r, c):
            self.done = late and not self.ragen
            return -0.1
        before, self.grid[r][c] = self.grid[r][c], digit
        reward = 1.0 if digit == self.solution[r][c] else 0.5
        if before and not self.ragen:
            reward -= 1.0 if before == self.solution[r][c] else 0.5
        solved = complete(self.grid)
        self.done = solved or late
        return reward + (10.0 if solved else 0.0)
