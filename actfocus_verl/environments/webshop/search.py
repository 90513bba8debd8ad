"""Search in the catalogue: Okapi BM25 as Lucene computes it, by the library bm25s.

A product's document is everything its pages say except price and reviews. Query and documents are cut into lower-case
words of letters and digits without a plural s; there is neither a list of stop words nor any download.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from actfocus_verl.environments.webshop.catalogue import Product, catalogue

MAX_RESULTS = 50
K1, B = 0.9, 0.4
"""The defaults of Anserini and Pyserini, which the original searches with."""

_WORD = re.compile(r"[a-z0-9]+")
_REMEMBERED_QUERIES = 32_768
_STEM_FROM = 4


def tokenise(text: str) -> list[str]:
    """The words of a text as they are compared; linear in the text."""
    return [_stem(word) for word in _WORD.findall(text.lower())]


def _stem(word: str) -> str:
    plural = len(word) >= _STEM_FROM and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if plural else word


def document(product: Product) -> list[str]:
    """The words a product is found by."""
    options = [f"{name} {' '.join(values)}" for name, values in product.options]
    texts = (product.brand, product.name, *product.category, *product.features, *options, product.description)
    return [word for text in texts for word in tokenise(text)]


class SearchEngine:
    """BM25 over some products. Equal scores keep the order of the products, so a query has one answer everywhere."""

    def __init__(self, products: Sequence[Product]) -> None:
        documents = [document(product) for product in products]
        vocabulary = {word: i for i, word in enumerate(dict.fromkeys(word for words in documents for word in words))}
        self._vocabulary = vocabulary
        self._index = _bm25()
        self._index.index(
            ([[vocabulary[word] for word in words] for words in documents], dict(vocabulary)), show_progress=False
        )

    def search(self, query: str) -> tuple[int, ...]:
        """Positions of at most `MAX_RESULTS` products that share a word with the query, best first."""
        return self._ranking(tuple(word for word in tokenise(query) if word in self._vocabulary))

    @lru_cache(maxsize=_REMEMBERED_QUERIES)  # noqa: B019  # engines are kept for the life of the process
    def _ranking(self, words: tuple[str, ...]) -> tuple[int, ...]:
        if not words:
            return ()
        scores = self._index.get_scores(list(words))
        least = np.partition(scores, -MAX_RESULTS)[-MAX_RESULTS] if len(scores) > MAX_RESULTS else 0.0
        found = np.flatnonzero((scores >= least) & (scores > 0.0))
        best = found[np.argsort(-scores[found], kind="stable")]
        return tuple(best[:MAX_RESULTS].tolist())


def _bm25() -> Any:
    # imported with the first search: with scipy and numba it takes longer than everything else here
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s.BM25(method="lucene", k1=K1, b=B, backend="numpy")


@lru_cache(maxsize=8)
def search_engine(products: int) -> SearchEngine:
    """The engine over the first `products` products, one a process."""
    return SearchEngine(catalogue(products))
