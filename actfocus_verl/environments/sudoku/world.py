"""Sudoku as a `World`: a board, the digits on it, and the moves made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from actfocus_verl.environments.answers import join_actions
from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.settings import LENIENT, PAPER
from actfocus_verl.environments.splits import hex_digest, stable_hash
from actfocus_verl.environments.sudoku import generator, paper, prompt, symmetry
from actfocus_verl.environments.sudoku.config import PRESETS, SudokuConfig
from actfocus_verl.environments.sudoku.paper import Nonsense
from actfocus_verl.environments.sudoku.rules import Board, Placement, best_return, is_valid, worth
from actfocus_verl.environments.sudoku.scripted import PLAYER, targets


class Sudoku(World):
    """Sudoku move by move; ends when the grid is complete, which it can only be correctly, or at the step cap.

    In `ragen` an invalid move never ends the episode, and replacing a digit pays in full again: both flaws are the
    paper's code base's. In `clean` every move counts, and replacing a digit pays the difference.
    Where replies are read leniently, a text that names no move is an invalid move of its own.
    """

    name = "sudoku"
    configs = PRESETS
    split_sizes: ClassVar = {"clean": generator.CLEAN_SPLIT_SIZES}
    script = PLAYER

    def __init__(self, board: Board, config: SudokuConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.board = board
        self.config = config
        self.digits = list(board.givens)
        self.steps = 0
        self._flawed = preset == "ragen"
        self._closed = False
        self._paper = self.limits.prompts == PAPER
        self._verdict = ""

    @classmethod
    def create(cls, config: SudokuConfig, *, preset: str, split: str, index: int, episode_seed: int) -> Sudoku:
        """Nothing is random during play: `episode_seed` changes nothing."""
        return cls(generator.make_board(config, preset, split, index), config, preset=preset, split=split, index=index)

    def system_prompt(self) -> str:
        if self._paper:
            return paper.system_prompt(self.board.size)
        return prompt.system_prompt(self.board.size, self.limits, self.config.rewards(), pays_again=self._flawed)

    def render(self) -> str:
        if self._paper:
            return paper.render(self.board, self.digits, self.steps, self.config.max_steps, self._verdict)
        return prompt.render(self.board, self.digits, self.steps, self.config.max_steps)

    def parse_action(self, text: str) -> Placement | Nonsense | None:
        """The move named by `place 3 at row 1 col 2` or `1,2,3`, whatever its case and whitespace, if on the grid.

        Where replies are read leniently, by any of the code base's six forms, and what names no move is `Nonsense`.
        """
        if self.limits.reply == LENIENT:
            return paper.parse_move(self.board.size, text)
        return prompt.parse_placement(self.board.size, text)

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError("Sudoku.step after the episode ended")
        move = None if isinstance(action, Nonsense) else Placement(*action)
        valid = move is not None and is_valid(self.board, self.digits, move)
        if self._paper:
            self._verdict = paper.verdict_on(self.board, self.digits, action if move is None else move)
        self.steps += 1
        reward = self._write(move) if valid and move is not None else self.config.invalid_reward
        self._closed = self.steps >= self.config.max_steps and (valid or not self._flawed)
        return StepResult(reward, done=self.done, success=self.success)

    def _write(self, move: Placement) -> float:
        """Write the digit; what that pays."""
        rewards = self.config.rewards()
        replaced = 0 if self._flawed else self.digits[move.cell]
        self.digits[move.cell] = move.digit
        gained = worth(self.board, rewards, *move) - worth(self.board, rewards, move.cell, replaced)
        return gained + (rewards.solved if self.success else 0.0)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        """Of givens, solution and digits; and of the steps made, where the cap can end the episode."""
        board, config = self.board, self.config
        steps = self.steps if config.max_steps < config.actions else "any"
        grids = (bytes(grid).hex() for grid in (board.givens, board.solution, self.digits))
        return stable_hash(f"{self.name}/{board.size}/{'/'.join(grids)}/{steps}")

    @property
    def done(self) -> bool:
        return self._closed or self.success

    @property
    def success(self) -> bool:
        """Whether the grid is complete: what conflicts is never written, so it is then solved."""
        return 0 not in self.digits

    def outcome(self) -> Mapping[str, float]:
        """solved_cells: the share of the blanks that hold the solution's digit."""
        board = self.board
        right = sum(self.digits[cell] == board.solution[cell] for cell in board.blanks)
        return {"solved_cells": right / len(board.blanks)}

    def known_answer(self) -> str | None:
        """The solution's digits for the one or two cells to be filled next; None where the digits on it forbid that."""
        board = self.board
        moves = [Placement(cell, board.solution[cell]) for cell in targets(self)[: self.limits.max_actions_per_turn]]
        if self.done or not is_valid(board, self.digits, moves[0]):
            return None
        return join_actions([prompt.format_placement(board.size, move) for move in moves])

    def optimal_return(self) -> float:
        """The return of the best play within the limits (`rules.best_return`)."""
        moves = min(self.config.actions, self.config.max_steps)
        return best_return(self.board, self.config.rewards(), moves, pays_again=self._flawed)

    def board_hash(self) -> str:
        """Under the 8 symmetries of the square; see `symmetry` for the others."""
        return hex_digest(symmetry.name(self.board))

    def stratum(self) -> int:
        """The blanks: each takes one move."""
        return len(self.board.blanks)
