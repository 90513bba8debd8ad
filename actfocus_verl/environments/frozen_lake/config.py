"""Everything about FrozenLake that a preset sets and a user may override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from actfocus_verl.environments.base import Limits, require_integer, require_number
from actfocus_verl.errors import ConfigurationError

MAX_SIZE = 8
"""Holes are a 64-bit mask while boards are drawn."""


@dataclass(frozen=True)
class FrozenLakeConfig:
    """size: tiles a side. frozen_probability: of each tile but start and goal. success_rate: of the intended move.

    The other fields are those of `Limits`.
    """

    size: int = 4
    frozen_probability: float = 0.9
    success_rate: float = 0.8
    max_turns: int = 5
    max_actions_per_turn: int = 2
    max_actions_per_episode: int = 10
    max_words: int = 120
    max_turn_tokens: int = 400
    format_penalty: float = -0.1

    def __post_init__(self) -> None:
        require_integer("env.size", self.size, low=3, high=MAX_SIZE)
        require_number("env.frozen_probability", self.frozen_probability, low=0.0, high=1.0)
        require_number("env.success_rate", self.success_rate, low=0.0, high=1.0)
        self.limits()

    def limits(self) -> Limits:
        """The episode's limits; raises ConfigurationError when one of them cannot be."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})


PRESETS: dict[str, FrozenLakeConfig] = {"clean": FrozenLakeConfig(), "ragen": FrozenLakeConfig()}


def configure(preset: str, overrides: Mapping[str, object]) -> FrozenLakeConfig:
    """The preset with the overrides applied. Raises ConfigurationError for an unknown key or an impossible value."""
    known = [field.name for field in fields(FrozenLakeConfig)]
    for key, value in overrides.items():
        if key not in known:
            raise ConfigurationError(f"env.{key}", value, "unknown key of frozen_lake", f"Known: {', '.join(known)}")
        if not isinstance(value, int | float):  # also keeps what cannot be hashed out of the cache
            raise ConfigurationError(f"env.{key}", value, "must be a number", f"Set env.{key} to a number")
    return _configure(preset, tuple(sorted(overrides.items())))


@lru_cache(maxsize=256)
def _configure(preset: str, overrides: tuple[tuple[str, object], ...]) -> FrozenLakeConfig:
    return replace(PRESETS[preset], **dict(overrides))  # type: ignore[arg-type]
