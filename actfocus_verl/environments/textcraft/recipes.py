"""The recipes of the package `textcraft`, the same in every process.

The package reads them in the folder's order, which decides which ones it drops as cyclic: here that order is fixed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from actfocus_verl.environments.adapters.base import require_package

_PREFIX = "minecraft:"


@dataclass(frozen=True)
class Recipe:
    """inputs: (amount, name); a name is an item's, or a group's where any item of the group will do."""

    output: str
    amount: int
    inputs: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        return f"craft {self.amount} {self.output} using {', '.join(f'{n} {name}' for n, name in self.inputs)}"


@dataclass(frozen=True)
class Book:
    """All recipes, by names as a player reads them.

    recipes: of each item that can be crafted. groups: the items of each group. fetched: items that are just there.
    depths: of the recipe tree of each item that can be crafted.
    """

    recipes: Mapping[str, tuple[Recipe, ...]]
    groups: Mapping[str, tuple[str, ...]]
    fetched: frozenset[str]
    depths: Mapping[str, int]

    @property
    def names(self) -> frozenset[str]:
        """Of every item and group: all that a command may name."""
        return self.fetched | self.recipes.keys() | self.groups.keys()


def new_game(goal: str) -> Any:
    """The package's environment with that goal and an empty inventory."""
    game = copy.copy(package_game())
    game.inventory = {}
    game.goal = item_id(goal)
    return game


def item_id(name: str) -> str:
    """The package's name of an item."""
    return _PREFIX + name.replace(" ", "_")


def readable(item_id: str) -> str:
    """The name that a player reads."""
    return item_id.removeprefix(_PREFIX).replace("_", " ")


@cache
def book() -> Book:
    """The recipes that the package plays with."""
    tree = package_game().crafting_tree
    recipes = {
        readable(item): tuple(dict.fromkeys(map(_recipe, known)))  # sugar's recipe from canes is in there twice
        for item, known in sorted(tree.itemid_recipes.items())
    }
    groups = {readable(tag): tuple(sorted(map(readable, tree.get_items_with_tags(tag)))) for tag in tree.tag_set}
    fetched = {item for item in tree.itemid_set if not tree.is_craftable(item) and not tree.is_tag(item)}
    depths = {readable(item): depth for item, depth in tree.item_recipes_min_depth(1)}
    return Book(recipes, groups, frozenset(map(readable, fetched)), depths)


def _recipe(known: Any) -> Recipe:
    inputs = tuple((each.count, readable(each.item_tag.name)) for each in known.input_items)
    return Recipe(readable(known.output_item.item_tag.item_id), known.output_item.count, inputs)


@cache
def package_game() -> Any:
    """The package's environment, loaded once a process. Raises ConfigurationError where the package is missing."""
    module: Any = require_package("textcraft.crafting_tree", extra="textcraft")
    folder = Path(module.__file__ or "").parent / "data"  # the package's own default is no path but a context manager
    module.os = SimpleNamespace(path=os.path, listdir=lambda path: sorted(each.name for each in Path(path).iterdir()))
    module.print = lambda *words: None  # it reports wrong amounts, and recipes that need themselves
    return require_package("textcraft.env", extra="textcraft").TextCraft(f"{folder}{os.sep}")
