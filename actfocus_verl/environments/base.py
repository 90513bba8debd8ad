"""What a text world is: pure rules, a rendered state, and the limits an episode in it obeys.

The abstractions and their life cycle:

- `Limits` is fixed by the preset and the user's overrides; the rollout reads it, the world only carries it.
- `World` is one board being played once. `make_world` creates it, the rollout asks for `system_prompt`, then
  alternates `render` (what the model sees), `parse_action` (text to action) and `step`, until `done`.
- `StepResult` is what one action did.

Worlds know neither models nor tokens: nothing here imports torch, verl or ray.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from actfocus_verl.errors import ConfigurationError

if TYPE_CHECKING:
    from actfocus_verl.environments.scripted import ScriptedPlayer
    from actfocus_verl.environments.settings import WorldConfig

Action: TypeAlias = Any
"""Each world has its own action type; everybody else passes it from `parse_action` to `step` unread."""


@dataclass(frozen=True)
class Limits:
    """How long an episode and a reply may be, and what a malformed turn costs.

    max_turns: replies an episode may hold.
    max_actions_per_turn: actions kept of one reply; the rest is ignored.
    max_actions_per_episode: actions executed in all.
    max_words: the length limit a reply is told (not enforced: `max_turn_tokens` is).
    max_turn_tokens: tokens sampled for one reply at most.
    format_penalty: added once to the reward of a turn that does not parse or holds an invalid action; at most 0.
    """

    max_turns: int
    max_actions_per_turn: int
    max_actions_per_episode: int
    max_words: int
    max_turn_tokens: int
    format_penalty: float

    def __post_init__(self) -> None:
        for key in ("max_turns", "max_actions_per_turn", "max_actions_per_episode", "max_words", "max_turn_tokens"):
            require_integer(f"env.{key}", getattr(self, key), low=1)
        require_number("env.format_penalty", self.format_penalty, low=float("-inf"), high=0.0)


@dataclass(frozen=True)
class StepResult:
    """What one action did: its reward, whether the episode is over, whether it was solved."""

    reward: float
    done: bool
    success: bool


class World(ABC):
    """One board played once. Subclasses set `name` and `configs`, implement `create` and the abstract members, and say
    what else they have; see `frozen_lake`."""

    name: ClassVar[str]
    """The key `make_world` knows this world by."""
    configs: ClassVar[Mapping[str, WorldConfig]]
    """The presets by name; the first one is what commands take when none is named."""
    split_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    """preset -> split -> boards; a split that is not there has one for every index from 0 upward."""
    script: ClassVar[ScriptedPlayer | None] = None
    """Who demonstrates this world to the tiny policy."""

    def __init__(self, *, preset: str, split: str, index: int, limits: Limits) -> None:
        self.preset = preset
        self.split = split
        self.index = index
        self.limits = limits

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Names of the presets."""
        return tuple(cls.configs)

    @classmethod
    @abstractmethod
    def create(cls, config: Any, *, preset: str, split: str, index: int, episode_seed: int) -> World:
        """The world of an index that the split has; `episode_seed` drives only what is random during play.

        config: the preset's, with the user's overrides applied.
        """

    @classmethod
    def split_size(cls, preset: str, split: str) -> int | None:
        """Boards in the split; None where every index from 0 upward has one."""
        return cls.split_sizes.get(preset, {}).get(split)

    @abstractmethod
    def system_prompt(self) -> str:
        """Task, legend, actions and limits: the first message of an episode."""

    @abstractmethod
    def render(self) -> str:
        """The state as text. Holds nothing a model wrote."""

    @abstractmethod
    def parse_action(self, text: str) -> Action | None:
        """The action that `text` names, or None when it names none."""

    @abstractmethod
    def step(self, action: Action) -> StepResult:
        """Perform one action. Raises RuntimeError when the episode is already over."""

    def reseed(self, episode_seed: int) -> None:
        """Draw what is random during play from this seed from now on; what has happened stays.

        Forked rollouts call it where an episode leaves the one it was forked from, so that the two do not share their
        luck. A world without luck overrides it with a method that does nothing. Raises ConfigurationError where the
        world does not say: its forks might slip in step.
        """
        raise ConfigurationError(
            "rollout.name",
            "forked",
            f"world {self.name} does not say how its luck is drawn anew",
            "Give it a method reseed(episode_seed), or use rollout=independent",
        )

    @abstractmethod
    def anchor(self) -> int:
        """A hash of the present state in [0, 2**63): equal states of equal boards have equal anchors in any process."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether the world takes no more actions."""

    @property
    @abstractmethod
    def success(self) -> bool:
        """Whether the task is solved."""

    def outcome(self) -> Mapping[str, float]:
        """Further figures of the episode so far, by name; their means are logged beside the success rate."""
        return {}

    def known_answer(self) -> str | None:
        """What a reply to the present state should hold between its answer tags; None where nothing is known.

        Some estimators ask the policy after every turn how likely it finds this text. Where play moves on, it is the
        remaining optimal sequence of actions, as much of it as one reply may hold; where a goal stays the same, that
        goal. A world that always returns None offers none. Nothing in the world changes.
        """
        return None

    @abstractmethod
    def optimal_return(self) -> float:
        """The expected episode return of the best play of this board within the limits."""

    @abstractmethod
    def board_hash(self) -> str:
        """Hexadecimal hash of the starting board, equal for boards that a symmetry turns into each other."""

    @abstractmethod
    def stratum(self) -> int:
        """Difficulty class of the board: the length of its shortest solution."""

    @classmethod
    def scripted_player(cls) -> ScriptedPlayer:
        """Who demonstrates this world to the tiny policy. Raises ConfigurationError where there is nobody."""
        if cls.script is None:
            raise ConfigurationError(
                "env.name", cls.name, "no scripted player demonstrates this world", "Choose a model (model.path=...)"
            )
        return cls.script


def require_integer(key: str, value: object, *, low: int, high: int | None = None) -> None:
    """Raise ConfigurationError unless `value` is an int in [low, high]."""
    bounds = f"at least {low}" if high is None else f"between {low} and {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigurationError(key, value, f"must be an integer {bounds}", f"Set {key} to a value {bounds}")


def finite_number(value: object) -> float | None:
    """The number that a reward is; None for what is none: NaN, an infinity, None, a text, a list."""
    if isinstance(value, str | bytes):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # a tensor of several raises RuntimeError
        return None
    return number if math.isfinite(number) else None


def require_number(key: str, value: object, *, low: float, high: float) -> None:
    """Raise ConfigurationError unless `value` is a finite number in [low, high]."""
    number = None if isinstance(value, bool) or not isinstance(value, int | float) else finite_number(value)
    if number is None or not low <= number <= high:
        bounds = f"at most {high:g}" if low == float("-inf") else f"between {low:g} and {high:g}"
        raise ConfigurationError(key, value, f"must be a number {bounds}", f"Set {key} to a value {bounds}")
