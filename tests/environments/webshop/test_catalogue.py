"""The shop is large, well-formed, the same everywhere, and each of its words means one thing."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from actfocus_verl.environments.webshop.catalogue import Product, catalogue
from actfocus_verl.environments.webshop.config import MAX_PRODUCTS, PRESETS
from actfocus_verl.environments.webshop.reward import has_attribute

PRODUCTS = catalogue(PRESETS["clean"].products)


def test_the_catalogues_are_as_large_as_they_should_be():
    assert [PRESETS[preset].products for preset in ("clean", "ragen")] == [2400, 1000]
    assert len(PRODUCTS) == 2400
    assert len(catalogue(MAX_PRODUCTS)) == MAX_PRODUCTS


def test_a_smaller_catalogue_is_the_beginning_of_a_larger_one():
    assert catalogue(1000) == PRODUCTS[:1000]


def test_products_differ_and_types_are_even():
    assert len({product.key for product in PRODUCTS}) == len(PRODUCTS)
    assert len({(p.name, p.brand, p.attributes, p.options, p.price, p.uses) for p in PRODUCTS}) == len(PRODUCTS)
    assert set(Counter(product.name for product in PRODUCTS).values()) == {50}


@pytest.mark.parametrize("product", PRODUCTS[::60], ids=lambda product: product.key)
def test_a_product_is_complete(product):
    assert product.price > 0
    assert 1.0 <= product.rating <= 5.0
    assert product.rating == pytest.approx(sum(stars for stars, _ in product.reviews) / len(product.reviews))
    assert len(product.category) == 3
    assert len(set(product.attributes)) == 4
    assert product.features[:4] == product.attributes
    assert product.brand in product.description
    assert product.name in product.description


def test_prices_are_positive_and_splits_hold_about_a_half_and_two_quarters():
    assert all(product.price > 0 for product in PRODUCTS)
    shares = Counter(product.split for product in PRODUCTS)
    # binomial: three standard deviations are 73 products of a half, 64 of a quarter
    assert abs(shares["train"] - 1200) < 73
    assert abs(shares["evaluation"] - 600) < 64


def test_nothing_that_can_be_clicked_has_two_meanings_on_a_page():
    buttons = {"back to search", "< prev", "next >", "description", "features", "reviews", "buy now"}
    for product in PRODUCTS:
        values = [value for _, values in product.options for value in values]
        assert len(set(values)) == len(values)
        assert buttons.isdisjoint(values)
        assert not any(character in value for value in values for character in "[]|<>")
        assert all(2 <= len(values) <= 4 for _, values in product.options)


def test_no_two_types_share_a_word():
    types = {product.name: set(product.name.split()) for product in PRODUCTS}
    assert len(types) == 48
    assert all(one.isdisjoint(other) for one, other in combinations(types.values(), 2))


def test_texts_name_no_attribute_that_a_product_is_not_listed_with():
    attributes = {attribute for product in PRODUCTS for attribute in product.attributes}
    assert len(attributes) > 60
    for product in PRODUCTS[::12]:
        assert {attribute for attribute in attributes if has_attribute(product, attribute)} == set(product.attributes)


def test_the_products_stay_what_they_are():
    # frozen on purpose: results are comparable between versions only while this holds
    assert PRODUCTS[53] == Product(
        key="B2713",
        brand="Zorben",
        name="swim shorts",
        category=("Clothing", "Bottoms", "swim shorts"),
        attributes=("machine washable", "quick drying", "wrinkle free", "stretch fabric"),
        uses=("travel", "school", "party", "beach"),
        options=(("color", ("red", "green", "black", "brown")), ("size", ("small", "medium", "large", "x large"))),
        price=45,
        lines=("It sits well all day.", "The cut is simple."),
        reviews=((4, "I like it."),),
    )
