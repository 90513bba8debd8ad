"""Probes for rows of the trainer's tests: random forced answers behind every turn, and their scores by transformers."""

from __future__ import annotations

import math
from typing import Any

import torch

from tests.helpers.engines import VOCABULARY

Rows = dict[str, dict[str, Any]]


def add_probes(rows: Rows, *, unknown: tuple[str, int] | None = None) -> None:
    """The columns the agent loop writes. unknown: the row and turn without a known answer."""
    generator = torch.Generator().manual_seed(13)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for key, row in rows.items():
        turns = len(row["turn_rewards"])
        lengths = [0 if (key, turn) == unknown else integer(2, 6) for turn in range(turns)]
        row["probe_starts"] = torch.tensor([row["turn_ids"].tolist().index(turn) for turn in range(turns)])
        row["probe_lengths"] = torch.tensor(lengths)
        row["answer_lengths"] = torch.tensor([integer(1, length) if length else 0 for length in lengths])
        row["probe_ids"] = torch.randint(3, VOCABULARY, (sum(lengths),), generator=generator)


@torch.no_grad()
def slow_scores(row: dict[str, Any], model: Any, temperature: float) -> list[float]:
    """The answer's mean log-prob before each turn, one forward pass each; NaN without an answer."""
    scores, taken = [], 0
    for start, length, answer in zip(
        row["probe_starts"].tolist(), row["probe_lengths"].tolist(), row["answer_lengths"].tolist(), strict=True
    ):
        if length == 0:
            scores.append(math.nan)
            continue
        ids = [*row["prompts"].tolist(), *row["responses"][:start].tolist()]
        ids += row["probe_ids"][taken : taken + length].tolist()
        taken += length
        log_probs = (model(torch.tensor([ids])).logits[0] / temperature).log_softmax(dim=-1)
        places = range(len(ids) - answer, len(ids))
        scores.append(sum(float(log_probs[place - 1, ids[place]]) for place in places) / answer)
    return scores
