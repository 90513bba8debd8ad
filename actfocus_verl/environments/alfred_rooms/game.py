"""The package's play of a room: textworld's PDDL environment with ALFRED's domain and grammar, and its planner."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from functools import cache
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
    "atlocation opened inreceptacle holds isclean ishot iscool istoggled ison issliced objectatlocation".split()
)
"""Predicates that make a state, but for what has been looked at."""
_loading = Lock()
_idle: deque[Any] = deque()
"""Environments whose worlds are gone: each has a copy of the planner's library, 34 MB, and takes the next room."""


class Play:
    """One play of a room."""

    def __init__(self, room: Room) -> None:
        with _loading:  # the translation of a problem swaps sys.stdout and sys.argv
            arguments = sys.argv
            try:
                self._env = _idle.pop() if _idle else _new_environment()
                grammar = _text("ALFRED_TWL2_PATH").replace("UNKNOWN GOAL", room.goal.text)
                self._env.load(
                    {"pddl_domain": _text("ALFRED_PDDL_PATH"), "grammar": grammar, "pddl_problem": problem(room)}
                )
                self._told = self._env.reset()
            finally:
                sys.argv = arguments
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
    pddl = require_package("textworld.envs.pddl", extra="alfred")
    names = require_package("alfworld.agents.environment.alfred_tw_env", extra="alfred")
    infos = textworld.EnvInfos(feedback=True, won=True, admissible_commands=True)
    return names.AlfredDemangler(pddl.PddlEnv(infos))


@cache
def _text(name: str) -> str:
    return Path(getattr(require_package("alfworld", extra="alfred"), name)).read_text()
