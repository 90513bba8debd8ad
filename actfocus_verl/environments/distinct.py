"""Boards of a clean split: found in a fixed order, never the same one twice, in equal shares of every difficulty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from actfocus_verl.environments.splits import seeded_generator, split_of
from actfocus_verl.errors import ConfigurationError

Board = TypeVar("Board")


class DistinctBoards(Generic[Board]):
    """The boards of one clean split, found in order and remembered.

    Board `index` has difficulty `strata[index % len(strata)]`. Its own generator draws candidates until one belongs to
    the split (a keyed hash of its canonical form decides) and differs, symmetries included, from all boards of lower
    index. Those must therefore be known first; boards of different strata cannot collide, so each is a sequence of its
    own.

    env: the world's name, part of every seed. candidates: (generator, stratum) -> random boards of that stratum; it may
    end, which means that no further one is to be hoped for. canonical: the board's name, equal for boards that a
    symmetry turns into each other. settings: what the boards depend on, for the error's text.
    """

    def __init__(
        self,
        env: str,
        split: str,
        strata: Sequence[int],
        candidates: Callable[[np.random.Generator, int], Iterable[Board]],
        canonical: Callable[[Board], str],
        settings: str,
    ) -> None:
        self._env = env
        self._split = split
        self._strata = strata
        self._candidates = candidates
        self._canonical = canonical
        self._settings = settings
        self._found: list[list[Board]] = [[] for _ in strata]
        self._seen: list[set[str]] = [set() for _ in strata]
        self._lock = Lock()

    def board(self, index: int) -> Board:
        """Board `index` >= 0; finds those before it of the same stratum first. Raises ConfigurationError for none."""
        rank, row = divmod(index, len(self._strata))
        found = self._found[row]
        if rank >= len(found):
            with self._lock:
                while rank >= len(found):
                    board = self._search(row, len(found) * len(self._strata) + row)
                    if board is None:
                        wanted = f"{rank + 1} boards of solution length {self._strata[row]}"
                        raise no_such_board(self._split, index, wanted, self._settings)
                    found.append(board)
        return found[rank]

    def _search(self, row: int, index: int) -> Board | None:
        seen = self._seen[row]
        rng = seeded_generator(self._env, "clean", self._split, index)
        for board in self._candidates(rng, self._strata[row]):
            name = self._canonical(board)
            if name not in seen:
                seen.add(name)  # of another split, too: it is not asked for again
                if split_of(name) == self._split:
                    return board
        return None


def no_such_board(split: str, index: int, wanted: str, settings: str) -> ConfigurationError:
    """The error for an index without a board. wanted: e.g. "a solvable board"; settings: e.g. "env.size=4"."""
    return ConfigurationError(
        "env.index",
        index,
        f"split {split!r} has no such board: {wanted} could not be found at {settings}",
        "Use a lower index, or other settings of the board",
    )
