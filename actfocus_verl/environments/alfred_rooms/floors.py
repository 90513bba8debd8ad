"""ALFRED's floor plans and its tables of what holds what, as the package `alfworld` brings them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from actfocus_verl.environments.adapters.base import require_package

LAMPS = ("DeskLamp", "FloorLamp")


@dataclass(frozen=True)
class Floor:
    """A floor plan. receptacles: (name, kind) of each. objects: kinds that occur in it. scene: Kitchen, Bedroom, ..."""

    number: int
    scene: str
    receptacles: tuple[tuple[str, str], ...]
    objects: tuple[str, ...]


def constants() -> ModuleType:
    """The package's tables."""
    return require_package("alfworld.gen.constants", extra="alfred")


@cache
def holders() -> dict[str, frozenset[str]]:
    """Kinds of objects that each kind of receptacle can hold, whole ones."""
    table = constants().VAL_RECEPTACLE_OBJECTS
    movable = set(constants().MOVABLE_RECEPTACLES)
    return {
        kind: frozenset(each for each in held if not each.endswith("Sliced"))
        for kind, held in sorted(table.items())
        if kind not in movable
    }


@cache
def floors(*, unseen: bool) -> Sequence[Floor]:
    """ALFRED's floor plans in their order: those of its training, or those that it keeps for its unseen split."""
    tables = constants()
    numbers = tables.TEST_SCENE_NUMBERS if unseen else tables.TRAIN_SCENE_NUMBERS
    return tuple(_floor(number) for number in numbers)


def _floor(number: int) -> Floor:
    tables = constants()
    folder = Path(str(tables.__file__)).parent / "layouts"
    placed = json.loads((folder / f"FloorPlan{number}-openable.json").read_text())
    named = json.loads((folder / f"FloorPlan{number}-objects.json").read_text())
    receptacles = [(name, _kind(name)) for name in sorted(placed)]
    known, closed = {kind for _, kind in receptacles}, set(tables.OPENABLE_CLASS_LIST)
    unplaced = [kind for kind in sorted(set(named)) if kind in holders() and kind not in known | closed]
    receptacles += [(f"{kind}|+00.00|+00.00|+00.00", kind) for kind in unplaced]
    held = frozenset[str]().union(*holders().values())
    return Floor(
        number,
        next(scene for scene, plans in tables.SCENE_TYPE.items() if number in plans),
        tuple((name, kind) for name, kind in receptacles if kind in holders()),
        tuple(kind for kind in sorted(set(named)) if kind in held or kind in LAMPS),
    )


def _kind(name: str) -> str:
    parts = name.split("|")
    return parts[-1] if parts[-1].endswith("Basin") else parts[0]
