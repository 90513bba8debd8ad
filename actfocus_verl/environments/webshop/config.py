"""Everything about WebShop that a preset sets and a user may override."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.checks import require_integer
from actfocus_verl.environments.settings import WorldConfig
from actfocus_verl.environments.webshop.catalogue import FULL, SHORT
from actfocus_verl.errors import ConfigurationError

MAX_PRODUCTS = 9600
"""Product numbers have four digits."""


@dataclass(frozen=True, kw_only=True)
class WebShopConfig(WorldConfig):
    """products: of the catalogue. results_per_page: products on a page of search results.

    pages: `short` has titles with every attribute, one line of description and two reviews; `full` has the whole
    texts, and titles that name the uses of a product but only one of its attributes.
    """

    products: int = 2400
    results_per_page: int = 4
    pages: str = SHORT
    max_turns: int = 9
    max_actions_per_turn: int = 1
    max_actions_per_episode: int = 9
    max_words: int = 200
    max_turn_tokens: int = 400

    def __post_init__(self) -> None:
        require_integer("env.products", self.products, low=240, high=MAX_PRODUCTS)
        require_integer("env.results_per_page", self.results_per_page, low=1, high=50)
        if self.pages not in (SHORT, FULL):
            raise ConfigurationError("env.pages", self.pages, "unknown style", f"Use one of: {SHORT}, {FULL}")
        # what a second action may click is not known before the first one is done
        require_integer("env.max_actions_per_turn", self.max_actions_per_turn, low=1, high=1)
        super().__post_init__()


PRESETS: dict[str, WebShopConfig] = {
    "clean": WebShopConfig(),
    "ragen": WebShopConfig(products=1000, results_per_page=10, pages=FULL).with_paper_protocol(),
}
