"""What the model is told about the shop: our own words, as short as they can be. Never a word that a model wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actfocus_verl.environments.answers import action_rules
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.webshop.actions import MAX_ACTION_LENGTH
from actfocus_verl.environments.webshop.catalogue import SHORT, Product
from actfocus_verl.environments.webshop.pages import (
    BACK_TO_SEARCH,
    BUY,
    DETAILS,
    NEXT,
    PREVIOUS,
    Page,
    PageKind,
)

BUTTONS = "Buttons: "
_BUTTONS = (BACK_TO_SEARCH, PREVIOUS, NEXT, *(kind.value for kind in DETAILS), BUY)
_SHORT_REVIEWS = 2


def system_prompt(limits: Limits, style: str) -> str:
    """Task, pages, actions, reward, limits: at most 130 words. style: of pages, as in `render`."""
    result = "the number of a row or product" if style == SHORT else "a product number"
    return (
        "You shop online. Find the product that the task asks for, choose its options, and buy it.\n"
        f"Actions: search[words], on the search page only; click[element], with {result}, an option value "
        f"or a button of the present page. An action has at most {MAX_ACTION_LENGTH} characters.\n"
        f"{PREVIOUS} leads one page back. {BUY} ends the episode with a score from 0 to 1: the share of the wanted "
        "attributes, options and price limit that the purchase meets, less or nothing for another kind of product.\n"
        f"{action_rules(limits)}"
    )


def render(
    instruction: str, page: Page, elements: Iterable[str], products: Sequence[Product], per_page: int, style: str
) -> str:
    """The task, the page and its buttons. elements: what can be clicked. style: of pages, short or full."""
    buttons = ", ".join(element for element in elements if element in _BUTTONS)
    lines = [f"Task: {instruction}", *_body(page, products, per_page, style)]
    return "\n".join([*lines, f"{BUTTONS}{buttons}"] if buttons else lines)


def _body(page: Page, products: Sequence[Product], per_page: int, style: str) -> list[str]:
    if page.kind is PageKind.SEARCH:
        return ["Search page."]
    if page.kind is PageKind.RESULTS:
        return _results(page, products, per_page, style)
    if page.product is None:
        raise ValueError(f"a {page.kind.value} page without a product")
    product = products[page.product]
    if page.kind is PageKind.PRODUCT:
        return _product(page, product, style)
    if page.kind is PageKind.BOUGHT:
        return [f"Bought: {product.title(style)}"]
    return _details(page.kind, product, style)


def _results(page: Page, products: Sequence[Product], per_page: int, style: str) -> list[str]:
    if not page.ranking:
        return ["Results: nothing found."]
    last = -(-len(page.ranking) // per_page)
    shown = (products[position] for position in page.rows(per_page))
    rows = [f"{product.key} {product.title(style)}, ${product.price}" for product in shown]
    if style == SHORT:
        rows = [f"{number}. {row}" for number, row in enumerate(rows, start=1)]
    return [f"Results, page {page.number} of {last}:", *rows]


def _product(page: Page, product: Product, style: str) -> list[str]:
    lines = [f"Product: {product.title(style)}, ${product.price}, rating {product.rating:.1f}"]
    for name, values in product.options:
        marked = (f"{value} (chosen)" if (name, value) in page.chosen else value for value in values)
        lines.append(f"{name}: {', '.join(marked)}")
    return lines


def _details(kind: PageKind, product: Product, style: str) -> list[str]:
    if kind is PageKind.DESCRIPTION:
        return [f"Description: {product.description}"]
    if kind is PageKind.FEATURES:
        return [f"Features: {', '.join(product.features)}"]
    shown = product.reviews[:_SHORT_REVIEWS] if style == SHORT else product.reviews
    return ["Reviews:", *(f"{stars} of 5: {text}" for stars, text in shown)]
