"""Worlds by name."""

from __future__ import annotations

from actfocus_verl.environments.base import World
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.environments.splits import require_split
from actfocus_verl.errors import ConfigurationError

_WORLDS: dict[str, type[World]] = {FrozenLake.name: FrozenLake}


def register_world(world: type[World]) -> type[World]:
    """Make a world of one's own known under its `name`; usable as a class decorator. A taken name is an error."""
    known = _WORLDS.setdefault(world.name, world)
    if known is not world:
        raise ConfigurationError("env.name", world.name, f"already taken by {known.__name__}", "Choose another name")
    return world


def known_worlds() -> tuple[str, ...]:
    """Names of all registered worlds, sorted."""
    return tuple(sorted(_WORLDS))


def known_presets(name: str) -> tuple[str, ...]:
    """Names of the presets of world `name`."""
    return _world_class(name).presets()


def make_world(
    name: str,
    *,
    preset: str = "clean",
    split: str = "train",
    index: int = 0,
    episode_seed: int = 0,
    **overrides: object,
) -> World:
    """A fresh world at the start of board `index`.

    The same (name, preset, split, index, overrides) is the same board in every process; `episode_seed` drives only
    what is random during play, so the members of a group share a board and differ in their luck.
    Raises ConfigurationError for an unknown name, preset, split or override, an impossible value, or an index that
    the split does not have.
    """
    world = _world_class(name)
    _require_preset(world, preset)
    require_split(split)
    return world.create(preset=preset, split=split, index=index, episode_seed=episode_seed, overrides=overrides)


def split_size(name: str, *, preset: str = "clean", split: str = "train") -> int | None:
    """Boards in a split; None where every index from 0 upward has one."""
    world = _world_class(name)
    _require_preset(world, preset)
    require_split(split)
    return world.split_size(preset, split)


def _world_class(name: str) -> type[World]:
    if name not in _WORLDS:
        raise ConfigurationError("env.name", name, "unknown world", f"Use one of: {', '.join(known_worlds())}")
    return _WORLDS[name]


def _require_preset(world: type[World], preset: str) -> None:
    if preset not in world.presets():
        raise ConfigurationError(
            "env.preset", preset, f"unknown preset of {world.name}", f"Use one of: {', '.join(world.presets())}"
        )
