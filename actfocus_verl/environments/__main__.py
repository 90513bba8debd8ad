"""Look at worlds from the terminal.

    python -m actfocus_verl.environments manifest env=sokoban split=evaluation n=512
    python -m actfocus_verl.environments overlap env=sokoban train=20000 evaluation=512
    python -m actfocus_verl.environments play env=sokoban preset=clean index=3

manifest: hash, stratum and optimal return of the first n boards of a split, the same on every machine.
overlap: the evaluation boards that are training boards too, in every preset.
play: type the actions of a turn, joined by ` || `, and see what a model would see; an empty line or Ctrl-D ends it.

Other keys, like size=5, are the world's own (see its README); preset, split and index have the usual defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from actfocus_verl.arguments import read_options
from actfocus_verl.environments.base import require_integer
from actfocus_verl.environments.boards import MANIFEST_HEADER, manifest, overlap
from actfocus_verl.environments.play import play
from actfocus_verl.environments.registry import known_presets, make_world
from actfocus_verl.errors import ConfigurationError


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(__doc__ or "")
        return 0 if arguments else 2
    try:
        command = _command(arguments[0])
        command(_options(arguments[1:]))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (BrokenPipeError, KeyboardInterrupt):  # `... | head`, Ctrl-C
        sys.stderr.close()
        return 1
    return 0


def _command(name: str) -> Callable[[dict[str, Any]], None]:
    if name not in _COMMANDS:
        raise ConfigurationError("command", name, "unknown command", f"Use one of: {', '.join(_COMMANDS)}")
    return _COMMANDS[name]


def _options(words: list[str]) -> dict[str, Any]:
    """The `key=value` words; `env` is required."""
    options = read_options(words)
    if "env" not in options:
        raise ConfigurationError("env", None, "no world was named", "Add for example env=frozen_lake")
    return options


def _count(options: dict[str, Any], key: str, default: int) -> int:
    value = options.pop(key, default)
    require_integer(key, value, low=1)
    return int(value)


def _preset(options: dict[str, Any]) -> str:
    """The preset that was named, or the world's first: `clean` where there is one."""
    return str(options.pop("preset", None) or known_presets(options["env"])[0])


def _manifest(options: dict[str, Any]) -> None:
    preset, split, env = _preset(options), options.pop("split", "evaluation"), options.pop("env")
    count = _count(options, "n", 512)
    sys.stdout.write(f"{MANIFEST_HEADER}\n")
    for line in manifest(env, preset=preset, split=split, count=count, overrides=options):
        sys.stdout.write(f"{line}\n")


def _overlap(options: dict[str, Any]) -> None:
    env = options.pop("env")
    train, evaluation = _count(options, "train", 20_000), _count(options, "evaluation", 512)
    for preset in [options.pop("preset")] if "preset" in options else known_presets(env):
        found = overlap(env, preset=preset, train=train, evaluation=evaluation, overrides=options)
        sys.stdout.write(f"{env}/{preset}: {found}\n")


def _play(options: dict[str, Any]) -> None:
    preset = _preset(options)
    world = make_world(options.pop("env"), preset=preset, **options)
    play(world, read=_read_line, write=sys.stdout.write)


def _read_line() -> str | None:
    """A typed line, or None at its end."""
    sys.stdout.write("> ")
    sys.stdout.flush()
    return sys.stdin.readline().strip() or None


_COMMANDS: dict[str, Callable[[dict[str, Any]], None]] = {"manifest": _manifest, "overlap": _overlap, "play": _play}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
