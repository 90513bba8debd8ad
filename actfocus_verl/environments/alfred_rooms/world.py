"""ALFRED's rooms as a `World`: the package's play behind its listed commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from actfocus_verl.environments.alfred_rooms import prompt
from actfocus_verl.environments.alfred_rooms.config import PRESETS, TASKS, AlfredRoomsConfig
from actfocus_verl.environments.alfred_rooms.game import Play
from actfocus_verl.environments.alfred_rooms.problem import problem
from actfocus_verl.environments.alfred_rooms.rooms import Room, Size, room_at
from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.splits import hex_digest, stable_hash

LONGEST_PLAN = 11
"""Commands, of any task: two things from two closed receptacles into a third one."""
_SIZES = {"evaluation": 240, "test": 240}


class AlfredRooms(World):
    """One room with a task; reward 1 when it is done, which ends the episode."""

    name = "alfred_rooms"
    configs = PRESETS
    split_sizes: ClassVar = dict.fromkeys(PRESETS, _SIZES)
    slow = True

    def __init__(self, room: Room, config: AlfredRoomsConfig, *, preset: str, split: str, index: int) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=config.limits())
        self.room = room
        self._played: Play | None = None
        self._done = False
        self._plan: tuple[str, ...] | None = None  # the planner's from here on, while it is known

    @classmethod
    def create(
        cls, config: AlfredRoomsConfig, *, preset: str, split: str, index: int, episode_seed: int
    ) -> AlfredRooms:
        room = room_at(config.task_names, Size(config.receptacles, config.objects, config.copies), split, index)
        return cls(room, config, preset=preset, split=split, index=index)

    @property
    def _play(self) -> Play:
        """Started when it is first asked for: it takes much longer than to draw a room."""
        if self._played is None:
            self._played = Play(self.room)
        return self._played

    def system_prompt(self) -> str:
        return prompt.system_prompt(self.room.goal.text, self.limits)

    def render(self) -> str:
        return prompt.render(self._play.feedback, self.room.goal.text, self._play.commands)

    def parse_action(self, text: str) -> str | None:
        """The listed command of that name, whatever its case and surplus whitespace."""
        words = " ".join(text.lower().split()) if len(text) < 200 else ""
        return words if words in self._play.commands else None

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError("AlfredRooms.step after the episode ended")
        self._play.step(action)
        self._done = self._play.won
        self._plan = self._plan[1:] if self._plan and self._plan[0] == action else None
        return StepResult(reward=float(self.success), done=self.done, success=self.success)

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def anchor(self) -> int:
        return stable_hash(f"{self.board_hash()}/{self.done}/{self._play.state}")

    @property
    def done(self) -> bool:
        return self._done

    success = done

    def oracle(self) -> Sequence[str]:
        """The next command of the planner's plan; where it finds none, one that changes nothing."""
        return [next(iter(self._planned()), "look")]

    def _planned(self) -> tuple[str, ...]:
        if self._plan is None:
            self._plan = tuple(self._play.plan())
        return self._plan

    def known_answer(self) -> str | None:
        """The next command of the planner's plan; None at the end."""
        return None if self.done else next(iter(self._planned()), None)

    def optimal_return(self) -> float:
        """1, since every task can be done in `LONGEST_PLAN` commands; NaN where an episode has fewer."""
        most = min(self.limits.max_turns, self.limits.max_actions_per_episode)
        return 1.0 if most >= LONGEST_PLAN else math.nan

    def board_hash(self) -> str:
        if self._board_hash is None:
            self._board_hash = hex_digest(f"{self.name}/{self.room.goal.text}/{problem(self.room)}")
        return self._board_hash

    def stratum(self) -> int:
        """ALFWorld's number of the task type, from 1."""
        return 1 + TASKS.index(self.room.goal.task)
