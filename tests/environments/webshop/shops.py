"""Hand-made products and goals, and the plain play of a world, for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from actfocus_verl.environments.webshop import WebShop
from actfocus_verl.environments.webshop.catalogue import Product
from actfocus_verl.environments.webshop.goals import Goal
from actfocus_verl.environments.webshop.scripted import PLAYER

SHOE = Product(
    key="B0001",
    brand="Acme",
    name="running shoe",
    category=("Footwear", "Shoes", "running shoe"),
    attributes=("non slip", "vegan"),
    uses=("gym", "park", "city"),
    options=(("color", ("red", "blue")), ("size", ("8", "9"))),
    price=30,
    lines=("The sole is light weight.", "It lasts."),
    reviews=((5, "Good."), (2, "Bad.")),
)


def product(**changes: object) -> Product:
    return replace(SHOE, **changes)


def goal(
    wanted: Product = SHOE,
    attributes: tuple[str, ...] = ("non slip", "vegan"),
    options: tuple[tuple[str, str], ...] = (("color", "red"), ("size", "9")),
    bound: int = 30,
) -> Goal:
    return Goal(wanted, attributes, options, bound)


def act(world: WebShop, text: str) -> float:
    """The reward of a valid action."""
    action = world.parse_action(text)
    assert action is not None, (text, world.render())
    return world.step(action).reward


def scripted_actions(world: WebShop, skill: float, seed: int = 0) -> list[str]:
    """Play a world with the scripted buyer to the end of its time; returns the actions."""
    rng = np.random.default_rng(seed)
    actions = []
    for _ in range(min(world.limits.max_turns, world.limits.max_actions_per_episode)):
        if world.done:
            break
        actions += PLAYER.plan(world, rng, skill)
        act(world, actions[-1])
    return actions
