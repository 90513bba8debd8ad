"""Trees of episodes with forks, as columns and as a recursion over their prefixes that knows nothing of tensors."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from actfocus_verl.credit.trees import TreeCredit, tree_advantages
from tests.helpers.slow_estimators import batch_of, episodes_of, tokens_of


@dataclass(frozen=True)
class Row:
    """An episode: what each turn added to the token prefix, how many first turns are another row's, its return."""

    group: str
    turns: tuple[str, ...]
    replayed: int
    value: float

    def prefix(self, turn: int) -> tuple[str, ...]:
        """The state that turn was sampled in."""
        return self.turns[:turn]


def random_forest(seed: int, *, groups: str = "abc", most: int = 7, alphabet: str = "xy") -> list[Row]:
    """Roots and forks of them, in random order. A small alphabet makes replies that are sampled twice."""
    dice = random.Random(seed)
    rows = []
    for group in groups:
        own: list[Row] = []
        for _ in range(dice.randint(1, most)):
            parent = dice.choice(own) if own and dice.random() < 0.7 else None
            replayed = dice.randrange(parent.replayed, len(parent.turns)) if parent else 0
            drawn = [dice.choice(alphabet) for _ in range(dice.randint(1, 3))]
            turns = (*(parent.turns[:replayed] if parent else ()), *drawn)
            own.append(Row(group, turns, replayed, dice.choice([-0.1, 0.0, 0.5, 1.0])))
        rows += own
    dice.shuffle(rows)
    return rows


def columns_of(rows: Sequence[Row], *, padding: int = 0) -> dict[str, Any]:
    """The batch of these rows; NaN and numbers that mean nothing wherever nobody may read."""
    dice = random.Random(3)
    states: dict[tuple[str, tuple[str, ...]], int] = {}
    named = [
        [states.setdefault((row.group, row.prefix(turn)), len(states) + 2**62) for turn in range(len(row.turns))]
        for row in rows
    ]
    episodes = [
        (row.group, [(dice.randint(1, 3), 0.0, state) for state in ids]) for row, ids in zip(rows, named, strict=True)
    ]
    batch = batch_of(episodes, padding=padding)
    batch["states"] = batch["anchors"]
    batch["replayed"] = torch.ones_like(batch["states"])  # also where an episode has no turn
    batch["returns"] = torch.tensor([row.value for row in rows] + [float("nan")] * padding, dtype=torch.float64)
    for number, row in enumerate(rows):
        for turn in range(len(row.turns)):
            batch["replayed"][number, turn] = int(turn < row.replayed)
            if turn < row.replayed:
                for t in tokens_of(batch, number, turn):
                    batch["mask"][number, t], batch["turn_ids"][number, t] = 0, -1
    return batch


def credit_of(batch: dict[str, Any]) -> TreeCredit:
    return tree_advantages(episodes_of(batch), batch["states"], batch["replayed"], batch["returns"], batch["groups"])


def draws_in(rows: Sequence[Row], group: str, prefix: tuple[str, ...]) -> list[tuple[int, int]]:
    """(row, turn) of the replies sampled in a state."""
    return [
        (number, len(prefix))
        for number, row in enumerate(rows)
        if row.group == group and row.replayed <= len(prefix) < len(row.turns) and row.prefix(len(prefix)) == prefix
    ]


def slow_value(rows: Sequence[Row], group: str, prefix: tuple[str, ...]) -> float:
    """Eq. 10 as it is written, from the leaves up."""
    return statistics.fmean(slow_reached(rows, *draw) for draw in draws_in(rows, group, prefix))


def slow_reached(rows: Sequence[Row], number: int, turn: int) -> float:
    row = rows[number]
    return row.value if turn + 1 == len(row.turns) else slow_value(rows, row.group, row.prefix(turn + 1))


def slow_advantages(rows: Sequence[Row]) -> dict[tuple[int, int], float]:
    """Eqs. 11 and 13: (row, turn) -> advantage, of the update set only."""
    found = {}
    for number, row in enumerate(rows):
        for turn in range(row.replayed, len(row.turns)):
            if len(draws_in(rows, row.group, row.prefix(turn))) > 1:
                value = slow_value(rows, row.group, row.prefix(turn))
                found[number, turn] = slow_reached(rows, number, turn) - value
    return found
