"""What the model is told about a board: our own words for what the agent sees."""

from __future__ import annotations

from typing import Any

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.babyai.view import name_of, things_in_sight, walls
from actfocus_verl.environments.settings import PAPER, Limits

ACTION_NAMES = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""By the package's numbers. Its seventh action does nothing and is left out."""


def system_prompt(limits: Limits) -> str:
    """Task, actions, limits. The paper's form leaves out what the actions need and what is rewarded."""
    rules = "" if limits.prompts == PAPER else _RULES
    return (
        "You are in a world of rooms with keys, balls, boxes and doors, and have a mission. You see what lies before "
        "you: `2 ahead, 1 left` is two cells to the front and one to the left.\n"
        f"{rules}Actions: {', '.join(ACTION_NAMES)}. {action_rules(limits)}"
    )


_RULES = (
    "`go forward` moves one cell, unless something is in it. `pick up`, `drop` and `toggle` act on the cell in front "
    "of you; you carry one thing at a time; `toggle` opens and closes doors, a locked one with the key of its colour "
    "in your hand, and opens boxes. To go to a thing is to stand before it and face it. The mission done gives reward "
    "1.\n"
)


def render(game: Any) -> str:
    """Mission, what is carried, what is in sight, and the walls."""
    seen = [f"{each.name} ({each.place})" for each in things_in_sight(game)]
    held = name_of(game.carrying) if game.carrying else "nothing"
    distances = [f"{each.place}" for each in walls(game)]
    return (
        f"Mission: {' '.join(game.mission.split())}.\nYou carry: {held}.\nYou see: {', '.join(seen) or 'nothing'}.\n"
        f"Walls: {', '.join(distances) or 'none in sight'}."
    )
