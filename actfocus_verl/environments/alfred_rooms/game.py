"""The package's play of a room: textworld's PDDL environment with ALFRED's domain and grammar, and its planner."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

from actfocus_verl.environments.adapters.base import require_package
from actfocus_verl.environments.alfred_rooms.problem import problem
from actfocus_verl.environments.alfred_rooms.rooms import Room

_HIDDEN = frozenset({"help"})
"""Commands that are not listed."""
_CHANGING = frozenset(
    "atlocation objectatlocation inreceptacle holds opened isclean ishot iscool istoggled ison issliced".split()  # noqa: SIM905
)
"""Predicates that make a state, but for what has been looked at."""
_loading = Lock()
"""The translation of a problem swaps sys.stdout and sys.argv, and its options are the module's."""
_idle: deque[Any] = deque()
"""Environments whose worlds are gone: each has a copy of the planner's library, 34 MB, and takes the next room."""


class Play:
    """One play of a room."""

    def __init__(self, room: Room) -> None:
        with _loading:
            self._env = _idle.pop() if _idle else _new_environment()
            with _untouched_arguments():
                self._env.load({"pddl_problem": problem(room)})
                self._told = self._env.reset()
        finalize(self, _idle.append, self._env)

    def step(self, command: str) -> None:
        """Do a listed command."""
        self._told, _, _ = self._env.step(command)

    @property
    def feedback(self) -> str:
        """What the last command led to; at the start, what there is in the room."""
        return str(self._told["feedback"])

    @property
    def commands(self) -> list[str]:
        """Those that the package lists in the present state, sorted."""
        return [command for command in self._told["admissible_commands"] if command not in _HIDDEN]

    @property
    def won(self) -> bool:
        return bool(self._told["won"])

    @property
    def state(self) -> str:
        """Everything that commands change, in a fixed order."""
        return ";".join(sorted(str(fact) for fact in self._told["_facts"] if fact.name in _CHANGING))

    def plan(self) -> Sequence[str]:
        """The planner's commands from the present state to the goal; empty where it finds none."""
        inner = self._env.unwrapped
        return tuple(" ".join(command.split()) for command in inner._pddl_state.replan(inner._entity_infos))


def _new_environment() -> Any:
    textworld = require_package("textworld", extra="alfred")
    require_package("fast_downward", extra="alfred")
    names = require_package("alfworld.agents.environment.alfred_tw_env", extra="alfred")
    infos = textworld.EnvInfos(feedback=True, won=True, admissible_commands=True)
    return names.AlfredDemangler(_room_environment()(infos))


@cache
def _room_environment() -> type[Any]:
    """The package's environment with ALFRED's domain and grammar, which it reads once and not for every room."""
    pddl = require_package("textworld.envs.pddl.pddl", extra="alfred")
    texts = require_package("alfworld", extra="alfred")
    domain, grammar = (Path(path).read_text() for path in (texts.ALFRED_PDDL_PATH, texts.ALFRED_TWL2_PATH))
    downward: Any = require_package("fast_downward", extra="alfred")
    # of the latest rooms: it takes most of a start, a start does it twice, and a group plays the same room
    downward.pddl2sas = lru_cache(maxsize=64)(downward.pddl2sas)

    class RoomEnv(pddl.PddlEnv):  # type: ignore[misc, name-defined]
        def __init__(self, infos: Any) -> None:
            super().__init__(infos)
            self._logic = pddl.pddl_logic.GameLogic(domain=domain, grammar=grammar)

        def load(self, data: Any) -> None:
            """As the package's, without reading domain and grammar again."""
            self._game_data = data
            self._pddl_state = pddl.pddl_logic.PddlState(self.downward_lib, data["pddl_problem"], self._logic)
            self._entity_infos = self._get_entity_infos()

    return RoomEnv


@contextmanager
def _untouched_arguments() -> Iterator[None]:
    """The package sets sys.argv to what it wants its own translator to read."""
    arguments = sys.argv
    try:
        yield
    finally:
        sys.argv = arguments
