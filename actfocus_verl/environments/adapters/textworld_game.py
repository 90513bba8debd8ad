"""Text games that textworld generates from a seed: its challenges (`tw-make tw-treasure_hunter --level 5`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from threading import Lock
from typing import Any, ClassVar
from weakref import finalize

from actfocus_verl.checks import require_integer
from actfocus_verl.environments.adapters.base import PRESET, AdaptedWorld, AdapterConfig, Board, require_package
from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.base import Action, StepResult
from actfocus_verl.errors import ConfigurationError

_LEVELS = {"tw-coin_collector": 200, "tw-treasure_hunter": 30}
"""The highest level of each offered challenge; above 200, coin games have more rooms than textworld compiles."""

_SHOWN_ANYWAY = ("examine ", "inventory", "look")
"""Commands that tell what the state shows at every turn."""

_GAME = "game.z8"
_FOLDER = "actfocus-textworld-"

_starting = Lock()
"""Held while a game is made or loaded: textworld's generator, and the filters of warnings, are the process's."""

_ATTEMPTS = 20
"""Seeds tried for one board: the generator finds no quest of the wanted length on some maps."""


@dataclass(frozen=True, kw_only=True)
class TextWorldConfig(AdapterConfig):
    """level: of the challenge, from 1; textworld says what it means (see the README)."""

    level: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in _LEVELS:
            raise ConfigurationError("env.task", self.task, "no offered challenge", f"Use one of: {', '.join(_LEVELS)}")
        require_integer("env.level", self.level, low=1, high=_LEVELS[self.task])


class TextWorldGame(AdaptedWorld):
    """One play of a textworld game. Reward: the points an action scores; success: textworld says it is won."""

    name = "textworld_game"
    slow = True  # compiling a game takes seconds
    configs: ClassVar = {
        PRESET: TextWorldConfig(
            task="tw-treasure_hunter",
            max_turns=12,
            max_actions_per_turn=1,  # a command is admissible in the state it was chosen in
            max_actions_per_episode=12,
            max_words=120,
            max_turn_tokens=400,
        )
    }

    def __init__(self, config: TextWorldConfig, board: Board, episode_seed: int) -> None:
        super().__init__(config, board, episode_seed)
        with _starting:
            self._env = self._start(_compiled_game(board, config.level))
        self._state = self._env.reset()
        self._objective = " ".join(self._state.objective.split())
        self._begin(f"{self._objective}\n{self.render()}")

    def _start(self, files: Mapping[str, bytes]) -> Any:
        """The game of these files. They stay as long as this world: jericho ends the process when it misses them."""
        textworld = require_package("textworld")
        folder = mkdtemp(prefix=_FOLDER)
        finalize(self, rmtree, folder, ignore_errors=True)
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        wanted = ("description", "inventory", "objective", "admissible_commands", "score", "won", "lost")
        with _quiet():
            return textworld.start(str(Path(folder, _GAME)), textworld.EnvInfos(**dict.fromkeys(wanted, True)))

    def system_prompt(self) -> str:
        return f"You play a text game. {self._objective}\nActions: one of the commands. {action_rules(self.limits)}"

    def render(self) -> str:
        seen = [self._state.description, self._state.inventory, f"Commands: {', '.join(self._commands())}"]
        lines = (" ".join(line.split()) for text in seen for line in text.splitlines())
        return "\n".join(filter(None, lines))

    def parse_action(self, text: str) -> str | None:
        """The admissible command of that name, whatever its case and surplus whitespace."""
        words = " ".join(text.lower().split())
        return next((command for command in self._commands() if command.lower() == words), None)

    def _commands(self) -> list[str]:
        return [each for each in self._state.admissible_commands if not each.startswith(_SHOWN_ANYWAY)]

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def _act(self, action: Action) -> StepResult:
        before = self._state.score
        self._state, score, done = self._env.step(action)
        won = bool(self._state.won)
        return StepResult(reward=float(score - before), done=bool(done or won or self._state.lost), success=won)


@lru_cache(maxsize=64)
def _compiled_game(board: Board, level: int) -> Mapping[str, bytes]:
    """The files of a board's game; nothing but the seed and the level goes into it."""
    textworld = require_package("textworld")
    _, make, _ = require_package("textworld.challenges").CHALLENGES[board.task]
    for seed in islice(board.seeds(), _ATTEMPTS):
        options = textworld.GameOptions()
        options.seeds = seed
        with TemporaryDirectory(prefix=_FOLDER) as folder, _quiet():
            options.path = str(Path(folder, _GAME))
            try:
                textworld.generator.compile_game(make({"level": level}, options), options)
            except textworld.generator.QuestGenerationError:
                continue
            except ValueError as error:
                raise ConfigurationError("env.level", level, f"textworld refuses it ({error})", "Lower it") from error
            return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.suffix != ".ni"}
    raise ConfigurationError("env.level", level, f"no game of {board.task} was found", "Use another level")


@contextmanager
def _quiet() -> Iterator[None]:
    """jericho warns that it knows no generated game; textworld keeps their scores itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not fully supported")
        yield
