"""The worlds that a package plays: what their tests share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from actfocus_verl.environments import World, make_world

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PackageWorld:
    """name: of the world, its folder, configuration, extra. package: skipped without it. java: and without that.

    extra: with which it is installed, by default its name. boards: pinned, compared for the leak check (train,
    evaluation), and played by the oracle. nightly: played by the oracle then, of each preset and split. own_code: a
    pattern of what the package evaluates of its own. settings: of the boards that the tests play. vocabulary: parts
    that hostile replies are made of.
    """

    name: str
    package: str
    vocabulary: str
    settings: tuple[tuple[str, Any], ...] = ()
    java: bool = False
    extra: str = ""
    own_code: str = ""
    boards: tuple[int, int, int, int] = (24, 150, 40, 12)
    nightly: int = 200

    def __post_init__(self) -> None:
        if not self.extra:
            object.__setattr__(self, "extra", self.name)

    def require(self) -> None:
        """Skip the test where something is missing."""
        if find_spec(self.package) is None:
            pytest.skip(f"{self.package} is not installed: pip install 'actfocus_verl[{self.extra}]'")
        if self.java and which("java") is None:
            pytest.skip("java is not installed: apt-get install default-jre-headless")

    def world(self, *, split: str = "train", index: int = 0, episode_seed: int = 0, **settings: Any) -> World:
        self.require()
        overrides = {**dict(self.settings), **settings}
        return make_world(self.name, split=split, index=index, episode_seed=episode_seed, **overrides)


TEXTCRAFT = PackageWorld(
    "textcraft",
    "textcraft",
    "get|craft|using|1|2|4|0|-1|007|999|1000|oak logs|oak planks|planks|stick|iron ingot|,|inventory|minecraft:",
)
BABYAI = PackageWorld(
    "babyai",
    "minigrid",
    "turn left|turn right|go forward|pick up|drop|toggle|done|0|6|-1|left|right|open|the|red ball|||",
    nightly=42,  # its bot takes seconds for a board of the mazes
)
TEXTWORLD_EXPRESS = PackageWorld(
    "textworld_express",
    "textworld_express",
    "take|put|in|open|close|move north|look around|read|box|door|fridge|cookbook|eggplant|task|help|;|inventory",
    java=True,
    boards=(24, 150, 40, 4),
)
ALFRED_ROOMS = PackageWorld(
    "alfred_rooms",
    "alfworld",
    "go to|take|open|close|move|heat|with|from|look|inventory|help|examine|fridge 1|apple 1|cabinet 1|1|-1|I|agent1",
    settings=(("preset", "easy"),),
    extra="alfred",
    own_code=r"[rol][a-z\d]*(\.(name|id|indefinite)( or r\.id| \+ ' ' \+ o2?\.name)?)? ?",  # grammar
    boards=(4, 150, 40, 6),
    nightly=40,  # a plan takes half a second
)
PACKAGE_WORLDS = [TEXTCRAFT, BABYAI, TEXTWORLD_EXPRESS, ALFRED_ROOMS]

every_world = pytest.mark.parametrize("case", PACKAGE_WORLDS, ids=lambda case: case.name)

_FORBIDDEN = ("compile", "exec", "open", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
_watched: list[tuple[str, tuple[Any, ...]]] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and event in _FORBIDDEN:
        _watched.append((event, arguments))


@contextmanager
def no_code_and_no_files(own_code: str = "") -> Iterator[None]:
    """Fails where code is compiled or executed, a file opened or a process started within.

    own_code: a pattern; whatever is compiled and matches it may also be executed, once.
    """
    global _watched
    if _hook not in _installed:
        sys.addaudithook(_hook)
        _installed.append(_hook)
    _watched = []
    try:
        yield
        compiled = [code for event, (code, *_) in _watched if event == "compile"]
        executed = [event for event, _ in _watched if event == "exec"]
        assert all(own_code and re.fullmatch(own_code, os.fsdecode(code)) for code in compiled), compiled
        assert len(executed) <= len(compiled)
        assert {event for event, _ in _watched} <= {"compile", "exec"}, _watched
    finally:
        _watched = None


_installed: list[Callable[..., None]] = []


def hash_seed_environment(seed: str) -> dict[str, str]:
    """Of a process with that PYTHONHASHSEED, in which this tree is imported."""
    return {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
