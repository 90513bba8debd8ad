"""The pages of the shop and what leads from one to the next: no text of a page, no reward, no randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

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


@dataclass(frozen=True)
class Page:
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


def links(page: Page, products: Sequence[Product], results_per_page: int) -> dict[str, Page]:
    """Everything that can be clicked on a page, as it is shown there, and the page it leads to.

    Results and products reset the chosen options, as they do in the original; the pages of details keep them.
    """
    if page.kind in (PageKind.SEARCH, PageKind.BOUGHT):
        return {}
    found = {BACK_TO_SEARCH: Page()}
    if page.kind is PageKind.RESULTS:
        return found | _result_links(page, products, results_per_page)
    if page.kind is not PageKind.PRODUCT:
        return found | {PREVIOUS: replace(page, kind=PageKind.PRODUCT)}
    if page.product is None:
        raise ValueError("a product page without a product")
    found[PREVIOUS] = replace(page, kind=PageKind.RESULTS, product=None, chosen=())
    found |= {kind.value: replace(page, kind=kind) for kind in DETAILS}
    found[BUY] = replace(page, kind=PageKind.BOUGHT)
    return found | _option_links(page, products[page.product])


def _result_links(page: Page, products: Sequence[Product], results_per_page: int) -> dict[str, Page]:
    found = {}
    if page.number > 1:
        found[PREVIOUS] = replace(page, number=page.number - 1)
    if page.number * results_per_page < len(page.ranking):
        found[NEXT] = replace(page, number=page.number + 1)
    for position in page.rows(results_per_page):
        found[products[position].key] = replace(page, kind=PageKind.PRODUCT, product=position)
    return found


def _option_links(page: Page, product: Product) -> dict[str, Page]:
    chosen = dict(page.chosen)
    found = {}
    for name, values in product.options:
        for value in values:
            choice = chosen | {name: value}
            ordered = tuple((option, choice[option]) for option, _ in product.options if option in choice)
            found[value] = replace(page, chosen=ordered)
    return found
