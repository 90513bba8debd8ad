"""Sokoban as a `World`: a board and what the moves have made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from actfocus_verl.environments.answers import join_actions
from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.settings import FULL
from actfocus_verl.environments.sokoban import generator, prompt
from actfocus_verl.environments.sokoban.config import PRESETS, SokobanConfig
from actfocus_verl.environments.sokoban.rules import Board, Move, after
from actfocus_verl.environments.sokoban.scripted import PLAYER, best_moves
from actfocus_verl.environments.sokoban.solver import best_return, solution_length
from actfocus_verl.environments.splits import hex_digest, stable_hash

_MOVES_BY_NAME = {name.lower(): move for move, name in prompt.ACTION_NAMES.items()}


class Sokoban(World):
    """Sokoban; the episode ends when every box is on a target. Nothing is random during play."""

    name = "sokoban"
    configs = PRESETS
    split_sizes: ClassVar = {"clean": generator.CLEAN_SPLIT_SIZES}
    script = PLAYER

    def __init__(self, board: Board, config: SokobanConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.start = board
        self.board = board
        self.config = config
        self._rewards = config.rewards()

    @classmethod
    def create(cls, config: SokobanConfig, *, preset: str, split: str, index: int, episode_seed: int) -> Sokoban:
        board = generator.make_board(config, preset, split, index)
        return cls(board, config, preset=preset, split=split, index=index)

    def system_prompt(self) -> str:
        return prompt.system_prompt(self.limits, self._rewards)

    def render(self) -> str:
        return prompt.render(self.board, coordinates=self.limits.prompts == FULL)

    def parse_action(self, text: str) -> Move | None:
        """The move of that name, whatever its case and the whitespace around it."""
        return _MOVES_BY_NAME.get(text.strip().lower())

    def step(self, action: Action) -> StepResult:
        before = self.board
        if before.solved:
            raise RuntimeError("Sokoban.step after the episode ended")
        self.board = after(before, Move(action))
        reward = self._rewards.earned(before.placed, self.board.placed, before.targets.bit_count())
        return StepResult(reward=reward, done=self.board.solved, success=self.board.solved)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        board = self.board
        return stable_hash(f"{self.name}/{board.size}/{board.walls}/{board.targets}/{board.boxes}/{board.player}")

    @property
    def done(self) -> bool:
        return self.board.solved

    @property
    def success(self) -> bool:
        return self.board.solved

    def outcome(self) -> Mapping[str, float]:
        """`boxes_on_target`: their share of all boxes."""
        return {"boxes_on_target": self.board.placed / self.board.targets.bit_count()}

    def known_answer(self) -> str | None:
        """The next moves of a shortest solution, as many as a reply may hold; None once there is no solution."""
        moves = best_moves(self.board, self.limits.max_actions_per_turn)
        return join_actions([prompt.ACTION_NAMES[move] for move in moves]) if moves else None

    def optimal_return(self) -> float:
        """The best return within the limits (`solver.best_return`)."""
        return best_return(self.start, self._rewards, self.limits)

    def board_hash(self) -> str:
        return hex_digest(generator.canonical(self.start))

    def stratum(self) -> int:
        length = solution_length(self.start)
        if length is None:
            raise RuntimeError(f"unsolvable board: {self.start}")
        return length
