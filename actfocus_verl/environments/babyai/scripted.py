"""A scripted walker: says where what the mission names lies, then does what the bot would do.

Its fault has a direction: it goes forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from actfocus_verl.environments.babyai.prompt import ACTION_NAMES
from actfocus_verl.environments.babyai.view import name_of, things_in_sight
from actfocus_verl.environments.scripted import ScriptedPlayer, mistake

HABIT = "go forward"
_MOVES = ACTION_NAMES[:3]


class Walker(Protocol):
    """What the player looks at: of `BabyAI`, which imports this module."""

    game: Any

    def oracle(self) -> Sequence[str]: ...


def plan(world: Walker, rng: np.random.Generator, skill: float) -> list[str]:
    """The bot's next actions, as many as a turn may hold; a mistake ends them."""
    actions = []
    for action in world.oracle():
        right = rng.random() < skill
        actions.append(action if right else mistake(rng, HABIT, _MOVES))
        if actions[-1] != action:
            break
    return actions


def describe(world: Walker) -> str:
    """What is carried, and the place of every thing that the mission may mean: never an action."""
    mission = world.game.mission
    meant = [each for each in things_in_sight(world.game) if each.name.split()[-1] in mission]
    named = [each for each in meant if each.name.split()[-2] in mission] or meant
    places = " ".join(f"The {each.name} is {each.place}." for each in named[:2]) or "It is out of sight."
    held = f" I hold the {name_of(world.game.carrying)}." if world.game.carrying else ""
    return f"{places}{held}"


PLAYER = ScriptedPlayer(
    plan,
    describe,
    skill={"loose": 0.6, "coupled": 0.5},
    copied=r"(?:red|green|blue|purple|yellow|grey)(?= )|(?:ball|box|key|door)(?![a-z])|\d (?:ahead|left|right)",
    learn_pages=True,
)
