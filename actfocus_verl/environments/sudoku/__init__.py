"""Sudoku: fill a grid so that no row, column or box holds a digit twice. See README.md in this folder."""

from actfocus_verl.environments.sudoku.world import Sudoku

__all__ = ["Sudoku"]
