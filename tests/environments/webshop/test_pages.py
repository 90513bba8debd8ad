"""The pages against a second shop written here: a few fields, and what each page shows read off its text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.environments.webshop import WebShop
from actfocus_verl.environments.webshop.pages import Page, PageKind, links
from actfocus_verl.environments.webshop.search import search_engine
from tests.environments.webshop.shops import act


class SecondShop:
    """What a buyer sees, kept as a browser would: which page, which products, what is ticked."""

    def __init__(self, world: WebShop) -> None:
        self.products = {product.key: product for product in world.products}
        self.keys = list(self.products)
        self.per_page = world.config.results_per_page
        self.engine = search_engine(world.config.products)
        self.numbered = world.config.pages == "short"
        self.where, self.found, self.page, self.key, self.ticked = "search", [], 0, "", {}

    def search(self, query: str) -> None:
        self.found = [self.keys[position] for position in self.engine.search(query)]
        self.where, self.page = "results", 0

    def shown(self) -> list[str]:
        return self.found[self.page * self.per_page : (self.page + 1) * self.per_page]

    def clickable(self) -> set[str]:
        if self.where in ("search", "bought"):
            return set()
        if self.where == "results":
            more = {"Next >"} if len(self.found) > (self.page + 1) * self.per_page else set()
            numbers = {str(row) for row in range(1, len(self.shown()) + 1)} if self.numbered else set()
            return {"Back to Search", *self.shown(), *numbers, *more, *(["< Prev"] if self.page else [])}
        if self.where in ("Description", "Features", "Reviews"):
            return {"Back to Search", "< Prev"}
        values = {value for _, group in self.products[self.key].options for value in group}
        return {"Back to Search", "< Prev", "Description", "Features", "Reviews", "Buy Now"} | values

    def click(self, element: str) -> None:
        if element == "Back to Search":
            self.where = "search"
        elif self.where == "results":
            if element.isdigit():
                element = self.shown()[int(element) - 1]
            if element in self.products:
                self.where, self.key, self.ticked = "item", element, {}
            else:
                self.page += 1 if element == "Next >" else -1
        elif self.where in ("Description", "Features", "Reviews"):
            self.where = "item"
        elif element == "< Prev":
            self.where = "results"
        elif element == "Buy Now":
            self.where = "bought"
        elif element in ("Description", "Features", "Reviews"):
            self.where = element
        else:
            (name,) = (name for name, group in self.products[self.key].options if element in group)
            self.ticked[name] = element


def check(world: WebShop, shop: SecondShop) -> None:
    """The page that is shown, as text, is the one the second shop is on."""
    text = world.render()
    title = text.splitlines()[1]
    everything = {"Back to Search", "< Prev", "Next >", "Description", "Features", "Reviews", "Buy Now"}
    pool = shop.clickable() | everything | {"small", "red", "B0000", "0", "1", "5"}
    allowed = {element for element in pool if world.parse_action(f"click[{element}]") is not None}
    assert allowed == shop.clickable()
    assert (world.parse_action("search[red shoe]") is not None) == (shop.where == "search")
    assert world.done == (shop.where == "bought")
    if shop.where == "results":
        rows = [f"{row}. {key}" if shop.numbered else key for row, key in enumerate(shop.shown(), start=1)]
        assert re.findall(r"^(?:\d\. )?B\d{4}(?= )", text, re.MULTILINE) == rows
        if shop.found:
            assert title == f"Results, page {shop.page + 1} of {-(-len(shop.found) // shop.per_page)}:"
    elif shop.where == "item":
        lines = dict(line.split(": ") for line in text.splitlines()[2 : 2 + len(shop.products[shop.key].options)])
        for name, values in shop.products[shop.key].options:
            marked = [f"{v} (chosen)" if shop.ticked.get(name) == v else v for v in values]
            assert lines[name] == ", ".join(marked)
        assert f"${shop.products[shop.key].price}, rating" in title
    elif shop.where != "search":
        assert title.startswith(f"{shop.where.capitalize()}:")


@pytest.mark.parametrize(("preset", "clicks"), [("clean", 7000), ("ragen", 3000)])
def test_ten_thousand_random_clicks_lead_where_a_second_shop_says(preset, clicks):
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    index, world = 0, make_world("webshop", preset=preset, prompts="full", reply="strict")
    shop = SecondShop(world)
    queries = ["running shoe", "vegan red free", "nothing such", "easy clean small", "norvik tea", "zorben wallet pro"]
    for _ in range(clicks):
        if shop.where == "search":
            query = queries[rng.integers(len(queries))]
            act(world, f"search[{query}]")
            shop.search(query)
        else:
            elements = sorted(shop.clickable())
            # buying ends the walk, so it is rare; pages forward are frequent, so that the last is reached
            weights = np.array([0.02 if e == "Buy Now" else 3.0 if e == "Next >" else 1.0 for e in elements])
            element = elements[rng.choice(len(elements), p=weights / weights.sum())]
            act(world, f"click[{element.upper() if rng.random() < 0.5 else element}]")
            shop.click(element)
        seen.add(shop.where)
        check(world, shop)
        if world.done:
            index += 1
            world = make_world("webshop", preset=preset, index=index, prompts="full", reply="strict")
            shop = SecondShop(world)
            check(world, shop)
    assert seen == {"search", "results", "item", "Description", "Features", "Reviews", "bought"}


def test_a_short_walk_by_hand():
    world = make_world("webshop", index=1)
    key = world.goal.product.key
    assert world.render().splitlines()[1:] == ["Search page."]
    act(world, f"search[{world.goal.query}]")
    first_page = world.render()
    act(world, "click[next >]")
    act(world, "click[< PREV]")
    assert world.render() == first_page
    act(world, f"click[{key}]")
    name, values = world.goal.product.options[0]
    act(world, f"click[{values[0]}]")
    act(world, f"click[{values[1]}]")  # in the place of the first
    chosen = world.render()
    assert world.page.chosen == ((name, values[1]),)
    act(world, "click[reviews]")
    assert world.render().count(" of 5: ") == min(2, len(world.goal.product.reviews))
    act(world, "click[< prev]")
    assert world.render() == chosen  # pages of details keep the options
    act(world, "click[< prev]")
    act(world, f"click[{key}]")
    assert world.page.chosen == ()  # leaving the product does not


@pytest.mark.parametrize(("preset", "pages", "on_the_last"), [("clean", 13, 2), ("ragen", 5, 10)])
def test_fifty_results_fill_their_pages(preset, pages, on_the_last):
    world = make_world("webshop", preset=preset, prompts="full", reply="strict")
    act(world, "search[free proof light easy]")
    seen: list[str] = []
    for page in range(1, pages + 1):
        assert f"Results, page {page} of {pages}:" in world.render()
        rows = re.findall(r"^(?:\d\. )?(B\d{4}) ", world.render(), re.MULTILINE)
        seen += rows
        if page < pages:
            act(world, "click[next >]")
    assert world.parse_action("click[next >]") is None
    assert len(rows) == on_the_last
    assert len(set(seen)) == len(seen) == 50


def test_full_pages_say_more_than_short_ones():
    lengths = {}
    for pages in ("short", "full"):
        world = make_world("webshop", index=1, pages=pages)
        product = world.goal.product
        act(world, f"search[{world.goal.query}]")
        row = next(line for line in world.render().splitlines() if f"{product.key} " in line)
        act(world, f"click[{product.key}]")
        act(world, "click[reviews]")
        lengths[pages] = world.render().count(" of 5: ")
        if pages == "short":
            wanted = ", ".join((product.name, *product.attributes))
        else:
            wanted = f"{product.name} for {', '.join(product.uses)}, {product.attributes[0]}"
        line = f"{product.key} {product.brand} {wanted}, ${product.price}"
        assert re.fullmatch(r"\d\. " + re.escape(line), row) if pages == "short" else row == line
    assert lengths == {"short": min(2, len(product.reviews)), "full": len(product.reviews)}


def test_a_product_page_needs_a_product():
    with pytest.raises(ValueError, match="without a product"):
        links(Page(PageKind.PRODUCT), (), 4)
