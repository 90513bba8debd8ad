"""The levels of the package `minigrid`, and the boards of a split: seeds whose boards differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from actfocus_verl.environments.adapters.base import require_package
from actfocus_verl.environments.distinct import DistinctBoards
from actfocus_verl.errors import ConfigurationError

_MOST_SEEDS = 2000
"""Tried for one board, before there is none to be hoped for."""
_PREFIX = "BabyAI-"


@dataclass(frozen=True)
class Board:
    """A level's board. canonical: mission, grid, and where the agent stands and looks."""

    level: str
    seed: int
    canonical: str


def new_game(level: str, seed: int) -> Any:
    """The package's environment at the start of a board."""
    game = _make(level)
    game.reset(seed=seed)
    return game


def _make(level: str) -> Any:
    return _gymnasium().make(known_levels()[level], disable_env_checker=True).unwrapped


def state_text(game: Any) -> str:
    """All that decides what comes of an action, but the number of steps taken."""
    held = game.carrying.encode() if game.carrying else None
    return f"{game.mission}/{game.agent_pos}/{game.agent_dir}/{held}/{game.grid.encode().tobytes().hex()}"


@cache
def known_levels() -> dict[str, str]:
    """Name of each level -> its id in gymnasium's registry: `GoToObj` -> `BabyAI-GoToObj-v0`."""
    ids = [name for name in _gymnasium().registry if name.startswith(_PREFIX)]
    return {name.removeprefix(_PREFIX).rpartition("-")[0]: name for name in sorted(ids)}


@cache
def boards(levels: tuple[str, ...], split: str) -> DistinctBoards[Board]:
    """The boards of a split: one level after another, no board twice, and none in two splits.

    Raises ConfigurationError for a level that the package does not have.
    """
    for level in levels:
        if level not in known_levels():
            known = ", ".join(known_levels())
            raise ConfigurationError("env.levels", level, "is not a known level", f"Known: {known}")

    def candidates(rng: np.random.Generator, stratum: int) -> Iterator[Board]:
        level = levels[stratum]
        game = _make(level)
        for _ in range(_MOST_SEEDS):
            seed = int(rng.integers(2**31))
            game.reset(seed=seed)
            yield Board(level, seed, state_text(game))

    return DistinctBoards(
        "babyai",
        split,
        range(len(levels)),
        candidates,
        lambda board: f"babyai/{board.level}/{board.canonical}",
        f"env.levels={','.join(levels)}",
    )


@cache
def _gymnasium() -> Any:
    """gymnasium with BabyAI's levels. Raises ConfigurationError where minigrid is missing."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    require_package("minigrid", extra="babyai")
    level = require_package("minigrid.envs.babyai.core.roomgrid_level", extra="babyai")
    level.print = lambda *words: None  # type: ignore[attr-defined]  # it reports every board that it rejects
    return require_package("gymnasium", extra="babyai")
