"""What all adapters share: seeds, one preset, the end of an episode, and a clear word where the library is absent."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import ClassVar

import numpy as np

from actfocus_verl.environments.base import Action, StepResult, World
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.environments.splits import SPLITS, hex_digest, seeded_generator
from actfocus_verl.errors import ConfigurationError

PRESET = "default"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(WorldConfig):
    """task: what the outer library is asked for, by its own name."""

    task: str

    def __post_init__(self) -> None:
        if not isinstance(self.task, str):
            raise ConfigurationError("env.task", self.task, "must be the name of a task", "Write the name of a task")
        super().__post_init__()


@dataclass(frozen=True)
class Board:
    """Which board: the task, and its place in a split."""

    world: str
    task: str
    split: str
    index: int

    def seeds(self) -> Iterator[int]:
        """Seeds below 2**31 to make the board from, the next one where a seed makes none. No two splits share one."""
        rng = seeded_generator(self.world, self.task, self.split, self.index)
        while True:
            yield 4 * int(rng.integers(2**29)) + SPLITS.index(self.split)

    def seed(self) -> int:
        """The first of `seeds`."""
        return next(self.seeds())

    def randomness(self, episode_seed: int) -> np.random.Generator:
        """The generator of what is random during play."""
        return seeded_generator(self.world, self.task, self.split, self.index, "episode", episode_seed)


class AdaptedWorld(World):
    """A world of another library, which tells neither difficulty nor best return.

    Subclasses set `name` and `configs`, and end their `__init__` with `_begin`.
    """

    configs: ClassVar[Mapping[str, AdapterConfig]]
    """{PRESET: what the task and the limits are by default}."""

    def __init__(self, config: AdapterConfig, board: Board, episode_seed: int) -> None:
        super().__init__(preset=PRESET, split=board.split, index=board.index, limits=config.limits())
        self.board = board
        self._last = StepResult(reward=0.0, done=False, success=False)

    def _begin(self, first_observation: str) -> None:
        """Name the board by the first thing that is seen of it: the outer libraries offer no canonical form."""
        self._board_hash = hex_digest(f"{self.name}/{self.board.task}/{first_observation}")

    @abstractmethod
    def _act(self, action: Action) -> StepResult:
        """Perform an action that `parse_action` returned, before the end."""

    @classmethod
    def create(cls, config: AdapterConfig, *, preset: str, split: str, index: int, episode_seed: int) -> AdaptedWorld:
        return cls(config, Board(cls.name, config.task, split, index), episode_seed)

    def step(self, action: Action) -> StepResult:
        if self.done:
            raise RuntimeError(f"{type(self).__name__}.step after the episode ended")
        self._last = self._act(action)
        return self._last

    @property
    def done(self) -> bool:
        return self._last.done

    @property
    def success(self) -> bool:
        return self._last.success


def require_package(name: str, extra: str = "worlds") -> ModuleType:
    """The module of that name. Raises ConfigurationError, which names the extra, when it cannot be imported."""
    try:
        return import_module(name)
    except ImportError as error:
        remedy = f'Install it: pip install "actfocus_verl[{extra}]"'
        raise ConfigurationError("env.name", name, f"the package cannot be imported ({error})", remedy) from error


class PrivateRandomness:
    """A state of its own for `random` and `numpy.random`, for libraries that draw from these shared generators."""

    _lock: ClassVar = RLock()

    def __init__(self, seed: int) -> None:
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed).get_state()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within, the shared generators continue from here; the process's own state comes back after."""
        with self._lock:
            outer_python, outer_numpy = random.getstate(), np.random.get_state()
            random.setstate(self._python)
            np.random.set_state(self._numpy)
            try:
                yield
            finally:
                self._python, self._numpy = random.getstate(), np.random.get_state()
                random.setstate(outer_python)
                np.random.set_state(outer_numpy)
