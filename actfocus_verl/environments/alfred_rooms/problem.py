"""A room as a PDDL problem of the package's domain, with names from which the package makes ALFWorld's."""

from __future__ import annotations

from functools import cache

from actfocus_verl.environments.alfred_rooms.floors import LAMPS, constants, holders
from actfocus_verl.environments.alfred_rooms.rooms import Room, goal_pddl

_START = "loc_bar_start"
_SPELT = {"|": "_bar_", "-": "_minus_", "+": "_plus_", ".": "_dot_"}
_ALWAYS = ("SinkBasin", "Microwave", "Fridge"), ("Knife", "ButterKnife")
"""Kinds that the domain names, so that a problem must too."""


@cache
def problem(room: Room) -> str:
    """The whole problem. Every receptacle has a place of its own; the agent starts at none of them."""
    kinds = sorted({kind for _, kind in room.receptacles} | set(_ALWAYS[0]))
    things = sorted({kind for _, kind, _ in room.objects} | set(_ALWAYS[1]))
    declared = [
        ("agent", ["agent1"]),
        ("location", [_START, *(_place(name) for name, _ in room.receptacles)]),
        ("receptacle", [spell(name) for name, _ in room.receptacles]),
        ("object", [spell(name) for name, *_ in room.objects]),
        ("rtype", [f"{kind}Type" for kind in kinds]),
        ("otype", [f"{kind}Type" for kind in things]),
    ]
    objects = "\n".join(f"{' '.join(names)} - {type_}" for type_, names in declared)
    holding = [f"(canContain {r}Type {o}Type)" for r in kinds for o in things if o in holders()[r]]
    init = ["(= (total-cost) 0)", f"(atLocation agent1 {_START})", *_furniture(room), *_things(room), *holding]
    goal = goal_pddl(room.goal).removesuffix(")")
    return (
        f"(define (problem alfred_rooms)\n(:domain alfred)\n(:objects\n{objects}\n)\n(:init\n"
        + "\n".join(init)
        + f"\n)\n{goal}\n(:metric minimize (total-cost))\n)\n"
    )


def _furniture(room: Room) -> list[str]:
    lines = []
    for name, kind in room.receptacles:
        lines += [f"(receptacleAtLocation {spell(name)} {_place(name)})", f"(receptacleType {spell(name)} {kind}Type)"]
        if kind in constants().OPENABLE_CLASS_LIST:
            lines.append(f"(openable {spell(name)})")
    return lines


def _things(room: Room) -> list[str]:
    tables = constants()
    properties = {
        "cleanable": tables.VAL_ACTION_OBJECTS["Cleanable"],
        "heatable": tables.VAL_ACTION_OBJECTS["Heatable"],
        "coolable": tables.VAL_ACTION_OBJECTS["Coolable"],
        "sliceable": tables.VAL_ACTION_OBJECTS["Sliceable"],
        "toggleable": tables.VAL_ACTION_OBJECTS["Toggleable"],
        "isReceptacleObject": tables.MOVABLE_RECEPTACLES_SET,
    }
    lines = []
    for name, kind, holder in room.objects:
        thing = spell(name)
        lines += [
            f"(objectType {thing} {kind}Type)",
            f"(inReceptacle {thing} {spell(holder)})",
            f"(wasInReceptacle {thing} {spell(holder)})",
            f"(objectAtLocation {thing} {_place(holder)})",
        ]
        lines += [f"({name_} {thing})" for name_, kinds in properties.items() if kind in kinds]
        if kind not in LAMPS:
            lines.append(f"(pickupable {thing})")
    return lines


def spell(name: str) -> str:
    """An ALFRED name in letters that PDDL takes, as the package undoes it."""
    return "".join(_SPELT.get(letter, letter) for letter in name)


def _place(receptacle: str) -> str:
    return spell(f"loc|{receptacle}")
