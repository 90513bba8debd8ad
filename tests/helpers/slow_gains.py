"""IGPO and A2TGPO again, as loops over Python floats; an episode is its prompt group, its return and its scores."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import torch

from actfocus_verl.credit.episodes import Episodes
from tests.helpers.slow_estimators import batch_of, episodes_of

# Prompt group, tokens of each turn, score before each turn (None: no answer is known), return.
Played = tuple[str, list[int], list[float | None], float]
ByTurn = dict[tuple[int, int], float]


def random_plays(count: int, seed: int) -> list[Played]:
    """Of 1 to 5 turns in two prompt groups; one state in eight has no known answer."""
    dice = random.Random(seed)
    plays = []
    for _ in range(count):
        turns = dice.randint(1, 5)
        scores = [None if dice.random() < 1 / 8 else -3 * dice.random() for _ in range(turns)]
        plays.append((dice.choice("ab"), [dice.randint(1, 4) for _ in range(turns)], scores, dice.choice([0.0, 1.0])))
    return plays


def columns_of(plays: list[Played], *, padding: int = 0, planted: float = math.nan) -> dict[str, Any]:
    """The batch of `slow_estimators.batch_of`, with `scores`, (B, K), and `outcomes`, (B,)."""
    batch = batch_of([(group, [(n, 0.0, 1) for n in tokens]) for group, tokens, _, _ in plays], padding=padding)
    batch["scores"] = torch.full(batch["rewards"].shape, planted)
    batch["outcomes"] = torch.full((len(plays) + padding,), planted)
    for row, (_, _, scores, outcome) in enumerate(plays):
        for turn, score in enumerate(scores):
            batch["scores"][row, turn] = math.nan if score is None else score
        batch["outcomes"][row] = outcome
    return batch


def play_of(batch: dict[str, Any]) -> Episodes:
    return episodes_of(batch)


def slow_gains(plays: list[Played], *, first_turn: bool) -> ByTurn:
    """The gain of each turn that has one."""
    gains = {}
    for row, (_, _, scores, _) in enumerate(plays):
        for turn in range(0 if first_turn else 1, len(scores) - 1):
            before, after = scores[turn], scores[turn + 1]
            if before is not None and after is not None:
                gains[row, turn] = after - before
    return gains


def z_score(value: float, pool: list[float]) -> float:
    return (value - statistics.fmean(pool)) / (math.sqrt(statistics.pvariance(pool) + 1e-8) + 1e-6)


def slow_igpo(plays: list[Played], *, gamma: float, weight: float, pool: str, first_turn: bool = True) -> ByTurn:
    """The advantage of each turn; with "separate" outcomes are normalised as verl's GRPO does."""
    gains = slow_gains(plays, first_turn=first_turn)
    found = {}
    for row, (group, tokens, _, outcome) in enumerate(plays):
        of_group = [value for (other, _), value in gains.items() if plays[other][0] == group]
        outcomes = [other for their_group, _, _, other in plays if their_group == group]
        if pool == "joint":
            of_group = outcomes_pool = of_group + outcomes
            normal_outcome = z_score(outcome, outcomes_pool)
        else:
            normal_outcome = slow_grpo(outcome, outcomes)
        last = len(tokens) - 1
        rewards = [
            weight * z_score(gains[row, turn], of_group) if (row, turn) in gains else 0.0 for turn in range(last)
        ]
        rewards.append(normal_outcome)
        for turn in range(len(tokens)):
            found[row, turn] = sum(gamma ** (later - turn) * rewards[later] for later in range(turn, len(tokens)))
    return found


def slow_grpo(outcome: float, outcomes: list[float]) -> float:
    if len(outcomes) == 1:
        return outcome
    return (outcome - statistics.fmean(outcomes)) / (statistics.stdev(outcomes) + 1e-6)


def slow_turn_groups(plays: list[Played], gains: ByTurn, *, min_group_size: int) -> ByTurn:
    found = {}
    for (row, turn), value in gains.items():
        prompt = {place: gain for place, gain in gains.items() if plays[place[0]][0] == plays[row][0]}
        same = [gain for (_, other), gain in prompt.items() if other == turn]
        found[row, turn] = z_score(value, same if len(same) >= min_group_size else list(prompt.values()))
    return found


def slow_information(normal: ByTurn, *, gamma: float) -> ByTurn:
    found = {}
    for row, turn in normal:
        later = {other: value for (place, other), value in normal.items() if place == row and other >= turn}
        total = sum(gamma ** (other - turn) * value for other, value in later.items())
        found[row, turn] = total / math.sqrt(len(later))
    return found


def by_turn(values: torch.Tensor, places: ByTurn) -> ByTurn:
    """The entries of a (B, K) matrix at the places, which are all that is not 0 there."""
    rest = values.clone()
    for place in places:
        rest[place] = 0.0
    assert int(rest.count_nonzero()) == 0
    return {place: float(values[place]) for place in places}
