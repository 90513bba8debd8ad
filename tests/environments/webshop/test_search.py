"""The search against BM25 written out from its definition."""

from __future__ import annotations

from collections import Counter
from math import log

import numpy as np
import pytest

from actfocus_verl.environments.webshop.catalogue import Product, catalogue
from actfocus_verl.environments.webshop.search import SearchEngine, search_engine, tokenise
from tests.environments.webshop.shops import product

K1, B = 0.9, 0.4
PRODUCTS = catalogue(1000)


def words_of(text: str) -> list[str]:
    letters = "".join(character if character.isalnum() else " " for character in text.lower())
    return [w[:-1] if len(w) > 3 and w[-1] == "s" and w[-2] != "s" else w for w in letters.split()]


def slow_document(product: Product) -> list[str]:
    texts = [product.name, product.brand, product.description, *product.category, *product.attributes]
    texts.append("for " + " or ".join(product.uses))
    texts += [text for name, values in product.options for text in (name, *values)]
    return [word for text in texts for word in words_of(text)]


DOCUMENTS = [Counter(slow_document(product)) for product in PRODUCTS]


def slow_scores(query: str, documents: list[Counter] = DOCUMENTS) -> np.ndarray:
    """sum over query words of ln(1 + (N - n + 0.5) / (n + 0.5)) * tf / (tf + k1 (1 - b + b * length / mean length))."""
    lengths = [document.total() for document in documents]
    mean = sum(lengths) / len(lengths)
    scores = np.zeros(len(documents))
    for word in words_of(query):
        n = sum(word in document for document in documents)
        idf = log(1.0 + (len(documents) - n + 0.5) / (n + 0.5))
        for i, document in enumerate(documents):
            tf = document[word]
            scores[i] += idf * tf / (tf + K1 * (1 - B + B * lengths[i] / mean)) if tf else 0.0
    return scores


@pytest.mark.parametrize(
    "query",
    [
        "running shoe non slip",
        "Sweaters, machine washable; RED!",
        "gluten free granola bar apple 4 pack",
        "free free free",
        "norvik",
        "something bamboo for camping under 20 dollars",
        "zebra wallet",
    ],
)
def test_results_are_the_best_by_the_definition(query):
    expected = slow_scores(query)
    found = list(search_engine(1000).search(query))
    assert len(found) == min(50, int((expected > 0).sum()))
    # single precision inside the library: neighbours may swap when they differ by less than that
    np.testing.assert_allclose(expected[found], np.sort(expected)[::-1][: len(found)], atol=1e-4)
    best = int(np.argmax(expected))
    assert expected[found[0]] == pytest.approx(expected[best], abs=1e-4)


def test_equal_products_are_found_in_their_own_order():
    # the longer the text, the less a word in it weighs: five lengths by turns, so five groups of equals
    shelf = [product(key=f"B{i:04d}", lines=("thing " * (i % 5),)) for i in range(40)]
    assert SearchEngine(shelf).search("shoe") == tuple(sorted(range(40), key=lambda i: (i % 5, i)))


def test_of_too_many_equals_the_first_are_found():
    shelf = [product(key=f"B{i:04d}", name="shoe" if i % 2 else "lamp") for i in range(200)]
    assert SearchEngine(shelf).search("shoe") == tuple(range(1, 100, 2))


def test_by_hand():
    # two documents of different length: the word in the shorter one weighs more, and a word of neither finds nothing
    short, long = product(lines=()), product(lines=("It is a very long text about a plain thing.",))
    assert SearchEngine([long, short]).search("shoe") == (1, 0)
    assert SearchEngine([long, short]).search("plain") == (0,)
    assert SearchEngine([long, short]).search("qwerty") == ()
    assert SearchEngine([long, short]).search("qwerty 30 plain") == (0,)  # prices are not searched


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Green TEA, 2-pack", ["green", "tea", "2", "pack"]),
        ("shoes glasses bus gas dress", ["shoe", "glasse", "bus", "gas", "dress"]),
        ("  \n\t!?", []),
        ("żółw 北京", ["w"]),
        ("", []),
    ],
)
def test_words(text, words):
    assert tokenise(text) == words


def test_a_query_has_one_answer():
    fresh = SearchEngine(PRODUCTS)
    queries = [f"{p.name} {p.attributes[0]}" for p in PRODUCTS[:50]]
    assert [fresh.search(query) for query in reversed(queries)] == [
        search_engine(1000).search(query) for query in reversed(queries)
    ]
