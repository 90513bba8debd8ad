"""Tasks of TextCraft: a goal, and the recipes that are shown.

The package collects the recipes of a task in a set of texts, whose order follows PYTHONHASHSEED, and draws further ones
with the process's generator; and listing the recipes of one task adds them to those of the goal. Here both are drawn
from the task's own seed, on a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from actfocus_verl.environments.adapters.base import PrivateRandomness
from actfocus_verl.environments.splits import seeded_generator, split_of, stable_hash
from actfocus_verl.environments.textcraft.planner import shortest_plan
from actfocus_verl.environments.textcraft.recipes import book, item_id, package_game

LONGEST_PLAN = 30
"""Goals that take more commands are left out: two of the package's, which take 36 and 48."""


@dataclass(frozen=True)
class Task:
    """A goal, and the recipes that are shown, in order. depth: of the goal's recipe tree."""

    goal: str
    depth: int
    shown: tuple[str, ...]


@cache
def goals(split: str, min_depth: int, max_depth: int) -> Sequence[str]:
    """The items of those depths that a split asks for, in a fixed random order. No item is a goal of two splits."""
    found = [
        item
        for item, depth in book().depths.items()
        if min_depth <= depth <= max_depth
        and split_of(f"textcraft/{item}") == split
        and len(shortest_plan(item)) <= LONGEST_PLAN
    ]
    return sorted(found, key=lambda item: stable_hash(f"textcraft/order/{item}"))


@lru_cache(maxsize=4096)
def task(split: str, goal: str, draw: int, distractors: int) -> Task:
    """The task with this goal. draw: which distractors it has, from 0."""
    rng = seeded_generator("textcraft", split, goal, draw)
    tree = copy.copy(package_game().crafting_tree)
    tree.itemid_recipes = {item: list(known) for item, known in tree.itemid_recipes.items()}
    tree.tag_recipes = {tag: list(known) for tag, known in tree.tag_recipes.items()}
    with PrivateRandomness(int(rng.integers(2**31)))():
        needed, others = tree.create_recipe_set(item_id(goal))
    wanted = list(dict.fromkeys(recipe.recipe_str for recipe in needed))
    beside = list(dict.fromkeys(recipe.recipe_str for recipe in others if recipe.recipe_str not in wanted))
    drawn = rng.permutation(len(beside))[:distractors]
    shown = wanted + [beside[number] for number in drawn]
    return Task(goal, book().depths[goal], tuple(shown[number] for number in rng.permutation(len(shown))))
