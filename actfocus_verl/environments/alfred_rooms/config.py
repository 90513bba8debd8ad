"""Everything about ALFRED's rooms that a preset sets and a user may override."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.checks import require_integer
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.errors import ConfigurationError

TASKS = ("pick", "look", "clean", "heat", "cool", "pick_two")
"""ALFWorld's task types 1 to 6."""


@dataclass(frozen=True, kw_only=True)
class AlfredRoomsConfig(WorldConfig):
    """tasks: joined by `|`; board i is of task i modulo them.

    At most so many: receptacles of a floor plan, objects (kinds of them in a room), copies of each kind.
    """

    tasks: str = "|".join(TASKS)
    receptacles: int = 12
    objects: int = 8
    copies: int = 2
    max_turns: int = 50
    max_actions_per_turn: int = 1
    max_actions_per_episode: int = 50
    max_words: int = 120
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        named = self.task_names if isinstance(self.tasks, str) else ()
        if not named or not set(named) <= set(TASKS):
            raise ConfigurationError(
                "env.tasks", self.tasks, "must be known tasks joined by |", f"Known: {', '.join(TASKS)}"
            )
        require_integer("env.receptacles", self.receptacles, low=3)
        require_integer("env.objects", self.objects, low=2)
        require_integer("env.copies", self.copies, low=1, high=5)
        # a command is admissible in the state it was chosen in
        require_integer("env.max_actions_per_turn", self.max_actions_per_turn, low=1, high=1)
        super().__post_init__()

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.tasks.split("|"))


PRESETS: dict[str, AlfredRoomsConfig] = {
    "rooms": AlfredRoomsConfig(),
    "easy": AlfredRoomsConfig(
        tasks="pick|look",
        receptacles=6,
        objects=4,
        copies=1,
        max_turns=12,
        max_actions_per_episode=12,
        max_words=60,
        max_turn_tokens=160,
    ),
}
