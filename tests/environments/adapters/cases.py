"""The adapters as the tests walk through them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.environments import World, make_world

FOLDER = "actfocus_verl.environments.adapters"
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Case:
    """package: skipped without it. moves: world -> texts of actions to choose from. config: its file in configs/env."""

    package: str
    path: str
    config: str
    settings: dict[str, Any]
    moves: Callable[[World], list[str]] = field(repr=False)

    def world(self, *, split: str = "train", index: int = 0, episode_seed: int = 0, **settings: Any) -> Any:
        pytest.importorskip(self.package)
        overrides = {**self.settings, **settings}
        path = f"{FOLDER}.{self.path}"
        return make_world(path, preset="default", split=split, index=index, episode_seed=episode_seed, **overrides)


def run_python(code: str, *, hash_seed: str = "0") -> str:
    """What `code` prints in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def commands(world: World) -> list[str]:
    """Those a textworld game lists."""
    (line,) = [line for line in world.render().splitlines() if line.startswith("Commands: ")]
    return line.removeprefix("Commands: ").split(", ")


GYMNASIUM = Case(
    "gymnasium",
    "gymnasium_toy_text:GymnasiumToyText",
    "gymnasium",
    {"task": "FrozenLake-v1"},
    lambda world: ["Left", "down", " RIGHT ", "Up"],
)
REASONING_GYM = Case(
    "reasoning_gym",
    "reasoning_gym_question:ReasoningGymQuestion",
    "reasoning_gym",
    {"task": "chain_sum"},
    lambda world: ["17", "none"],
)
TEXTARENA = Case(
    "textarena",
    "textarena_game:TextArenaGame",
    "textarena",
    {"task": "FrozenLake-v0-random"},
    lambda world: ["Up", "down", "[left]", " RIGHT "],
)
TEXTWORLD = Case(
    "textworld", "textworld_game:TextWorldGame", "textworld", {"task": "tw-treasure_hunter", "level": 1}, commands
)
CASES = [GYMNASIUM, REASONING_GYM, TEXTARENA, TEXTWORLD]
