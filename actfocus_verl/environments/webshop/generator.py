"""Where goals come from: one function of (preset, split, index), the same in every process.

`clean` draws goals until one belongs to the split, needs as many options as its index says, is new, and is found: the
search for its type and attributes shows its product on the first page, before every other one that has the type, the
attributes and a price within the bound. So a buyer who sees nothing but pages can be right.
`ragen` lists every goal there is and cuts the shuffled list, as the original does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache, cached_property, lru_cache
from itertools import accumulate, combinations
from math import prod
from typing import NamedTuple

import numpy as np

from actfocus_verl.environments.distinct import DistinctBoards, no_such_board
from actfocus_verl.environments.splits import seeded_generator
from actfocus_verl.environments.webshop.catalogue import Draws, Product, catalogue
from actfocus_verl.environments.webshop.config import WebShopConfig
from actfocus_verl.environments.webshop.goals import Goal
from actfocus_verl.environments.webshop.search import search_engine

CLEAN_SPLIT_SIZES = {"train": 20_000, "evaluation": 1024, "test": 1536}
SHORTEST_SOLUTION = 3
"""Search, click the product, buy."""

MOST_OPTIONS = 3
RAGEN_TEST, RAGEN_EVALUATION = 500, 1000
"""Goals of the original's test and evaluation splits; all others train."""

_MOST_ATTRIBUTES = 3
_CLEAN_STEP, _RAGEN_STEP = 5, 10
"""Dollars between the bounds that prices may have."""

_PRICE_BOUNDS = 4
_EASY_PER_KEPT = 3
"""Of the goals whose product is the first that has what is wanted, one in so many is kept: else nearly all would be."""

_DRAWS_PER_GOAL = 16
_BATCHES = (16, *(256 for _ in range(100)))


def make_goal(config: WebShopConfig, preset: str, split: str, index: int) -> Goal:
    """Goal `index` of the split. Raises ConfigurationError when there is no such goal."""
    if preset == "clean":
        return clean_goals(config.products, config.results_per_page, split).board(index)
    return _ragen_goals(config.products).goal(split, index)


@lru_cache(maxsize=16)
def clean_goals(products: int, results_per_page: int, split: str) -> DistinctBoards[Goal]:
    """The goals of a clean split: index i wants i % 4 options.

    `DistinctBoards` asks the hash of a goal's name for its split. That thins the candidates and no more: they are
    made from products of the split only.
    """

    def candidates(rng: np.random.Generator, length: int) -> Iterator[Goal]:
        options = length - SHORTEST_SOLUTION
        return _candidates(_openings(products, results_per_page, split, options), rng, options)

    lengths = range(SHORTEST_SOLUTION, SHORTEST_SOLUTION + MOST_OPTIONS + 1)
    settings = f"env.products={products}, env.results_per_page={results_per_page}"
    return DistinctBoards("webshop", split, lengths, candidates, lambda goal: goal.canonical, settings)


class _Opening(NamedTuple):
    """A goal of `clean` before it has options. easy: whether no product before it has its type and attributes."""

    product: Product
    attributes: tuple[str, ...]
    bound: int
    easy: bool


def _candidates(openings: Sequence[_Opening], rng: np.random.Generator, options: int) -> Iterator[Goal]:
    for count in _BATCHES:
        for row in rng.random((count, _DRAWS_PER_GOAL)).tolist():
            draws = Draws(row)
            product, attributes, bound, easy = draws.one(openings)
            if not easy or draws.integer(1, _EASY_PER_KEPT) == 1:
                names = draws.some(product.options, options)
                yield Goal(product, attributes, tuple((name, draws.one(values)) for name, values in names), bound)


