"""A scripted crafter: says what the goal needs and what it holds, then follows the oracle's plan.

Its fault has a direction: it crafts the goal before it holds what that takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from actfocus_verl.environments.scripted import ScriptedPlayer
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.textcraft.planner import shortest_plan
from actfocus_verl.environments.textcraft.recipes import Recipe, book
from actfocus_verl.environments.textcraft.tasks import Task


class Workshop(Protocol):
    """What the crafter looks at: of `TextCraft`, which imports this module."""

    limits: Limits
    task: Task

    @property
    def inventory(self) -> dict[str, int]: ...


def plan(world: Workshop, rng: np.random.Generator, skill: float) -> list[str]:
    """The next commands of the shortest plan, as many as a turn may hold; a mistake ends them."""
    commands = []
    for command in shortest_plan(world.task.goal, tuple(world.inventory.items()))[: world.limits.max_actions_per_turn]:
        right = rng.random() < skill
        commands.append(command if right else str(_last_recipe(world)))
        if not right:
            break
    return commands


def describe(world: Workshop) -> str:
    """The goal's recipe against the inventory, one input after another: never a command."""
    held = world.inventory
    wanted = [f"{amount} {name}: {_verdict(name, amount, held)}" for amount, name in _last_recipe(world).inputs]
    things = ", ".join(f"{amount} {item}" for item, amount in held.items()) or "nothing"
    return f"I want {world.task.goal}. I hold {things}. It takes {'; '.join(wanted)}."


def _last_recipe(world: Workshop) -> Recipe:
    """The recipe that the plan ends with, by the names of the recipe itself."""
    last = shortest_plan(world.task.goal, tuple(world.inventory.items()))[-1]
    used = [part.split(" ", 1) for part in last.partition(" using ")[2].split(", ")]
    return next(each for each in book().recipes[world.task.goal] if _follows(used, each))


def _follows(used: Sequence[Sequence[str]], recipe: Recipe) -> bool:
    """Whether the inputs (amount, item) are those of the recipe, items of its groups included."""
    return len(used) == len(recipe.inputs) and all(
        given == str(amount) and item in (name, *book().groups.get(name, ()))
        for (given, item), (amount, name) in zip(used, recipe.inputs, strict=True)
    )


def _verdict(name: str, amount: int, held: dict[str, int]) -> str:
    most = max(held.get(item, 0) for item in (name, *book().groups.get(name, ())))
    return "there" if most >= amount else "missing"


PLAYER = ScriptedPlayer(
    plan,
    describe,
    skill={"loose": 0.6, "coupled": 0.5},
    episodes=7000,
    batch_size=8,
    learning_rate=2e-3,
    # With the space before it, so that the words of a name follow each other.
    copied=r"(?<![a-z\d]) ?\d+| [a-z]+(?=[ ,.;:\n])",
    learn_pages=True,
    rope_theta=1e8,
    induction=True,
)
