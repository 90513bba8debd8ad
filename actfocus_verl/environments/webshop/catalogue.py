"""The products of the shop: one seeded generator over the words of `words.json`, the same in every process.

Products are made in a fixed order of their types, so a smaller catalogue is the beginning of a larger one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from actfocus_verl.environments.splits import seeded_generator, split_of

T = TypeVar("T")

SHORT, FULL = "short", "full"
"""The styles of pages."""

ATTRIBUTES_PER_PRODUCT = 4
_USES_PER_PRODUCT = 4
_LINES_PER_PRODUCT = 2
_MOST_REVIEWS = 4
_MOST_VALUES = 4
_DRAWS_PER_PRODUCT = 48
_KEYS = 10_000
_STARS = (5, 5, 5, 4, 4, 4, 3, 2, 1)


@dataclass(frozen=True)
class Product:
    """One product. Every word of it is lower case but brand and key.

    key: its number in the shop, e.g. "B0472". name: its type, e.g. "running shoe"; also the query it is listed under.
    category: department, section, type. uses: nouns. options: (name, values) in the order of the page; no value
    occurs twice in a product. price: dollars. reviews: (stars, text). rating: their mean.
    """

    key: str
    brand: str
    name: str
    category: tuple[str, str, str]
    attributes: tuple[str, ...]
    uses: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]
    price: int
    lines: tuple[str, ...]
    reviews: tuple[tuple[int, str], ...]

    @property
    def split(self) -> str:
        """The split whose goals may ask for it."""
        return split_of(f"webshop/{self.key}")

    def title(self, pages: str) -> str:
        """The title: with every attribute (`short`), or with the uses and only the first attribute (`full`)."""
        if pages == SHORT:
            return ", ".join((f"{self.brand} {self.name}", *self.attributes))
        return f"{self.brand} {self.name} for {', '.join(self.uses)}, {self.attributes[0]}"

    def title_nouns(self, pages: str) -> tuple[str, ...]:
        """The nouns of the title: words of the type, and the uses where the title names them."""
        nouns = tuple(self.name.split())
        return nouns if pages == SHORT else (*nouns, *self.uses)

    @property
    def rating(self) -> float:
        """Mean stars of the reviews."""
        return sum(stars for stars, _ in self.reviews) / len(self.reviews)

    @property
    def description(self) -> str:
        """Sentences about the product."""
        first, second = self.uses[:2]
        return f"This {self.name} by {self.brand} is for {first} and {second}. {' '.join(self.lines)}"

    @property
    def features(self) -> tuple[str, ...]:
        """The bullets of the product: its attributes, then its uses."""
        return (*self.attributes, f"for {' or '.join(self.uses)}")


class Draws:
    """Choices made from given numbers in [0, 1), used up in order: far cheaper than a generator's own."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = iter(numbers)

    def integer(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        return low + int(next(self._numbers) * (high - low + 1))

    def one(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.integer(0, len(items) - 1)]

    def some(self, items: Sequence[T], count: int) -> tuple[T, ...]:
        """`count` different items in their own order."""
        left = list(range(len(items)))
        taken = [left.pop(self.integer(0, len(left) - 1)) for _ in range(count)]
        return tuple(items[position] for position in sorted(taken))


@cache
def vocabulary() -> dict[str, Any]:
    """What `words.json` holds: brands, reviews, values of options, and sections with their types and attributes."""
    words: dict[str, Any] = json.loads(files(__package__).joinpath("words.json").read_text(encoding="utf-8"))
    return words


@cache
def catalogue(count: int) -> tuple[Product, ...]:
    """The first `count` products of the shop."""
    words = vocabulary()
    types = [(section, name) for section in words["sections"] for name in section["types"]]
    keys = seeded_generator("webshop", "keys").permutation(_KEYS)[:count].tolist()
    numbers = seeded_generator("webshop", "products").random((count, _DRAWS_PER_PRODUCT)).tolist()
    return tuple(
        _product(f"B{key:04d}", words, *types[i % len(types)], Draws(row))
        for i, (key, row) in enumerate(zip(keys, numbers, strict=True))
    )


def _product(key: str, words: dict[str, Any], section: dict[str, Any], name: str, draws: Draws) -> Product:
    kind = section["types"][name]
    department, part = section["category"]
    options = []
    for option, values in kind["options"].items():
        known = words["values"][values]
        options.append((option, draws.some(known, draws.integer(2, min(_MOST_VALUES, len(known))))))
    stars = [draws.one(_STARS) for _ in range(draws.integer(1, _MOST_REVIEWS))]
    return Product(
        key=key,
        brand=draws.one(words["brands"]),
        name=name,
        category=(department, part, name),
        attributes=draws.some(section["attributes"], ATTRIBUTES_PER_PRODUCT),
        uses=draws.some(section["uses"], _USES_PER_PRODUCT),
        options=tuple(options),
        price=draws.integer(*kind["price"]),
        lines=draws.some(section["lines"], _LINES_PER_PRODUCT),
        reviews=tuple((star, draws.one(words["reviews"][str(star)])) for star in stars),
    )
