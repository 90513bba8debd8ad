"""TextWorldExpress as a `World`: a game of the package behind its listed commands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.distinct import no_such_board
from actfocus_verl.environments.splits import hex_digest, stable_hash
from actfocus_verl.environments.textworld_express import prompt
from actfocus_verl.environments.textworld_express.config import GAMES, PRESETS, TextWorldExpressConfig
from actfocus_verl.environments.textworld_express.games import FOLDS, SEEDS, Board, Play, board_at, gold_path


class TextWorldExpress(World):
    """One game; the reward of an action is what it adds to the package's score, 1 for a solved game."""

    name = "textworld_express"
    configs = PRESETS
    slow = True
    split_sizes: ClassVar = {
        preset: dict.fromkeys(FOLDS, SEEDS * len(config.parsed_games)) for preset, config in PRESETS.items()
    }

    def __init__(self, board: Board, config: TextWorldExpressConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.board = board
        self._play = Play(board)
        self._task = self._play.told["taskDescription"]
        self._board_hash = hex_digest(f"{self.name}/{board.game}/{self._task}/{self.render()}")

    @classmethod
    def create(
        cls, config: TextWorldExpressConfig, *, preset: str, split: str, index: int, episode_seed: int
    ) -> TextWorldExpress:
        games = config.parsed_games
        if index >= SEEDS * len(games):
            raise no_such_board(split, index, f"{index + 1} boards", f"env.games={config.games}")
        return cls(board_at(games, split, index), config, preset=preset, split=split, index=index)

    def system_prompt(self) -> str:
        return prompt.system_prompt(self._task, self.limits)

    def render(self) -> str:
        return prompt.render(self._play.told, self._play.commands)

    def parse_action(self, text: str) -> str | None:
        """The listed command of that name, whatever its case and surplus whitespace."""
        words = " ".join(text.lower().split())
        return next((command for command in self._play.commands if command.lower() == words), None)

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError("TextWorldExpress.step after the episode ended")
        reward = self._play.step(action)
        return StepResult(reward=reward, done=self.done, success=self.success)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        return stable_hash(f"{self.board_hash()}/{self._play.told['score']}/{self.done}/{self.render()}")

    @property
    def done(self) -> bool:
        return self._play.over

    @property
    def success(self) -> bool:
        return self._play.solved

    def outcome(self) -> Mapping[str, float]:
        return {"score": float(self._play.told["score"])}

    def oracle(self) -> Sequence[str]:
        """The next command of the package's own solution; off its path, the first of the listed ones."""
        return [self._next_gold() or self._play.commands[0]]

    def known_answer(self) -> str | None:
        """The next command of the package's own solution; None once an episode has left its path."""
        return None if self.done else self._next_gold()

    def _next_gold(self) -> str | None:
        gold, taken = gold_path(self.board), self._play.taken
        on_it = len(taken) < len(gold) and list(gold[: len(taken)]) == taken
        return gold[len(taken)] if on_it else None

    def optimal_return(self) -> float:
        """1; NaN where the package has no solution or one that is longer than an episode, which may be no shortest."""
        most = min(self.limits.max_turns, self.limits.max_actions_per_episode)
        return 1.0 if 0 < len(gold_path(self.board)) <= most else math.nan

    def stratum(self) -> int:
        """The place of the game among the eight, from 1: from the shortest solutions to the longest."""
        return 1 + GAMES.index(self.board.game)
