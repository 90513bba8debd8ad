"""The world: turns of a user with fixed words, simulated APIs, the package's checker of states and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from actfocus_verl.checks import require_choice
from actfocus_verl.environments.bare_packages import require_bare
from actfocus_verl.environments.bfcl_multi_turn.apis import Apis, unknown
from actfocus_verl.environments.bfcl_multi_turn.tasks import ALL, CATEGORIES, Task, tasks_of
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.tools import Schema, ToolCall, ToolWorld, ToolWorldConfig
from actfocus_verl.files import json_text

_STEPS: Final = 20
"""MAXIMUM_STEP_LIMIT of the package: replies with calls in one turn of the user; a further one fails the task."""
_CHECKER: Final = "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker"
_ADDED: Final = "There are further functions now:\n{functions}\nCan you do it with them?"

SYSTEM: Final = (
    "You act for a user by calling functions. Carry out what the user asks in the present message, with as many calls "
    "as it takes, and call nothing that was not asked for. When it is done, reply without a call: the user goes on. "
    "Reply without a call as well where no function serves the purpose or the user left out what it needs."
)


@dataclass(frozen=True, kw_only=True)
class BfclConfig(ToolWorldConfig):
    """category: which of the four sets, or all of them."""

    category: str = ALL
    max_turns: int = 150
    max_actions_per_turn: int = 500
    max_actions_per_episode: int = 5_000

    def __post_init__(self) -> None:
        require_choice("env.category", self.category, choices=(ALL, *CATEGORIES))
        super().__post_init__()


class BfclMultiTurn(ToolWorld):
    """One task of BFCL's multi-turn sets. Reward: 1 at the end of a task that the package's checker accepts."""

    name = "bfcl_multi_turn"
    configs: ClassVar[Mapping[str, BfclConfig]] = {"official": BfclConfig()}

    def __init__(self, task: Task, *, preset: str, split: str, index: int, limits: Limits) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=limits)
        self.task = task
        self._apis = Apis(task)
        self._gold = Apis(task)
        self._turn = 0
        self._steps = 0
        self._called_this_turn = 0
        self._responses: list[str] = []
        self._right = True
        self._turns_right = 0
        self._done = False

    @classmethod
    def split_size(cls, preset: str, split: str) -> int | None:
        return len(tasks_of(cls.configs[preset].category, split))

    @classmethod
    def create(cls, config: Any, *, preset: str, split: str, index: int, episode_seed: int) -> BfclMultiTurn:
        tasks = tasks_of(config.category, split)
        world = cls(tasks[index % len(tasks)], preset=preset, split=split, index=index, limits=config.limits())
        world.tool_format = config.tool_format
        return world

    def system_prompt(self) -> str:
        return SYSTEM

    def tools(self) -> Sequence[Schema]:
        return self.task.functions()

    def render(self) -> str:
        return self._words(self._turn)

    def knows(self, name: str) -> bool:
        """As in the package: also the functions that are not shown yet, or not at all."""
        return name in self._apis

    def unknown(self, name: str) -> str:
        said = unknown(name)
        self._note(said)
        return said

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        said = self._apis.call(name, arguments)
        self._note(said)
        return said

    def no_call(self) -> str | None:
        """The user's next words; after the last ones the task is over."""
        self._check_turn()
        self._turn += 1
        self._steps = self._called_this_turn = 0
        if self._turn == len(self.task.gold):
            self._done = True
            return None
        return self._words(self._turn)

    def begin_reply(self, names: Sequence[str]) -> None:
        """Count a reply with calls; one too many in a turn fails the task, as in the package."""
        self._steps += 1
        self._done = self._steps > _STEPS

    @property
    def done(self) -> bool:
        return self._done

    @property
    def success(self) -> bool:
        return self._done and self._right and self._turn == len(self.task.gold)

    def outcome(self) -> Mapping[str, float]:
        """turns_right: share of the user's turns before the first one that the checker does not accept."""
        return {"turns_right": self._turns_right / len(self.task.gold)}

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play: the APIs draw from the task's own seed."""

    def board_hash(self) -> str:
        return self.task.digest

    def stratum(self) -> int:
        """Calls of the package's solution."""
        return sum(map(len, self.task.gold))

    def optimal_return(self) -> float:
        return 1.0

    def oracle(self) -> Sequence[str]:
        """The package's calls of the present turn, all in one reply; then none."""
        if self._called_this_turn:
            return []
        return [str(ToolCall(*self._apis.bound(expression))) for expression in self.task.gold[self._turn]]

    def _note(self, response: str) -> None:
        self._responses.append(response)
        self._called_this_turn += 1

    def _words(self, turn: int) -> str:
        added = self.task.shown_in(turn)
        if not added:
            return self.task.user_words(turn)
        return _ADDED.format(functions="\n".join(json_text(schema) for schema in added))

    def _check_turn(self) -> None:
        """What the package's `multi_turn_checker` does after a turn of the user."""
        checker = require_bare(_CHECKER)
        expected = [self._gold.call(*self._gold.bound(call)) for call in self.task.gold[self._turn]]
        if expected and self._right:
            try:
                self._right = bool(
                    self._called_this_turn
                    and checker.state_checker(self._apis.instances, self._gold.instances)["valid"]
                    and checker.response_checker(self._responses, expected, self._turn)["valid"]
                )
            except RecursionError:  # a folder that was copied into itself has no end to compare
                self._right = False
        self._turns_right += self._right
