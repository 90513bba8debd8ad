"""The oracle: the shortest list of commands found by search over the recipe tree.

Everything that is fetched is fetched first, each item at once; then follow the recipes, inputs before outputs. A plan
is as long as its recipes and its kinds of fetched items, and the search is over which recipe makes what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from actfocus_verl.environments.textcraft.recipes import Recipe, book

_FAR = 10_000


@lru_cache(maxsize=65_536)
def shortest_plan(goal: str, inventory: tuple[tuple[str, int], ...] = ()) -> tuple[str, ...]:
    """Commands that make the goal from an inventory of (item, amount); every one of them succeeds.

    Raises ValueError for a goal that cannot be made.
    """
    best: tuple[str, ...] | None = None
    for choices in _choices(goal, dict(inventory)):
        commands = _Plan(dict(inventory), choices).commands(goal)
        if best is None or len(commands) < len(best):
            best = commands
    if best is None:
        raise ValueError(f"{goal} cannot be made")
    return best


class _UndecidedError(Exception):
    """An item has several recipes, and none of them is chosen."""

    def __init__(self, item: str) -> None:
        super().__init__(item)
        self.item = item


class _CircularRecipeError(Exception):
    """With the chosen recipes, an item is made of itself."""


def _choices(goal: str, inventory: Mapping[str, int]) -> Iterator[Mapping[str, Recipe]]:
    """Every choice of one recipe for each item that a plan makes, with which the goal can be made."""
    waiting: list[dict[str, Recipe]] = [{}]
    while waiting:
        chosen = waiting.pop()
        try:
            _Plan(dict(inventory), chosen).commands(goal)
        except _CircularRecipeError:
            continue
        except _UndecidedError as undecided:
            waiting += [{**chosen, undecided.item: recipe} for recipe in book().recipes[undecided.item]]
            continue
        yield chosen


class _Plan:
    """Makes things from an inventory with the chosen recipes, and remembers how."""

    def __init__(self, inventory: Mapping[str, int], chosen: Mapping[str, Recipe]) -> None:
        self._held = Counter(inventory)
        self._chosen = chosen
        self._fetched: Counter[str] = Counter()
        self._crafted: list[str] = []

    def commands(self, goal: str) -> tuple[str, ...]:
        self._craft(goal, ())  # an episode ends when the goal is crafted, so it is never held before
        return (*(f"get {amount} {item}" for item, amount in self._fetched.items()), *self._crafted)

    def _craft(self, item: str, making: tuple[str, ...]) -> None:
        if item in making:
            raise _CircularRecipeError
        recipe = self._recipe(item)
        inputs = [(amount, self._item_for(name, amount)) for amount, name in recipe.inputs]
        while missing := [(amount, name) for amount, name in inputs if self._held[name] < amount]:
            amount, name = missing[0]  # making one may use up another
            if name in book().recipes:
                self._craft(name, (*making, item))
            else:
                self._fetched[name] += amount - self._held[name]
                self._held[name] = amount
        for amount, name in inputs:
            self._held[name] -= amount
        self._held[item] += recipe.amount
        self._crafted.append(str(Recipe(item, recipe.amount, tuple(inputs))))

    def _recipe(self, item: str) -> Recipe:
        known = book().recipes[item]
        if len(known) > 1 and item not in self._chosen:
            raise _UndecidedError(item)
        return self._chosen.get(item, known[0])

    def _item_for(self, name: str, amount: int) -> str:
        """The item itself, or that of a group of which most is held, or which is made with the least effort."""
        if name in book().recipes or name in book().fetched:
            return name
        return max(book().groups[name], key=lambda item: (min(self._held[item], amount), -_effort(item)))


@cache
def _effort(name: str, making: frozenset[str] = frozenset()) -> int:
    """Commands to make one of it with nothing at hand, each input on its own; `_FAR` where it needs itself."""
    if name in making:
        return _FAR
    if name in book().fetched:
        return 1
    if name not in book().recipes:
        return min((_effort(item, making) for item in book().groups[name]), default=_FAR)
    within = making | {name}
    ways = (1 + sum(_effort(each, within) for _, each in recipe.inputs) for recipe in book().recipes[name])
    return min(_FAR, *ways)
