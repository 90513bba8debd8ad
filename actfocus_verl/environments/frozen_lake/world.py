"""FrozenLake as a `World`: a board, a player on it, and slips, the episode's own or the board's."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from actfocus_verl.environments.answers import join_actions
from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.frozen_lake import generator, prompt
from actfocus_verl.environments.frozen_lake.config import BOARD, PRESETS, FrozenLakeConfig
from actfocus_verl.environments.frozen_lake.rules import (
    Board,
    Move,
    best_moves,
    best_success_rate,
    destination,
    shortest_path_length,
    slip_probabilities,
)
from actfocus_verl.environments.frozen_lake.scripted import PLAYER
from actfocus_verl.environments.ragen_seeds import board_seed
from actfocus_verl.environments.settings import PAPER
from actfocus_verl.environments.splits import hex_digest, seeded_generator, stable_hash

_MOVES_BY_NAME = {name.lower(): move for move, name in prompt.ACTION_NAMES.items()}


class FrozenLake(World):
    """Slippery FrozenLake; reward 1 at the goal, which ends the episode like a hole does."""

    name = "frozen_lake"
    configs = PRESETS
    split_sizes: ClassVar = {"clean": generator.CLEAN_SPLIT_SIZES}
    script = PLAYER

    def __init__(
        self, board: Board, config: FrozenLakeConfig, *, preset: str, split: str, index: int, episode_seed: int
    ) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.board = board
        self.config = config
        self.player = board.start
        self._episode_seed = episode_seed
        self._slips: np.random.Generator | None = None  # made by the first step: most of a reset's cost

    @classmethod
    def create(cls, config: FrozenLakeConfig, *, preset: str, split: str, index: int, episode_seed: int) -> FrozenLake:
        board = generator.make_board(config, preset, split, index)
        return cls(board, config, preset=preset, split=split, index=index, episode_seed=episode_seed)

    def system_prompt(self) -> str:
        return prompt.system_prompt(self.board, self.limits, self.config.success_rate)

    def render(self) -> str:
        return prompt.render(self.board, self.player, paper=self.limits.prompts == PAPER)

    def parse_action(self, text: str) -> Move | None:
        """The move of that name, whatever its case and the whitespace around it."""
        return _MOVES_BY_NAME.get(text.strip().lower())

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError("FrozenLake.step after the episode ended")
        self.player = destination(self.board.size, self.player, self._slip(Move(action)))
        return StepResult(reward=float(self.success), done=self.done, success=self.success)

    def reseed(self, episode_seed: int) -> None:
        """Draw the slips from this seed from now on; where luck is the board's, a fork meets what everybody meets."""
        if self.config.luck != BOARD:
            self._episode_seed, self._slips = episode_seed, None

    def _slip(self, intended: Move) -> Move:
        if self._slips is None:
            self._slips = self._luck()
        drawn, total = self._slips.random(), 0.0
        for move, probability in slip_probabilities(intended, self.config.success_rate):
            total += probability
            if total > drawn:
                return move
        return intended  # rounding left nothing for the last move

    def _luck(self) -> np.random.Generator:
        """What the slips are drawn from, one number a move."""
        board = (self.name, self.preset, self.split, self.index)
        if self.config.luck != BOARD:
            return seeded_generator(*board, "episode", self._episode_seed)
        if self.preset != "ragen":
            return seeded_generator(*board, "luck")
        # As the code base seeds gymnasium at each reset, which draws the start with the first number.
        rng = np.random.default_rng(board_seed(self.split, self.index))
        rng.random()
        return rng

    def anchor(self) -> int:
        board = self.board
        return stable_hash(f"{self.name}/{board.size}/{board.goal}/{board.holes}/{self.player}")

    @property
    def done(self) -> bool:
        return self.board.is_terminal(self.player)

    @property
    def success(self) -> bool:
        return self.player == self.board.goal

    def known_answer(self) -> str | None:
        """The best moves, as many as a reply may hold, each for where the one before is meant to lead."""
        limits = self.limits
        moves = best_moves(
            self.board,
            self.config.success_rate,
            limits.max_actions_per_episode,
            self.player,
            limits.max_actions_per_turn,
        )
        return join_actions([prompt.ACTION_NAMES[move] for move in moves]) if moves else None

    def optimal_return(self) -> float:
        """Best chance to reach the goal under the turn protocol (`rules.best_success_rate`)."""
        limits = self.limits
        return best_success_rate(
            self.board,
            self.config.success_rate,
            limits.max_turns,
            limits.max_actions_per_turn,
            limits.max_actions_per_episode,
        )

    def board_hash(self) -> str:
        return hex_digest(generator.canonical(self.board))

    def stratum(self) -> int:
        length = shortest_path_length(self.board)
        if length is None:
            raise RuntimeError(f"unsolvable board: {self.board}")
        return length
