"""What becomes of a board when it is turned, mirrored, or changed by any other symmetry of Sudoku.

Two names with two uses. The *name* is equal exactly for boards that one of the 8 symmetries of the square turns into
each other: no split holds a name twice. The *family* is equal for all boards that any symmetry of Sudoku turns into
each other: digits renamed, rows or columns exchanged within a band, bands exchanged, the grid transposed. It decides
the split, so no evaluation board is a training board in disguise.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import permutations, product
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from actfocus_verl.environments.sudoku.rules import Board
from actfocus_verl.environments.sudoku.solver import completions

_ASCII_ZERO = 48


def name(board: Board) -> str:
    """The board's name under the 8 symmetries of the square: equal exactly for boards turned or mirrored."""
    givens = np.array(board.givens, dtype=np.uint8) + _ASCII_ZERO
    least = min(image.tobytes() for image in givens[_turns(board.size)])
    return f"sudoku/{board.size}/{least.decode()}"


def family(board: Board) -> str:
    """The family of a board with one solution, under all symmetries of Sudoku.

    On 4x4 equal exactly for symmetric boards. On 9x9, which has 3,359,232 symmetries besides the renaming of digits,
    an invariant: equal for symmetric boards, and now and then for others.
    """
    if board.size == 4:
        catalogue = small_grids()
        grid = np.array([catalogue.number[board.solution]])
        blanks = np.array([sum(1 << cell for cell in board.blanks)])
        return family_of_key(int(catalogue.family_keys(grid, blanks)[0]))
    return _invariant(board)


def family_of_key(key: int) -> str:
    """The family's text for a key of `SmallGrids.family_keys`."""
    return f"sudoku/4/family/{key}"


class SmallGrids:
    """The 288 complete 4x4 grids, and tables to treat many boards with them at once; a set of cells is a bit mask.

    grids: uint8, shape (288, 16). number: of each grid, its row. Boards are arrays of equal shape (boards,): the grid's
    number, and the mask of the blanks.
    """

    def __init__(self) -> None:
        self.solutions = tuple(sorted(completions(4, (0,) * 16)))
        self.number = {grid: number for number, grid in enumerate(self.solutions)}
        self.grids = np.array(self.solutions, dtype=np.uint8)
        bits = 1 << np.arange(16)
        self._differences = (self.grids[:, None] != self.grids[None]) @ bits  # (288, 288) masks
        symmetries = _small_symmetries()  # (128, 16)
        images = _renamed(self.grids[:, symmetries].reshape(-1, 16))
        numbers = np.unique(images @ (1 << np.arange(0, 32, 2)), return_inverse=True)[1]
        self._classes = numbers.reshape(len(self.grids), len(symmetries))  # of grids up to renamed digits: 0 to 11
        bytes_ = (np.arange(256) >> np.arange(8)[:, None]) & 1  # (8, 256)
        to = bits[np.argsort(symmetries, axis=1)]  # (128, 16): the bit to which each cell goes
        self._low, self._high = to[:, :8] @ bytes_, to[:, 8:] @ bytes_  # (128, 256): masks turned byte by byte

    def have_one_solution(self, grids: NDArray[np.int64], blanks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which boards only their own grid solves: every other of the 288 differs from it at a given cell."""
        visible = (self._differences[grids] & ~blanks[:, None]) != 0
        unique: NDArray[np.bool_] = visible.sum(axis=1) == len(self.grids) - 1
        return unique

    def family_keys(self, grids: NDArray[np.int64], blanks: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each board, equal exactly for boards with one solution that a symmetry makes the same.

        The least, over the 128 geometric symmetries, of the image of (grid up to renamed digits, blanks).
        """
        masks = self._low[:, blanks & 255] | self._high[:, blanks >> 8]  # (128, boards)
        keys: NDArray[np.int64] = (self._classes[grids].T << 16 | masks).min(axis=0)
        return keys


@cache
def small_grids() -> SmallGrids:
    """The 4x4 grids, made when first used: tens of milliseconds."""
    return SmallGrids()


@cache
def _turns(size: int) -> NDArray[np.int64]:
    """Shape (8, size**2): for each symmetry of the square, the cell that each place of the image shows."""
    cells = np.arange(size * size).reshape(size, size)
    return np.array([np.rot90(side, quarter).ravel() for side in (cells, cells.T) for quarter in range(4)])


def _small_symmetries() -> NDArray[np.int64]:
    """Shape (128, 16), as `_turns`: bands and stacks, and the two lines in each, exchanged; transposed or not."""
    lines = [
        [line for band in bands for line in pairs[band]]
        for bands in permutations((0, 1))
        for pairs in product(permutations((0, 1)), permutations((2, 3)))
    ]
    cells = np.arange(16).reshape(4, 4)
    sides = (cells, cells.T)
    return np.array([side[rows][:, columns].ravel() for side, rows, columns in product(sides, lines, lines)])


def _renamed(grids: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Complete 4x4 grids, shape (grids, 16), with their digits renamed so that the first row is 0 1 2 3."""
    return np.take_along_axis(np.argsort(grids[:, :4], axis=1), grids.astype(np.int64) - 1, axis=1)


def _invariant(board: Board) -> str:
    """Blanks by line, lines sorted within bands and bands sorted, for rows and columns; and blanks by digit, sorted."""
    cells = np.zeros((board.size, board.size), dtype=int)
    cells.flat[list(board.blanks)] = 1
    side = isqrt(board.size)
    rows, columns = sorted(
        sorted(sorted(band) for band in cells.sum(axis=axis).reshape(side, side).tolist()) for axis in (1, 0)
    )
    digits = sorted(Counter(board.solution[cell] for cell in board.blanks).values())
    return f"sudoku/{board.size}/family/{rows}/{columns}/{digits}"
