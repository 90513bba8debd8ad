"""The rows of a world's README that compare its evaluation boards in `ragen` with those that train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def in_any(train: Sequence[Any], evaluation: Sequence[Any], name: Callable[[Any], object]) -> list[bool]:
    """Of each evaluation board, whether its name is also a training board's."""
    known = {name(world) for world in train}
    return [name(world) in known for world in evaluation]


def table_row(label: str, written: str, values: Sequence[float]) -> str:
    """Of all evaluation boards and of the first 32: a count and its share, or the mean as `written` formats it."""
    cells = [
        f"{np.sum(part)} ({np.mean(part):.1%})" if written == "share" else written.format(np.mean(part))
        for part in (values, values[:32])
    ]
    return f"| {label} | {cells[0]} | {cells[1]} |".replace("%", " %")
