"""Worlds by name, or by the path of their class: `package.module:Class`."""

from __future__ import annotations

from functools import lru_cache
from pkgutil import resolve_name

from actfocus_verl.environments.base import World
from actfocus_verl.environments.scripted import ScriptedPlayer
from actfocus_verl.environments.settings import WorldConfig, configure
from actfocus_verl.environments.splits import require_index, require_split
from actfocus_verl.environments.tools import ToolWorld
from actfocus_verl.errors import ConfigurationError

_SHIPPED = {
    "alfred_rooms": "actfocus_verl.environments.alfred_rooms:AlfredRooms",
    "babyai": "actfocus_verl.environments.babyai:BabyAI",
    "bfcl_multi_turn": "actfocus_verl.environments.bfcl_multi_turn:BfclMultiTurn",
    "frozen_lake": "actfocus_verl.environments.frozen_lake:FrozenLake",
    "sokoban": "actfocus_verl.environments.sokoban:Sokoban",
    "sudoku": "actfocus_verl.environments.sudoku:Sudoku",
    "tau2_telecom": "actfocus_verl.environments.tau2_telecom:Tau2Telecom",
    "textcraft": "actfocus_verl.environments.textcraft:TextCraft",
    "textworld_express": "actfocus_verl.environments.textworld_express:TextWorldExpress",
    "webshop": "actfocus_verl.environments.webshop:WebShop",
}
"""Imported when first used: a process plays one world."""

_REGISTERED: dict[str, type[World]] = {}


def register_world(world: type[World]) -> type[World]:
    """Make a world of one's own known under its `name`; usable as a class decorator. A taken name is an error.

    Only in processes that import its module: in a run's configuration name its class by path instead.
    """
    known = _world_class(world.name) if world.name in known_worlds() else world
    if known is not world:
        raise ConfigurationError("env.name", world.name, f"already taken by {known.__name__}", "Choose another name")
    _REGISTERED[world.name] = world
    return world


def known_worlds() -> tuple[str, ...]:
    """Names of all worlds, those shipped and those registered, sorted."""
    return tuple(sorted(_SHIPPED.keys() | _REGISTERED.keys()))


def known_presets(name: str) -> tuple[str, ...]:
    """Names of the presets of world `name`."""
    return _world_class(name).presets()


def make_world(
    name: str,
    *,
    preset: str | None = None,
    split: str = "train",
    index: int = 0,
    episode_seed: int = 0,
    **overrides: object,
) -> World:
    """A fresh world at the start of board `index`. preset: None for the world's first.

    The same (name, preset, split, index, overrides) is the same board in every process; `episode_seed` drives only
    what is random during play, so the members of a group share a board and differ in their randomness, unless the board
    decides that as well (FrozenLake's `luck`).
    Raises ConfigurationError for an unknown name, preset, split or override, an impossible value, or an index that
    the split does not have.
    """
    kind = _world_class(name)
    preset = _preset(kind, preset)
    require_split(split)
    config = configure(kind.name, kind.configs[preset], overrides)
    require_index(index, split, kind.split_size(preset, split))
    world = kind.create(config, preset=preset, split=split, index=index, episode_seed=episode_seed)
    if kind.board_hash is World.board_hash:
        world.board_hash()  # names the board by what is seen of it, so it must be asked at the start
    return world


def is_slow(name: str) -> bool:
    """Whether the world of that name is to be made and played beside the event loop (see `World.slow`)."""
    return _world_class(name).slow


def acts_by_tools(name: str) -> bool:
    """Whether the world of that name is acted in by calls of functions (`ToolWorld`), and not by answers."""
    return issubclass(_world_class(name), ToolWorld)


def world_config(name: str, *, preset: str | None = None, **overrides: object) -> WorldConfig:
    """Every value that the boards of world `name` are played with: the preset's, with the overrides applied.

    Raises ConfigurationError as `make_world` does, which makes one of them.
    """
    kind = _world_class(name)
    configured: WorldConfig = configure(kind.name, kind.configs[_preset(kind, preset)], overrides)
    return configured


def split_size(name: str, *, preset: str | None = None, split: str = "train") -> int | None:
    """Boards in a split; None where every index from 0 upward has one. preset: None for the world's first."""
    kind = _world_class(name)
    preset = _preset(kind, preset)
    require_split(split)
    return kind.split_size(preset, split)


def scripted_player(name: str) -> ScriptedPlayer:
    """Who demonstrates world `name`. Raises ConfigurationError for an unknown name, or when nobody does."""
    return _world_class(name).scripted_player()


def _world_class(name: str) -> type[World]:
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _SHIPPED or ":" in str(name):
        return _import_world(_SHIPPED.get(name, name))
    known = ", ".join(known_worlds())
    raise ConfigurationError("env.name", name, "unknown world", f"Use one of: {known}; or package.module:Class")


@lru_cache(maxsize=64)
def _import_world(path: str) -> type[World]:
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "Write package.module:Class, importable in every process of the run"
        raise ConfigurationError("env.name", path, f"it cannot be imported ({error})", remedy) from error
    if not (isinstance(found, type) and issubclass(found, World)):
        raise ConfigurationError("env.name", path, "is not a subclass of World", "Name the world's class")
    return found


def _preset(world: type[World], preset: str | None) -> str:
    if preset is None:
        return world.presets()[0]
    if preset not in world.presets():
        raise ConfigurationError(
            "env.preset", preset, f"unknown preset of {world.name}", f"Use one of: {', '.join(world.presets())}"
        )
    return preset
