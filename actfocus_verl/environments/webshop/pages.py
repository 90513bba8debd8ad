"""The pages of the shop and what leads from one to the next: no text of a page, no reward, no randomness."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from actfocus_verl.environments.webshop.catalogue import Product

BACK_TO_SEARCH = "Back to Search"
NEXT = "Next >"
PREVIOUS = "< Prev"
BUY = "Buy Now"


class PageKind(Enum):
    """What a page shows; the value of a detail page is its button."""

    SEARCH = "Search"
    RESULTS = "Results"
    PRODUCT = "Product"
    DESCRIPTION = "Description"
    FEATURES = "Features"
    REVIEWS = "Reviews"
    BOUGHT = "Bought"


DETAILS = (PageKind.DESCRIPTION, PageKind.FEATURES, PageKind.REVIEWS)
_SAME_PRODUCT = {**{kind.value: kind for kind in DETAILS}, BUY: PageKind.BOUGHT}


class Page(NamedTuple):
    """Where the buyer is. ranking: positions of the products found by the last search, best first.

    number: page of results, from 1; kept while a product is looked at. product: position in the catalogue, on all
    pages of a product. chosen: (option, value) in the order in which the product names them.
    """

    kind: PageKind = PageKind.SEARCH
    ranking: tuple[int, ...] = ()
    number: int = 1
    product: int | None = None
    chosen: tuple[tuple[str, str], ...] = ()

    def rows(self, results_per_page: int) -> tuple[int, ...]:
        """Positions of the products on this page of results."""
        return self.ranking[(self.number - 1) * results_per_page : self.number * results_per_page]


def results(ranking: tuple[int, ...]) -> Page:
    """The first page of what a search found."""
    return Page(PageKind.RESULTS, ranking)


def links(page: Page, products: Sequence[Product], results_per_page: int, *, numbered: bool = False) -> dict[str, Page]:
    """Everything that can be clicked on a page, as it is shown there, and the page it leads to.

    numbered: whether rows of results have numbers, which can then be clicked as well as the product numbers.
    Results and products reset the chosen options, as they do in the original; the pages of details keep them.
    """
    if page.kind in (PageKind.SEARCH, PageKind.BOUGHT):
        return {}
    found = {BACK_TO_SEARCH: Page()}
    if page.kind is PageKind.RESULTS:
        return found | _result_links(page, products, results_per_page, numbered)
    if page.kind is not PageKind.PRODUCT:
        return found | {PREVIOUS: Page(PageKind.PRODUCT, *page[1:])}
    if page.product is None:
        raise ValueError("a product page without a product")
    found[PREVIOUS] = Page(PageKind.RESULTS, page.ranking, page.number)
    for button, kind in _SAME_PRODUCT.items():
        found[button] = Page(kind, *page[1:])  # nowhere here `_replace`, which is slower: a step makes a dozen pages
    return found | _option_links(page, products[page.product])


def _result_links(page: Page, products: Sequence[Product], results_per_page: int, numbered: bool) -> dict[str, Page]:
    found = {}
    if page.number > 1:
        found[PREVIOUS] = Page(PageKind.RESULTS, page.ranking, page.number - 1)
    if page.number * results_per_page < len(page.ranking):
        found[NEXT] = Page(PageKind.RESULTS, page.ranking, page.number + 1)
    for row, position in enumerate(page.rows(results_per_page), start=1):
        product = Page(PageKind.PRODUCT, page.ranking, page.number, position)
        found[products[position].key] = product
        if numbered:
            found[str(row)] = product
    return found


def _option_links(page: Page, product: Product) -> dict[str, Page]:
    kind, ranking, number, position, chosen = page
    place = {name: i for i, (name, _) in enumerate(product.options)}
    found = {}
    for name, values in product.options:
        before = tuple([pair for pair in chosen if place[pair[0]] < place[name]])
        after = tuple([pair for pair in chosen if place[pair[0]] > place[name]])
        for value in values:
            found[value] = Page(kind, ranking, number, position, (*before, (name, value), *after))
    return found