@lru_cache(maxsize=64)
def _openings(products: int, results_per_page: int, split: str, options: int) -> tuple[_Opening, ...]:
    """All openings of a split whose products have that many options at least."""
    if options:
        everything = _openings(products, results_per_page, split, 0)
        return tuple(opening for opening in everything if len(opening.product.options) >= options)
    members = (product for product in catalogue(products) if product.split == split)
    return tuple(opening for product in members for opening in _openings_for(product, products, results_per_page))


def _openings_for(product: Product, products: int, results_per_page: int) -> Iterator[_Opening]:
    """Those of one product: any of its attributes, a bound, and the product the first on its page to satisfy both."""
    for count in range(1, _MOST_ATTRIBUTES + 1):
        for attributes in combinations(product.attributes, count):
            page = _first_page(products, results_per_page, product.name, attributes)
            for bound in _bounds_from(product.price):
                if next((other for other in page if other.price <= bound), None) is product:
                    yield _Opening(product, attributes, bound, page[0] is product)


@cache
def _first_page(products: int, results_per_page: int, name: str, attributes: tuple[str, ...]) -> tuple[Product, ...]:
    """What the search for a type and attributes shows of them on its first page, in that order."""
    ranking = search_engine(products).search(" ".join((name, *attributes)))[:results_per_page]
    shown = (catalogue(products)[position] for position in ranking)
    return tuple(p for p in shown if p.name == name and not set(attributes).difference(p.attributes))


def _bounds_from(price: int) -> range:
    """The multiples of five that may bound a price: the next four, the price itself included."""
    first = -(-price // _CLEAN_STEP) * _CLEAN_STEP
    return range(first, first + _PRICE_BOUNDS * _CLEAN_STEP, _CLEAN_STEP)


class _RagenGoals:
    """All goals of a catalogue: each product has one set of attributes, one bound, and every choice of its options.

    The rule and the cut into splits are those of the original's generated goals: goals differ between the splits,
    products do not.
    """

    def __init__(self, products: int) -> None:
        self._products = catalogue(products)
        sizes = (prod(len(values) for _, values in product.options) for product in self._products)
        self._starts = list(accumulate(sizes, initial=0))

    @cached_property
    def _order(self) -> list[int]:
        order: list[int] = seeded_generator("webshop", "ragen", "goals").permutation(self._starts[-1]).tolist()
        return order

    def goal(self, split: str, index: int) -> Goal:
        """Goal `index` of the split, which begins anew after its last one."""
        cuts = {
            "test": (0, RAGEN_TEST),
            "evaluation": (RAGEN_TEST, RAGEN_TEST + RAGEN_EVALUATION),
            "train": (RAGEN_TEST + RAGEN_EVALUATION, len(self._order)),
        }
        first, end = cuts[split]
        if end <= first:
            raise no_such_board(split, index, "more goals than evaluate", f"env.products={len(self._products)}")
        return self._numbered(self._order[first + index % (end - first)])

    def _numbered(self, number: int) -> Goal:
        position = bisect_right(self._starts, number) - 1
        product = self._products[position]
        attributes, bound = _ragen_wish(product)
        left = number - self._starts[position]
        options = []
        for name, values in product.options:
            left, choice = divmod(left, len(values))
            options.append((name, values[choice]))
        return Goal(product, attributes, tuple(options), bound)


def _ragen_wish(product: Product) -> tuple[tuple[str, ...], int]:
    """One to three attributes; the larger of two of the next four multiples of ten above the price."""
    draws = Draws(seeded_generator("webshop", "ragen", "wish", product.key).random(_DRAWS_PER_GOAL).tolist())
    attributes = draws.some(product.attributes, draws.integer(1, _MOST_ATTRIBUTES))
    first = (product.price // _RAGEN_STEP + 1) * _RAGEN_STEP
    bounds = range(first, first + _PRICE_BOUNDS * _RAGEN_STEP, _RAGEN_STEP)
    return attributes, draws.some(bounds, 2)[-1]


@lru_cache(maxsize=8)
def _ragen_goals(products: int) -> _RagenGoals:
    return _RagenGoals(products)
