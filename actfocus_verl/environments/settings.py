"""What a preset sets and a user may override: the limits every world has, and the keys of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, TypeVar

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.errors import ConfigurationError

C = TypeVar("C", bound="WorldConfig")

FULL, PAPER = "full", "paper"
STRICT, LENIENT = "strict", "lenient"
NO_PREFILL, THINK = "none", "think"

_OPENINGS: Final = {NO_PREFILL: "", THINK: "<think>"}
_CHOICES: Final = {"prompts": (FULL, PAPER), "reply": (STRICT, LENIENT), "prefill": tuple(_OPENINGS)}


@dataclass(frozen=True)
class Limits:
    """How long an episode and a reply may be, what a policy is told, how it is read, what a malformed turn costs.

    max_turns: replies an episode may hold.
    max_actions_per_turn: actions kept of one reply; the rest is ignored.
    max_actions_per_episode: actions executed in all.
    max_words: the length limit a reply is told (not enforced: `max_turn_tokens` is).
    max_turn_tokens: tokens sampled for one reply at most.
    format_penalty: added once to the reward of a turn that does not parse or holds an invalid action; at most 0.
    prompts: `full` states every rule, limit and reward; `paper` what the paper's prompts tell, and no more.
    reply: `strict` takes a reply of the exact form only; `lenient` what the paper's code base takes.
    prefill: `think` ends every prompt with the opening tag, so that a reply begins inside its reasoning; or `none`.
    """

    max_turns: int
    max_actions_per_turn: int
    max_actions_per_episode: int
    max_words: int
    max_turn_tokens: int
    format_penalty: float
    prompts: str = FULL
    reply: str = STRICT
    prefill: str = NO_PREFILL

    def __post_init__(self) -> None:
        for key in ("max_turns", "max_actions_per_turn", "max_actions_per_episode", "max_words", "max_turn_tokens"):
            require_integer(f"env.{key}", getattr(self, key), low=1)
        require_number("env.format_penalty", self.format_penalty, high=0.0)
        for key, choices in _CHOICES.items():
            require_choice(f"env.{key}", getattr(self, key), choices=choices)

    @property
    def opening(self) -> str:
        """What the prompt already holds of every reply."""
        return _OPENINGS[self.prefill]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The limits of an episode (see `Limits`). A world's config subclasses it, adds its keys and sets the defaults.

    A subclass that validates its keys in `__post_init__` calls `super().__post_init__()` last.
    """

    max_turns: int = 5
    max_actions_per_turn: int = 2
    max_actions_per_episode: int = 10
    max_words: int = 120
    max_turn_tokens: int = 400
    format_penalty: float = -0.1
    prompts: str = FULL
    reply: str = STRICT
    prefill: str = NO_PREFILL

    def __post_init__(self) -> None:
        self.limits()

    def with_paper_protocol(self: C) -> C:
        """The same with the paper's prompts, and with replies opened and read as in its code base."""
        return replace(self, prompts=PAPER, reply=LENIENT, prefill=THINK)

    def limits(self) -> Limits:
        """The episode's limits; raises ConfigurationError when one of them cannot be."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})


def configure(world: str, preset: C, overrides: Mapping[str, object]) -> C:
    """The preset with the overrides applied. Raises ConfigurationError for an unknown key or an impossible value."""
    limits = {field.name for field in fields(Limits)}
    known = [field.name for field in fields(preset)]
    known.sort(key=lambda name: name in limits)  # the world's own keys first
    for key, value in overrides.items():
        if key not in known:
            raise ConfigurationError(f"env.{key}", value, f"unknown key of {world}", f"Known: {', '.join(known)}")
        if not isinstance(value, int | float | str):  # also keeps what cannot be hashed out of the cache
            raise ConfigurationError(f"env.{key}", value, "must be a number or a text", f"Set env.{key} to one")
    configured: C = _configure(preset, tuple(sorted(overrides.items())))
    return configured


@lru_cache(maxsize=256)
def _configure(preset: WorldConfig, overrides: tuple[tuple[str, object], ...]) -> Any:
    return replace(preset, **dict(overrides))  # type: ignore[arg-type]
