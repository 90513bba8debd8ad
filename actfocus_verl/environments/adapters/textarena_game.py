"""textarena's games for one player whose moves follow a grammar."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from actfocus_verl.environments.adapters.base import (
    PRESET,
    AdaptedWorld,
    AdapterConfig,
    Board,
    PrivateRandomness,
    require_package,
)
from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.base import Action, StepResult
from actfocus_verl.errors import ConfigurationError


@dataclass(frozen=True)
class _Game:
    """moves: the grammar of a move, in lower case. say: how to tell it. board: the game draws its whole state."""

    moves: re.Pattern[str]
    say: str
    board: bool


_DIRECTIONS = _Game(re.compile("up|down|left|right"), "Up, Down, Left, Right", board=True)
_GAMES = {
    "2048": _DIRECTIONS,
    "FrozenLake": _DIRECTIONS,
    "GuessTheNumber": _Game(re.compile("[0-9]{1,3}"), "a number", board=False),
    "Mastermind": _Game(re.compile("[0-9]{1,2}( [0-9]{1,2}){0,7}"), "the digits, separated by spaces", board=False),
    "TowerOfHanoi": _Game(re.compile("[abc] [abc]"), "the two towers, separated by a space", board=True),
}
"""By the part of the name before the first hyphen."""

_MAX_CHARACTERS = 40
"""No move is longer, brackets and spaces included."""


class TextArenaGame(AdaptedWorld):
    """One play of `textarena.make(task)`. Reward: textarena's, at the end only; success: its full reward."""

    name = "textarena_game"
    configs: ClassVar = {
        PRESET: AdapterConfig(
            task="FrozenLake-v0-random",
            max_turns=8,
            max_actions_per_turn=2,
            max_actions_per_episode=16,
            max_words=120,
            max_turn_tokens=400,
        )
    }

    def __init__(self, config: AdapterConfig, board: Board, episode_seed: int) -> None:
        super().__init__(config, board, episode_seed)
        self._game = _game(config.task)
        seed = board.seed()
        with PrivateRandomness(seed)():  # textarena seeds and draws from the shared generators
            self._env = _make(config.task)
            self._env.reset(num_players=1, seed=seed)
        self.reseed(episode_seed)
        heard = self._hear()
        self._rules = [line.strip() for message in heard["PROMPT"] for line in message.splitlines()]
        self._board = heard["GAME_BOARD"][-1:]
        self._lines = self._board or ["The game begins."]
        self._begin(self.render())

    def system_prompt(self) -> str:
        rules = "\n".join(filter(None, self._rules))
        return f"{rules}\nActions: {self._game.say}. {action_rules(self.limits)}"

    def render(self) -> str:
        return "\n".join(self._lines)

    def parse_action(self, text: str) -> str | None:
        """The move in textarena's form, e.g. `[up]`; case, brackets and surplus whitespace do not matter."""
        if len(text) > _MAX_CHARACTERS:
            return None
        move = " ".join(text.strip().removeprefix("[").removesuffix("]").lower().split())
        return f"[{move}]" if self._game.moves.fullmatch(move) else None

    def reseed(self, episode_seed: int) -> None:
        self._randomness = PrivateRandomness(int(self.board.randomness(episode_seed).integers(2**31)))

    def _act(self, action: Action) -> StepResult:
        with self._randomness():
            done, _ = self._env.step(action)
        self._show(action, self._hear())
        if not done:
            return StepResult(reward=0.0, done=False, success=False)
        rewards, infos = self._env.close()
        self._lines.append(infos[0]["reason"])
        reward = float(rewards[0])
        return StepResult(reward=reward, done=True, success=reward >= 1.0)

    def _hear(self) -> defaultdict[str, list[str]]:
        """What the game has said since the last call, by kind of message; what the player said is left out."""
        heard = defaultdict(list)
        for _, message, kind in self._env.get_observation()[1]:
            if kind.name != "PLAYER_ACTION":
                heard[kind.name].append(message.rstrip())
        return heard

    def _show(self, action: str, heard: Mapping[str, list[str]]) -> None:
        """The state after a move: complaints and the board, or in a game without one all moves and their answers.

        Moves are canonical: they hold no word but those of the grammar.
        """
        if self._game.board:
            self._board = heard.get("GAME_BOARD", self._board)[-1:]
            self._lines = [*heard.get("GAME_ADMIN", []), *self._board]
        else:
            answers = [message for messages in heard.values() for message in messages]
            self._lines = [*self._lines, *(f"{action} {answer}" for answer in answers)]


def _game(task: str) -> _Game:
    game = _GAMES.get(task.partition("-")[0])
    if game is None:
        raise ConfigurationError("env.task", task, "no offered game", f"Use a variant of {', '.join(_GAMES)}")
    return game


def _make(task: str) -> Any:
    textarena = require_package("textarena")
    try:
        return textarena.make(f"{task}-raw")  # without the wrappers, which add what the player said
    except ValueError as error:
        raise ConfigurationError("env.task", task, f"textarena does not know it ({error})", "Write its id") from error
