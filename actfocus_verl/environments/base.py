"""What a text world is: pure rules, a rendered state, and the limits an episode in it obeys.

The abstractions and their life cycle:

- `Limits` (in `settings`) is fixed by the preset and the user's overrides; the rollout reads it, the world only
  carries it.
- `World` is one board being played once. `make_world` creates it, the rollout asks for `system_prompt`, then
  alternates `render` (what the model sees), `parse_action` (text to action) and `step`, until `done`.
- `Observation` is what a state shows, `StepResult` what one action did.

Worlds know neither models nor tokens: nothing here imports torch, verl or ray.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from actfocus_verl.environments.answers import join_actions
from actfocus_verl.environments.scripted import ScriptedPlayer, random_player
from actfocus_verl.environments.settings import Limits, WorldConfig
from actfocus_verl.environments.splits import hex_digest, seeded_generator, stable_hash
from actfocus_verl.errors import ConfigurationError

__all__ = [
    "Action",
    "Limits",
    "Observation",
    "StepResult",
    "World",
    "observe",
]

Action: TypeAlias = Any
"""Each world has its own action type; everybody else passes it from `parse_action` to `step` unread."""


@dataclass(frozen=True)
class Observation:
    """What a state shows.

    images: in the order of the text. The rollout refuses them for now: no policy here is shown any.
    """

    text: str
    images: tuple[Any, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """What one action did: its reward, whether the episode is over, whether it was solved."""

    reward: float
    done: bool
    success: bool


class World(ABC):
    """One board played once. Seven members are a world's own; everything else has a default:

        class Countdown(World):
            @classmethod
            def create(cls, config, *, preset, split, index, episode_seed):
                world = cls(preset=preset, split=split, index=index, limits=config.limits())
                world.number = 2 + index % 8
                return world

            def system_prompt(self):
                return f"Count down to 0 exactly. Actions: One, Two. {action_rules(self.limits)}"

            def render(self):
                return f"Number: {self.number}."

            def parse_action(self, text):
                return {"one": 1, "two": 2}.get(text.strip().lower())

            def step(self, action):
                self.number -= action
                return StepResult(reward=float(self.success), done=self.done, success=self.success)

            @property
            def done(self):
                return self.number <= 0

            @property
            def success(self):
                return self.number == 0

    docs/extending.md trains one and then replaces the defaults that matter to it.
    """

    name: ClassVar[str] = ""
    """How messages name this world, and the key `register_world` makes it known by; by default the class's name."""
    configs: ClassVar[Mapping[str, WorldConfig]] = {"default": WorldConfig()}
    """The presets by name; the first one is taken where none is named."""
    split_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    """preset -> split -> boards; a split that is not listed is unbounded."""
    script: ClassVar[ScriptedPlayer | None] = None
    """Who demonstrates this world to the tiny policy."""
    slow: ClassVar[bool] = False
    """Whether making it or a step takes more than some 10 ms (a planner, a JVM). The rollout then does both in a thread
    beside its event loop, so that it stalls no other episode; the class keeps what its worlds share behind a lock."""
    action_names: ClassVar[Sequence[str]] = ()
    """Texts of actions that are valid in every state. Without a `script`, the tiny policy is taught to take one of them
    at random."""

    _board_hash: str | None = None

    def __init__(self, *, preset: str, split: str, index: int, limits: Limits) -> None:
        self.preset = preset
        self.split = split
        self.index = index
        self.limits = limits

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.name in ("", cls.__mro__[1].__name__):  # nobody has set it
            cls.name = cls.__name__

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
    def render(self) -> str | Observation:
        """The state as text, or as an Observation. Holds nothing a model wrote."""

    @abstractmethod
    def parse_action(self, text: str) -> Action | None:
        """The action that `text` names, or None when it names none."""

    @abstractmethod
    def step(self, action: Action) -> StepResult:
        """Perform one action. Raises RuntimeError when the episode is already over."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether the world takes no more actions."""

    @property
    @abstractmethod
    def success(self) -> bool:
        """Whether the task is solved."""

    def reseed(self, episode_seed: int) -> None:
        """Draw what is random during play from this seed from now on; what has happened stays.

        Forked rollouts call it where an episode leaves the one it was forked from, so that the two do not share their
        randomness. A world in which nothing is random overrides it with a method that does nothing. The default raises
        ConfigurationError: forks of a world that does not say might slip in step.
        """
        raise ConfigurationError(
            "rollout.name",
            "forked",
            f"world {self.name} does not say how its randomness is drawn anew",
            "Give it a method reseed(episode_seed), or use rollout=independent",
        )

    def anchor(self) -> int:
        """A hash of the present state in [0, 2**63): equal states of equal boards have equal anchors in any process.

        By default, states of a board that show the same text are equal.
        """
        return stable_hash(f"{self.board_hash()}/{self.done}/{observe(self).text}")

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

    def oracle(self) -> Sequence[str]:
        """Texts of the actions of the best player known, for one turn from the present state; nothing in it changes.

        By default those of the scripted player without its mistakes. Raises ConfigurationError where there is none.
        """
        if self.script is None:
            raise ConfigurationError("env.name", self.name, "has no oracle", "Choose a world that has one")
        return self.script.plan(self, seeded_generator("oracle", self.board_hash(), self.anchor()), 1.0)

    def oracle_reply(self) -> str:
        """The oracle's whole reply to the present state, in the form that replies of this world have."""
        return f"<think> </think> <answer> {join_actions(self.oracle())} </answer>"

    def optimal_return(self) -> float:
        """The expected episode return of the best play of this board within the limits; NaN where it is not known."""
        return math.nan

    def board_hash(self) -> str:
        """Hexadecimal hash of the starting board, equal for boards that a symmetry turns into each other.

        By default, boards that show the same text at the start are equal; `make_world` sees to it that it is the start.
        """
        if self._board_hash is None:
            self._board_hash = hex_digest(f"{self.name}/{observe(self).text}")
        return self._board_hash

    def stratum(self) -> int:
        """Difficulty class of the board: the length of its shortest solution; 0 where it is not known."""
        return 0

    @classmethod
    def scripted_player(cls) -> ScriptedPlayer:
        """Who demonstrates this world to the tiny policy: its `script`, else one that takes `action_names` at random.

        Raises ConfigurationError where it has neither.
        """
        if cls.script is not None:
            return cls.script
        if cls.action_names:
            return random_player(cls.action_names, lambda world: observe(world).text)
        raise ConfigurationError(
            "env.name",
            cls.name,
            "has neither a script nor action_names, so there is nothing to teach the tiny policy",
            "Choose a model (model.path=...)",
        )


def observe(world: World) -> Observation:
    """What `world.render` shows, whichever of its two forms it returns."""
    shown = world.render()
    return shown if isinstance(shown, Observation) else Observation(shown)
