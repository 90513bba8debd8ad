"""Rooms of our own making: a floor plan, a goal of ALFRED's, and objects put where ALFRED's tables let them be.

Which split a goal is of: ALFRED's unseen floor plans are for the test. In the others, a keyed hash of floor plan, task,
object and target decides, so that no goal of the evaluation is trained on in the same room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from actfocus_verl.environments.adapters.base import require_package
from actfocus_verl.environments.alfred_rooms.floors import LAMPS, Floor, constants, floors, holders
from actfocus_verl.environments.distinct import no_such_board
from actfocus_verl.environments.splits import seeded_generator, split_of

_GOALS = {
    "pick": "pick_and_place_simple",
    "look": "look_at_obj_in_light",
    "clean": "pick_clean_then_place_in_recep",
    "heat": "pick_heat_then_place_in_recep",
    "cool": "pick_cool_then_place_in_recep",
    "pick_two": "pick_two_obj_and_place",
}
"""Our names of tasks: the package's keys of their goals."""
_APPLIANCES = {"clean": ("SinkBasin", "Cleanable"), "heat": ("Microwave", "Heatable"), "cool": ("Fridge", "Coolable")}
_ATTEMPTS = 500


@dataclass(frozen=True)
class Goal:
    """What is asked for. target: the kind of receptacle, or of lamp. text: as ALFWorld prints it."""

    task: str
    kind: str
    target: str
    text: str


@dataclass(frozen=True)
class Room:
    """A board. receptacles: (name, kind). objects: (name, kind, name of the receptacle that it is in)."""

    floor: int
    goal: Goal
    receptacles: tuple[tuple[str, str], ...]
    objects: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Size:
    """receptacles, objects, copies: at most so many; see `AlfredRoomsConfig`."""

    receptacles: int
    objects: int
    copies: int


@lru_cache(maxsize=4096)
def room_at(tasks: tuple[str, ...], size: Size, split: str, index: int) -> Room:
    """Board `index` of a split. Raises ConfigurationError where no room fits."""
    task = tasks[index % len(tasks)]
    rng = seeded_generator("alfred_rooms", task, size.receptacles, size.objects, size.copies, split, index)
    plans = floors(unseen=split == "test")
    for _ in range(_ATTEMPTS):
        floor = plans[int(rng.integers(len(plans)))]
        room = _furnish(floor, task, size, split, rng)
        if room is not None:
            return room
    settings = f"env.tasks={task}, env.receptacles={size.receptacles}"
    raise no_such_board(split, index, f"a room for {task}", settings)


def _furnish(floor: Floor, task: str, size: Size, split: str, rng: np.random.Generator) -> Room | None:
    goals = [pair for pair in _goals(floor, task) if _is_of(split, floor, task, *pair)]
    if not goals:
        return None
    kind, target = goals[rng.integers(len(goals))]
    kept = _keep(floor, {target, *_APPLIANCES.get(task, ())[:1]}, size.receptacles, rng)
    objects: list[tuple[str, str, str]] = []
    for each in _some(floor.objects, {kind, target}, size.objects, rng):
        places = [name for name, of in kept if _may_lie(each, of) and not (each == kind and of == target)]
        least = (2 if task == "pick_two" else 1) if each == kind else 0
        wanted = 1 if each in LAMPS else max(least, int(rng.integers(1, size.copies + 1)))
        if not places and each in (kind, target):
            return None
        numbers = range(1, wanted + 1) if places else ()
        objects += [(f"{each}|{number}", each, places[rng.integers(len(places))]) for number in numbers]
    templates = require_package("alfworld.gen.goal_library", extra="alfred").gdict[_GOALS[task]]["templates"]
    names = {"obj": kind.lower(), "recep": target.lower(), "toggle": target.lower(), "mrecep": ""}
    text = templates[rng.integers(len(templates))].format(**names)
    return Room(floor.number, Goal(task, kind, target, text), kept, tuple(objects))


def goal_pddl(goal: Goal) -> str:
    """The package's goal with its kinds filled in."""
    library = require_package("alfworld.gen.goal_library", extra="alfred").gdict
    filled: str = library[_GOALS[goal.task]]["pddl"].format(obj=goal.kind, recep=goal.target, toggle=goal.target)
    return filled.replace("#", "-").strip()


def _goals(floor: Floor, task: str) -> Iterator[tuple[str, str]]:
    """(object, target) that the task may be about on this floor plan, in a fixed order."""
    if floor.scene not in constants().GOALS_VALID[_GOALS[task]]:
        return
    kinds = sorted({kind for _, kind in floor.receptacles})
    targets = [kind for kind in floor.objects if kind in LAMPS] if task == "look" else kinds
    appliance, property_ = _APPLIANCES.get(task, (None, None))
    if appliance is not None and appliance not in kinds:
        return
    able = constants().VAL_ACTION_OBJECTS[property_] if property_ else floor.objects
    for each in floor.objects:
        if each in LAMPS or each not in able:
            continue
        for target in targets:
            fits = task == "look" or (target != appliance and each in holders()[target])
            if fits and any(each in holders()[kind] for kind in kinds if kind != target):
                yield each, target


def _is_of(split: str, floor: Floor, task: str, kind: str, target: str) -> bool:
    if split == "test":
        return True
    evaluated = split_of(f"alfred_rooms/{floor.number}/{task}/{kind}/{target}") == "evaluation"
    return evaluated == (split == "evaluation")


def _keep(floor: Floor, needed: set[str], most: int, rng: np.random.Generator) -> tuple[tuple[str, str], ...]:
    """At most so many receptacles in the order of the floor plan, one of each needed kind among them."""
    drawn = [floor.receptacles[number] for number in rng.permutation(len(floor.receptacles))]
    first = [next(each for each in drawn if each[1] == kind) for kind in sorted(needed) if kind not in LAMPS]
    chosen = {*first, *[each for each in drawn if each not in first][: max(0, most - len(first))]}
    return tuple(each for each in floor.receptacles if each in chosen)


def _some(kinds: tuple[str, ...], needed: set[str], most: int, rng: np.random.Generator) -> list[str]:
    """At most so many of the kinds in their order, the needed ones among them."""
    drawn = [kinds[number] for number in rng.permutation(len(kinds)) if kinds[number] not in needed]
    chosen = {*needed, *drawn[: most - len(needed & set(kinds))]}
    return [kind for kind in kinds if kind in chosen]


def _may_lie(kind: str, receptacle: str) -> bool:
    """Lamps, of which the tables say nothing, stand on what holds most kinds of things and does not close."""
    if kind in LAMPS:
        return "Book" in holders()[receptacle] and receptacle not in constants().OPENABLE_CLASS_LIST
    return kind in holders()[receptacle]
