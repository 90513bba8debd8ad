"""What a purchase is worth: the reward of Yao et al. 2022, over exact words of our own catalogue.

    r = r_type * (matched attributes + matched options + [price <= bound]) / (attributes + options + 1)

The type is judged by the share s of the nouns in the wanted product's title that the bought title has too:

    r_type = 0 if s = 0;  0.1 if s < 0.1;  0.5 if s <= 0.2 and neither the query nor two levels of the category agree;
    1 otherwise.

The original finds the nouns with spaCy and compares attributes and options fuzzily.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from actfocus_verl.environments.webshop.catalogue import Product
from actfocus_verl.environments.webshop.goals import Goal
from actfocus_verl.environments.webshop.search import tokenise

_POOR_MATCH = 0.2
_TINY_MATCH = 0.1
_COMMON_LEVELS = 2
_REMEMBERED_TEXTS = 32_768


def type_reward(wanted: Product, bought: Product, pages: str) -> float:
    """r_type of buying one product for another, where titles are written in the style `pages`."""
    nouns = set(wanted.title_nouns(pages))
    match = len(nouns.intersection(bought.title_nouns(pages))) / len(nouns)
    if match == 0.0:
        return 0.0
    if match < _TINY_MATCH:
        return 0.1
    same_query = wanted.name == bought.name
    related = same_query or len(set(wanted.category) & set(bought.category)) >= _COMMON_LEVELS
    return 1.0 if match > _POOR_MATCH or related else 0.5


def has_attribute(product: Product, attribute: str) -> bool:
    """Whether the product is listed with the attribute, or its texts name it, word for word."""
    if attribute in product.attributes:
        return True
    wanted = _words(attribute)
    return any(wanted in _words(text) for text in (product.name, *product.features, product.description))


@lru_cache(maxsize=_REMEMBERED_TEXTS)
def _words(text: str) -> str:
    """The words of a text with a blank on either side of each, so that whole words are found in it."""
    return f" {' '.join(tokenise(text))} "


def purchase_score(goal: Goal, product: Product, chosen: Mapping[str, str], pages: str) -> float:
    """The reward in [0, 1] of buying `product` with these options, by name, on the way to `goal`."""
    attributes = sum(has_attribute(product, attribute) for attribute in goal.attributes)
    options = sum(chosen.get(name) == value for name, value in goal.options)
    matched = attributes + options + (product.price <= goal.bound)
    possible = len(goal.attributes) + len(goal.options) + 1
    return type_reward(goal.product, product, pages) * matched / possible
