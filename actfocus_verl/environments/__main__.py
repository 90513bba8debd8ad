"""Look at worlds from the terminal.

    python -m actfocus_verl.environments list
    python -m actfocus_verl.environments manifest env=sokoban split=evaluation n=512
    python -m actfocus_verl.environments overlap env=sokoban train=20000 evaluation=512
    python -m actfocus_verl.environments play env=sokoban preset=clean index=3

list: the worlds with their presets.
manifest: hash, stratum and optimal return of the first n boards of a split, the same on every machine.
overlap: the evaluation boards that are training boards too, in every preset or the one named.
play: type the actions of a turn, joined by ` || `, and see what a model would see; an empty line or Ctrl-D ends it.
`actfocus worlds oracle` (actfocus_verl.worlds) plays whole episodes with a world's oracle.

Any other key, like size=5, is the world's own (see its README).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rich.console import Console

from actfocus_verl.arguments import build_arguments, help_text, option, read_options
from actfocus_verl.command import EXIT_FAILED, run_command, start
from actfocus_verl.environments.boards import MANIFEST_HEADER, manifest, overlap
from actfocus_verl.environments.play import play
from actfocus_verl.environments.registry import known_presets, known_worlds, make_world
from actfocus_verl.errors import ConfigurationError


@dataclass(frozen=True)
class Arguments:
    """The keys of all commands; each takes its own, and any other key is the world's."""

    env: str = option("world, like frozen_lake")
    preset: str | None = option("preset of the world; default: its first; overlap: every one", None)
    split: str = option("manifest, play: split of the boards; manifest: default evaluation", "train")
    n: int = option("manifest: boards listed, the first of the split", 512, low=1)
    train: int = option("overlap: training boards compared", 20_000, low=1)
    evaluation: int = option("overlap: evaluation boards compared", 512, low=1)
    index: int = option("play: index of the board in its split", 0, low=0)
    episode_seed: int = option("play: seed of the world's randomness", 0, low=0)

    @property
    def first_preset(self) -> str:
        """The preset that was named, or the world's first: `clean` where there is one."""
        return self.preset or known_presets(self.env)[0]


class _Command(NamedTuple):
    run: Callable[[Arguments, dict[str, Any]], None]
    """Takes the arguments and the world's keys."""
    keys: tuple[str, ...]
    """Of Arguments, beside env and preset."""
    defaults: Mapping[str, Any] = {}
    """Where they are not those of Arguments."""


def main(words: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        return run_command(words, _run, lambda: help_text(__doc__ or "", Arguments))
    except BrokenPipeError:  # ... | head
        sys.stderr.close()
        return EXIT_FAILED


def _run(words: Sequence[str], console: Console) -> None:
    name = words[0]
    if name not in ("list", *_COMMANDS):
        known = ", ".join(("list", *_COMMANDS))
        raise ConfigurationError("command", name, "unknown command", f"Use one of: {known}")
    if name == "list":
        _list(words[1:])
        return
    command = _COMMANDS[name]
    options = read_options(words[1:])
    own = {key: options.pop(key) for key in ("env", "preset", *command.keys) if key in options}
    command.run(build_arguments(Arguments, {**command.defaults, **own}), options)


def _list(words: Sequence[str]) -> None:
    if words:
        raise ConfigurationError("argument", words[0], "list takes none", "Leave it out")
    for name in known_worlds():
        sys.stdout.write(f"{name}: {', '.join(known_presets(name))}\n")


def _manifest(given: Arguments, world: dict[str, Any]) -> None:
    sys.stdout.write(f"{MANIFEST_HEADER}\n")
    for line in manifest(given.env, preset=given.first_preset, split=given.split, count=given.n, overrides=world):
        sys.stdout.write(f"{line}\n")


def _overlap(given: Arguments, world: dict[str, Any]) -> None:
    for preset in [given.preset] if given.preset else known_presets(given.env):
        found = overlap(given.env, preset=preset, train=given.train, evaluation=given.evaluation, overrides=world)
        sys.stdout.write(f"{given.env}/{preset}: {found}\n")


def _play(given: Arguments, world: dict[str, Any]) -> None:
    board: dict[str, Any] = {"split": given.split, "index": given.index, "episode_seed": given.episode_seed}
    fresh = make_world(given.env, preset=given.first_preset, **board, **world)
    play(fresh, read=_read_line, write=sys.stdout.write)


def _read_line() -> str | None:
    """A typed line, or None at its end."""
    sys.stdout.write("> ")
    sys.stdout.flush()
    return sys.stdin.readline().strip() or None


_COMMANDS: Final[dict[str, _Command]] = {
    "manifest": _Command(_manifest, ("split", "n"), {"split": "evaluation"}),
    "overlap": _Command(_overlap, ("train", "evaluation")),
    "play": _Command(_play, ("split", "index", "episode_seed")),
}


if __name__ == "__main__":
    start(main)
