"""A large column a few rows at a time, so that float64 copies and indices of all of it are never there at once.

Measured (docs/performance.md): at 1,024 x 8,192 tokens ActFocus takes 66 MiB instead of 192, `bilevel_gae` 175 instead
of 634. At 128 x 3,584 tokens the difference is 21 MiB at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torch import Tensor

BLOCK_ELEMENTS: Final = 2**17
"""Tokens per block (at least one row): one megabyte as float64, which fits in the CPU cache."""


def row_blocks(column: Tensor) -> Iterator[slice]:
    """Slices of the rows of a (B, T) column that together cover it; none for an empty column."""
    if column.numel() == 0:
        return
    step = max(1, BLOCK_ELEMENTS // column.shape[1])
    for start in range(0, column.shape[0], step):
        yield slice(start, start + step)
