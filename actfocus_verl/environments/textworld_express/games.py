"""Games of the package `textworld-express`: one JVM a process, in which every world has its own game."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from shutil import which
from threading import Lock
from typing import Any

from actfocus_verl.environments.adapters.base import require_package
from actfocus_verl.errors import ConfigurationError

FOLDS = {"train": "train", "evaluation": "dev", "test": "test"}
SEEDS = 1000
"""Of each fold, for every game."""
_FIRST_SEED = {"train": 0, "evaluation": 10_000, "test": 20_000}
_SHARED = frozenset({"sorting"})
"""Games whose objects the package shares between all plays of a board: each command is done in a play made anew."""
_starting, _replaying = Lock(), Lock()


@dataclass(frozen=True)
class Board:
    """A game, its parameters as the package takes them, a split, and the seed, one of the split's fold."""

    game: str
    parameters: str
    split: str
    seed: int


def board_at(games: tuple[tuple[str, str], ...], split: str, index: int) -> Board:
    """Board `index` of a split: one game after another, each with the seeds of the fold in their order."""
    number, which_game = divmod(index, len(games))
    return Board(*games[which_game], split, _FIRST_SEED[split] + number)


def new_game(board: Board, *, gold: bool = False) -> tuple[Any, dict[str, Any]]:
    """The package's environment at the start of a board, and what it tells there. gold: with its solution.

    Raises ConfigurationError for parameters that the package refuses.
    """
    with _starting:
        game = _game_class()()
    with _replaying if board.game in _SHARED else nullcontext():
        try:
            _, told = game.reset(board.seed, FOLDS[board.split], board.game, board.parameters, gold)
        except ValueError as error:  # its own, and that of an answer which is no JSON
            raise _refused(board, str(error)) from error
    if told["observation"].startswith("ERROR"):
        raise _refused(board, told["observation"])
    return game, told


def _refused(board: Board, answer: str) -> ConfigurationError:
    problem = f"the package refuses these parameters ({' '.join(answer.split())[:200]})"
    remedy = f"Change the parameters of {board.game}, or leave them out"
    return ConfigurationError("env.games", f"{board.game} {board.parameters}", problem, remedy)


@dataclass
class Play:
    """One play of a board. told: what the package tells of the present state. taken: the commands so far."""

    board: Board

    def __post_init__(self) -> None:
        self._game, self.told = new_game(self.board)
        self.taken: list[str] = []

    def step(self, command: str) -> float:
        """Do a listed command; returns what it adds to the score."""
        if self.board.game in _SHARED:
            with _replaying:
                self._game.reset()
                for earlier in self.taken:
                    self._game.step(earlier)
                return self._step(command)
        return self._step(command)

    def _step(self, command: str) -> float:
        _, reward, _, self.told = self._game.step(command)
        self.taken.append(command)
        return float(reward)

    @property
    def commands(self) -> list[str]:
        """Those that the package lists in the present state, sorted."""
        return sorted(set(self.told["validActions"]))

    @property
    def solved(self) -> bool:
        """Whether the score is full."""
        return bool(self.told["score"] >= 1.0)

    @property
    def over(self) -> bool:
        """Whether the package goes on no more."""
        return bool(self.told["tasksuccess"] or self.told["taskfailure"] or self.solved)


@lru_cache(maxsize=4096)
def gold_path(board: Board) -> tuple[str, ...]:
    """The package's own solution without its detours, where it goes without them; listed commands only.

    The package searches rooms at random on the way, opens what is open, and goes on after the end. Empty where its
    commands do not solve the game: of two things with one name, a command takes the first.
    """
    game, _ = new_game(board, gold=True)
    play, seen = Play(board), [""]
    path: list[str] = []
    seen[0] = _state(play)
    for command in game.getGoldActionSequence():
        if play.over or command not in play.commands:
            continue
        play.step(command)
        state = _state(play)
        if state in seen:
            kept = seen.index(state)
            del path[kept:], seen[kept + 1 :]
        else:
            path.append(command)
            seen.append(state)
    if _solves(board, path):
        return tuple(path)
    return tuple(play.taken) if play.solved else ()


def _state(play: Play) -> str:
    told = play.told
    return f"{told['look']}/{told['inventory']}/{told['score']}/{play.commands}"


def _solves(board: Board, path: Sequence[str]) -> bool:
    play = Play(board)
    for command in path:
        if play.over or command not in play.commands:
            return False
        play.step(command)
    return play.solved


@cache
def _game_class() -> type[Any]:
    """The package's environment on the process' JVM, which all instances share.

    Raises ConfigurationError where the package or Java is missing.
    """
    package = require_package("textworld_express", extra="textworld_express")
    if which("java") is None:
        raise ConfigurationError(
            "env.name",
            "textworld_express",
            "the command java is not on PATH",
            "Install it: apt-get install default-jre-headless",
        )

    protocol = require_package("py4j.protocol", extra="textworld_express")

    class Game(package.TextWorldExpressEnv):  # type: ignore[misc, name-defined]
        _shared: Any = None

        def __init__(self) -> None:
            """As the package's, on the JVM that runs; the limit of steps is ours."""
            try:
                self._on_the_shared_jvm()
            except protocol.Py4JError:  # it has ended: as a child of this process, with an evaluation's engine, say
                type(self)._shared = None
                self._on_the_shared_jvm()
            self.envStepLimit = 2**31
            self.lastStepScore = 0
            self.gameName, self.gameParams, self.gameFold, self.seed = None, "", "train", None
            self.runHistory: list[Any] = []

        def _on_the_shared_jvm(self) -> None:
            if self._shared is None:
                type(self)._shared = package.TextWorldExpressEnv()
            self._gateway = self._shared._gateway
            self.server = self._gateway.jvm.textworldexpress.runtime.PythonInterface()

        def close(self) -> None:
            """Every instance closes when it is deleted; the JVM ends with the process."""

    return Game
