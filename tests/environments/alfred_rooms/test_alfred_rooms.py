"""ALFRED's rooms: the planner's plans against counting, splits by floor plan, plays that share nothing."""

from __future__ import annotations

import re
import sys
from itertools import combinations

import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.environments.alfred_rooms.floors import constants
from actfocus_verl.environments.alfred_rooms.world import LONGEST_PLAN
from actfocus_verl.errors import ConfigurationError
from tests.environments.package_worlds import ALFRED_ROOMS


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    ALFRED_ROOMS.require()


APPLIANCES = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}


def fewest_commands(world) -> int:
    """Counted by hand: go, open what is closed, take, carry, use; the agent starts at no receptacle."""
    goal, kinds = world.room.goal, dict(world.room.receptacles)
    closed = {name for name, kind in kinds.items() if kind in constants().OPENABLE_CLASS_LIST}
    sources = [holder for _, kind, holder in world.room.objects if kind == goal.kind]
    if goal.task == "look":
        lamps = {holder for _, kind, holder in world.room.objects if kind == goal.target}
        # go, take, use; or go, open, take, go to the lamp, use
        return min(3 if source in lamps else 4 + (source in closed) for source in sources)
    opened = any(kind == goal.target for kind in kinds.values() if kind in constants().OPENABLE_CLASS_LIST)
    if goal.task == "pick_two":  # go, take, go, move: twice
        return min(8 + len({*pair} & closed) + opened for pair in combinations(sources, 2))
    at_appliance = APPLIANCES.get(goal.task)
    detour = {source: 0 if at_appliance is None else 1 + (kinds[source] != at_appliance) for source in sources}
    return min(4 + detour[source] + (source in closed) + opened for source in sources)


def test_the_planners_plans_are_the_shortest_and_solve() -> None:
    for index in range(12):
        world = make_world("alfred_rooms", split="test", index=index, receptacles=8)  # larger ones take it seconds
        plan = world._planned()
        assert len(plan) <= LONGEST_PLAN
        assert len(plan) == fewest_commands(world), (world.room.goal, plan)
        for command in plan:
            assert world.parse_action(command) == command
            assert world.step(command).reward == float(world.done)
        assert world.success


def test_it_plans_anew_after_every_detour() -> None:
    world = make_world("alfred_rooms", preset="easy", index=2)
    for _ in range(3):
        wrong = next(each for each in world._play.commands if each.startswith("go to ") and each != world.oracle()[0])
        world.step(wrong)
    while not world.done:
        assert world.known_answer() == world.oracle()[0]
        world.step(world.oracle()[0])
    assert world.known_answer() is None


def test_splits_are_by_floor_plan_and_goal() -> None:
    rooms = {
        split: [make_world("alfred_rooms", split=split, index=index).room for index in range(120)]
        for split in ("train", "evaluation", "test")
    }
    floors = {split: {room.floor for room in of} for split, of in rooms.items()}
    assert floors["test"] <= set(constants().TEST_SCENE_NUMBERS)
    assert floors["train"] | floors["evaluation"] <= set(constants().TRAIN_SCENE_NUMBERS)
    goals = {
        split: {(room.floor, room.goal.task, room.goal.kind, room.goal.target) for room in of}
        for split, of in rooms.items()
    }
    assert not goals["train"] & goals["evaluation"]
    assert {room.goal.task for room in rooms["test"]} == {"pick", "look", "clean", "heat", "cool", "pick_two"}


def test_names_and_goals_are_as_alfworld_prints_them() -> None:
    world = make_world("alfred_rooms", index=3)
    shown = world.render()
    assert shown.startswith("You are in the middle of a room. Looking quickly around you, you see a ")
    assert re.search(r"Your task is to: (heat some|put a hot) [a-z]+ ", shown)
    assert "go to microwave 1" in shown
    world.step("go to microwave 1")
    assert world.render().startswith("You arrive at microwave 1. The microwave 1 is closed.")


def test_two_plays_of_a_room_do_not_disturb_each_other_or_the_process() -> None:
    arguments = list(sys.argv)
    first, second = (make_world("alfred_rooms", preset="easy", index=0) for _ in range(2))
    start = second.anchor()
    while not first.done:
        first.step(first.oracle()[0])
    assert second.anchor() == start != first.anchor()
    del first
    third = make_world("alfred_rooms", preset="easy", index=0)  # in the environment of the first
    assert (third.anchor(), third.render()) == (start, second.render())
    assert sys.argv == arguments


def test_only_listed_commands_are_actions() -> None:
    world = make_world("alfred_rooms", preset="easy", index=0)
    for text in ("help", "", "go to nowhere 1", "take everything", "look; look"):
        assert world.parse_action(text) is None
    assert world.parse_action(" LOOK ") == "look"


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"env\.tasks='fly': must be known tasks joined by \|"):
        make_world("alfred_rooms", tasks="fly")
    with pytest.raises(ConfigurationError, match=r"env\.receptacles=2"):
        make_world("alfred_rooms", receptacles=2)
