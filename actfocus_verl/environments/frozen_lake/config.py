"""Everything about FrozenLake that a preset sets and a user may override."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.checks import require_integer, require_number
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.errors import ConfigurationError

MAX_SIZE = 8
"""Holes are a 64-bit mask while boards are drawn."""

OWN, BOARD = "own", "board"


@dataclass(frozen=True, kw_only=True)
class FrozenLakeConfig(WorldConfig):
    """size: tiles a side. frozen_probability: of each tile but start and goal. success_rate: of the intended move.

    luck: `own` draws the slips of an episode from its own seed, `board` those of all episodes from the board's.
    """

    size: int = 4
    frozen_probability: float = 0.9
    success_rate: float = 0.8
    luck: str = OWN
    max_turns: int = 5
    max_actions_per_turn: int = 2
    max_actions_per_episode: int = 10
    max_words: int = 120
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        require_integer("env.size", self.size, low=3, high=MAX_SIZE)
        require_number("env.frozen_probability", self.frozen_probability, low=0.0, high=1.0)
        require_number("env.success_rate", self.success_rate, low=0.0, high=1.0)
        if self.luck not in (OWN, BOARD):
            raise ConfigurationError("env.luck", self.luck, "is not a known source of slips", f"Use {OWN} or {BOARD}")
        super().__post_init__()


PRESETS: dict[str, FrozenLakeConfig] = {
    "clean": FrozenLakeConfig(),
    "ragen": FrozenLakeConfig(luck=BOARD).with_paper_protocol(),
}
