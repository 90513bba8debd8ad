"""A scripted buyer: searches with the words of the goal, clicks what fits, chooses what is wanted, buys.

It judges products by the catalogue, so it never takes one that lacks a wanted option. Its faults have a direction:
it searches for the type alone, clicks the first row, and buys before anything is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from actfocus_verl.environments.scripted import ScriptedPlayer
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.webshop.actions import CLICK, SEARCH, Command
from actfocus_verl.environments.webshop.catalogue import SHORT, Product, vocabulary
from actfocus_verl.environments.webshop.config import WebShopConfig
from actfocus_verl.environments.webshop.goals import Goal
from actfocus_verl.environments.webshop.pages import BACK_TO_SEARCH, BUY, DETAILS, NEXT, PREVIOUS, Page, PageKind
from actfocus_verl.environments.webshop.reward import has_attribute, purchase_score
from actfocus_verl.environments.webshop.search import search_engine


class Shop(Protocol):
    """What the buyer looks at: of `WebShop`, which imports this module."""

    config: WebShopConfig
    goal: Goal
    limits: Limits
    page: Page
    products: tuple[Product, ...]
    steps: int


def plan(world: Shop, rng: np.random.Generator, skill: float) -> list[str]:
    """The one action of a turn."""
    return [str(_best(world) if rng.random() < skill else _thoughtless(world))]


def _thoughtless(world: Shop) -> Command:
    kind = world.page.kind
    if kind is PageKind.SEARCH:
        return Command(SEARCH, world.goal.product.name)
    rows = world.page.rows(world.config.results_per_page)
    if kind is PageKind.RESULTS and rows:
        return Command(CLICK, _element(world, rows, 0))
    return Command(CLICK, BUY) if kind is PageKind.PRODUCT else _best(world)


def _best(world: Shop) -> Command:
    kind = world.page.kind
    if kind is PageKind.SEARCH:
        return Command(SEARCH, world.goal.query)
    if kind is PageKind.RESULTS:
        return Command(CLICK, _best_result(world))
    return Command(CLICK, PREVIOUS if kind in DETAILS else _best_on_product(world))


def _best_result(world: Shop) -> str:
    """A row that satisfies the goal; else a page that may have one, while there is time; else the best row."""
    rows = world.page.rows(world.config.results_per_page)
    scores = [_best_score(world, world.products[position]) for position in rows]
    best = _element(world, rows, scores.index(max(scores))) if rows else BACK_TO_SEARCH
    if 1.0 in scores:
        return best
    engine = search_engine(world.config.products)
    precise = engine.search(world.goal.query) == world.page.ranking
    more = len(world.page.ranking) > world.page.number * world.config.results_per_page
    if precise and more and _time_after(world, [NEXT]):
        return NEXT
    if not rows or (not precise and _time_after(world, [BACK_TO_SEARCH, SEARCH])):
        return BACK_TO_SEARCH
    return best


def _element(world: Shop, rows: Sequence[int], row: int) -> str:
    """What to click for a row of results: its number where rows have one, which is shorter to say."""
    return str(row + 1) if world.config.pages == SHORT else world.products[rows[row]].key


def _best_on_product(world: Shop) -> str:
    """What is wanted and not chosen; else buy. Goes back from what cannot satisfy the goal, while there is time."""
    product = _looked_at(world)
    if _best_score(world, product) < 1.0 and _time_after(world, [PREVIOUS, BACK_TO_SEARCH, SEARCH]):
        return PREVIOUS
    chosen, offered = dict(world.page.chosen), dict(product.options)
    missing = [v for name, v in world.goal.options if chosen.get(name) != v and v in offered.get(name, ())]
    return missing[0] if missing and _left(world) > 1 else BUY


def _best_score(world: Shop, product: Product) -> float:
    """The score of buying the product with all wanted options it has."""
    offered = dict(product.options)
    chosen = {name: value for name, value in world.goal.options if value in offered.get(name, ())}
    return purchase_score(world.goal, product, chosen, world.config.pages)


def _time_after(world: Shop, detour: list[str]) -> bool:
    """Whether a detour leaves time to click a product, choose every wanted option and buy."""
    return _left(world) >= len(detour) + 1 + len(world.goal.options) + 1


def _left(world: Shop) -> int:
    return min(world.limits.max_turns, world.limits.max_actions_per_episode) - world.steps


def describe(world: Shop) -> str:
    """The page in short sentences, and what is still missing: never an element to click, never the search words."""
    kind, goal = world.page.kind, world.goal
    if kind is PageKind.SEARCH:
        traits, options = len(goal.attributes), len(goal.options)
        return f"I am at the start. Nothing is found yet. Traits asked for: {traits}. Options asked for: {options}."
    if kind is PageKind.RESULTS:
        rows = [world.products[position] for position in world.page.rows(world.config.results_per_page)]
        verdicts = (f"Row {row} {_verdict(world, product)}." for row, product in enumerate(rows, start=1))
        return " ".join(("I see a list.", *verdicts)) if rows else "I see a list. It is empty."
    product = _looked_at(world)
    chosen, offered = dict(world.page.chosen), dict(product.options)
    states = (_option_state(chosen.get(name), value, offered.get(name, ())) for name, value in goal.options)
    wishes = " ".join(f"Wish {number} is {state}." for number, state in enumerate(states, start=1))
    seen = "I read about it." if kind in DETAILS else "I look at it."
    return f"{seen} It {_verdict(world, product)}. {wishes or 'No option is asked for.'}"


def _verdict(world: Shop, product: Product) -> str:
    """The first thing that speaks against a product: type, attribute, price."""
    goal = world.goal
    if product.name != goal.product.name:
        return "is another kind"
    if not all(has_attribute(product, attribute) for attribute in goal.attributes):
        return "lacks a trait"
    return "costs too much" if product.price > goal.bound else "fits"


def _option_state(chosen: str | None, wanted: str, offered: tuple[str, ...]) -> str:
    if wanted not in offered:
        return "not offered"
    return "open" if chosen is None else "met" if chosen == wanted else "wrong"


def _looked_at(world: Shop) -> Product:
    if world.page.product is None:
        raise ValueError(f"the {world.page.kind.value} page shows no product")
    return world.products[world.page.product]


def _copied() -> str:
    """Types, values and prices; attributes, each with the comma before it; and the separators.

    What a copy may begin with stands alone, so that it is the same token behind a bracket.
    """
    words = vocabulary()
    types = {name for section in words["sections"] for name in section["types"]}
    values = {value for values in words["values"].values() for value in values}
    attributes = {attribute for section in words["sections"] for attribute in section["attributes"]}
    names = "|".join(sorted(types | values, key=lambda name: (-len(name), name)))  # the longest first
    return rf", (?:{'|'.join(sorted(attributes))})|(?<![a-z\d])(?:{names})(?![a-z\d])|\$\d+|\n\d\. |[,:] "


PLAYER = ScriptedPlayer(
    plan,
    describe,
    skill={"loose": 0.6, "coupled": 0.4},
    episodes=1700,
    batch_size=1,
    learning_rate=2e-3,
    copied=_copied(),
    learn_pages=True,
    rope_theta=1e8,
)
