"""Batches of turns for the advantage estimators, and each estimator again as loops over Python floats."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from actfocus_verl.columns import ANCHORS, ANSWER_SCORES, NEXT_ANCHORS, SOLVED, VALUES
from actfocus_verl.credit import estimators
from actfocus_verl.credit.episodes import Episodes
from actfocus_verl.credit.estimation import Step
from actfocus_verl.credit.gigpo import gigpo_step_advantages

NAN = float("nan")
# An episode: its prompt group and its turns (tokens, reward, anchor).
Turn = tuple[int, float, int]
Episode = tuple[str, list[Turn]]


def random_episodes(count: int, seed: int) -> list[Episode]:
    """Of 1 to 4 turns, which meet three states in two prompt groups."""
    dice = random.Random(seed)
    return [
        (
            dice.choice("ab"),
            [
                (dice.randint(1, 4), dice.choice([-0.1, 0.0, 1.0]), dice.randint(1, 3))
                for _ in range(dice.randint(1, 4))
            ],
        )
        for _ in range(count)
    ]


def batch_of(episodes: list[Episode], *, padding: int = 0, planted: float = NAN) -> dict[str, Any]:
    """Columns, turns apart by one token of the environment; `planted` stands wherever nothing may read."""
    size = len(episodes) + padding
    width = max(sum(tokens + 1 for tokens, _, _ in turns) for _, turns in episodes)
    most = max(len(turns) for _, turns in episodes)
    generator = torch.Generator().manual_seed(11)
    turn_ids, mask = torch.full((size, width), -1), torch.zeros(size, width)
    rewards, anchors, reached = (
        torch.full((size, most), planted),
        torch.full((size, most), 1),
        torch.full((size, most), 1),
    )
    for row, (_, turns) in enumerate(episodes):
        position = 0
        for turn, (tokens, reward, anchor) in enumerate(turns):
            turn_ids[row, position : position + tokens] = turn
            mask[row, position : position + tokens] = 1
            rewards[row, turn], anchors[row, turn] = reward, anchor
            reached[row, turn] = next_state(turns, turn)
            position += tokens + 1
    turn_ids[len(episodes) :] = 0
    values = torch.where(mask > 0, torch.randn(size, width, generator=generator), planted)
    return {
        "turn_ids": turn_ids,
        "mask": mask,
        "rewards": rewards,
        "counts": torch.tensor([len(turns) for _, turns in episodes] + [most] * padding),
        "anchors": anchors,
        "next_anchors": reached,
        "values": values,
        "groups": torch.tensor([ord(group) for group, _ in episodes] + [ord("a")] * padding),
        "valid": torch.tensor([True] * len(episodes) + [False] * padding),
    }


def next_state(turns: list[Turn], turn: int) -> int:
    """The state a turn led to: an episode that earned 1 at its end is solved; any other one ends in state 3."""
    if turn + 1 < len(turns):
        return turns[turn + 1][2]
    return SOLVED if turns[turn][1] == 1.0 else 3


def episodes_of(batch: dict[str, Any]) -> Episodes:
    return Episodes.of(batch["turn_ids"], batch["mask"], batch["rewards"], batch["counts"], batch["valid"])


def step_of(batch: dict[str, Any], *, gamma: float = 1.0, lam: float = 1.0, by_std: bool = False) -> Step:
    """The batch as a registered estimator gets it; an episode's return is at the last token of its row."""
    valid, mask = batch["valid"], batch["mask"]
    rewards = torch.zeros_like(mask)
    rewards[:, -1] = torch.where(valid, episodes_of(batch).rewards.sum(dim=1), 0.0).float()
    named = [str(int(group)) for group in batch["groups"]]
    named = [name if real else f"padding {row}" for row, (name, real) in enumerate(zip(named, valid, strict=True))]
    prompts = np.array(named, dtype=object)
    _, groups = np.unique(prompts, return_inverse=True)
    return Step(
        rewards=rewards,
        scores=rewards,
        response_mask=mask * valid[:, None],
        group_ids=torch.from_numpy(groups),
        valid_rows=valid,
        columns={
            ANCHORS: batch["anchors"],
            NEXT_ANCHORS: batch["next_anchors"],
            VALUES: batch["values"],
            ANSWER_SCORES: batch.get("scores", NAN),
        },
        gamma=gamma,
        lam=lam,
        by_std=by_std,
        grpo=lambda rewards, mask: compute_grpo_outcome_advantage(
            rewards, mask, prompts, norm_adv_by_std_in_grpo=by_std
        )[0],
        turns=episodes_of(batch),
    )


def gigpo(batch: dict[str, Any], **settings: Any) -> tuple[torch.Tensor, float]:
    return gigpo_step_advantages(episodes_of(batch), batch["anchors"], batch["groups"], **settings)


def turn_ppo(batch: dict[str, Any], **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    penalties = settings.pop("penalties", torch.zeros_like(batch["values"]))
    return estimators.turn_gae(episodes_of(batch), batch["values"], penalties, batch["mask"], **settings)


def bilevel(batch: dict[str, Any], **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return estimators.bilevel_gae(episodes_of(batch), batch["values"], batch["mask"], **settings)


def tokens_of(batch: dict[str, Any], row: int, turn: int) -> list[int]:
    return [t for t, number in enumerate(batch["turn_ids"][row].tolist()) if number == turn and batch["mask"][row, t]]


# Slow implementations


def slow_gigpo(episodes: list[Episode], *, gamma: float, by_std: bool) -> list[list[float]]:
    """The step advantage of each turn of each episode."""
    returns = [
        [
            sum(gamma ** (later - turn) * turns[later][1] for later in range(turn, len(turns)))
            for turn in range(len(turns))
        ]
        for _, turns in episodes
    ]
    found: list[list[float]] = []
    for row, (group, turns) in enumerate(episodes):
        found.append([])
        for turn, (_, _, anchor) in enumerate(turns):
            same = [
                returns[other][t]
                for other, (their_group, their_turns) in enumerate(episodes)
                for t, (_, _, their_anchor) in enumerate(their_turns)
                if (their_group, their_anchor) == (group, anchor)
            ]
            value = returns[row][turn] - statistics.fmean(same)
            if by_std and len(same) > 1:
                value /= statistics.stdev(same) + 1e-6
            found[row].append(value if len(same) > 1 else 0.0)
    return found


def slow_graphgpo(episodes: list[Episode], *, gamma: float, by_std: bool) -> list[list[float]]:
    """Distances by breadth-first search from success; then as `slow_gigpo` of turns that are worth them."""
    edges = [
        (group, anchor, next_state(turns, turn))
        for group, turns in episodes
        for turn, (_, _, anchor) in enumerate(turns)
    ]
    distances: dict[tuple[str, int], int] = {}
    for group in {group for group, _, _ in edges}:
        distances[group, SOLVED] = length = 0
        layer = {SOLVED}
        while layer:
            length += 1
            layer = {a for theirs, a, b in edges if theirs == group and b in layer and (group, a) not in distances}
            distances |= {(group, state): length for state in layer}
    found = []
    for group, turns in episodes:
        far = 1 + max(value for (theirs, _), value in distances.items() if theirs == group)
        found.append([10 * gamma ** distances.get((group, next_state(turns, turn)), far) for turn in range(len(turns))])
    worth = [
        (group, [(n, value, anchor) for (n, _, anchor), value in zip(turns, values, strict=True)])
        for (group, turns), values in zip(episodes, found, strict=True)
    ]
    return slow_gigpo(worth, gamma=0.0, by_std=by_std)


def slow_hgpo(episodes: list[Episode], *, gamma: float, by_std: bool, history: int, power: float) -> list[list[float]]:
    """As `slow_gigpo`, at every depth: turns that met the same last states, the earlier ones by their own turns."""
    found = []
    for row, (_, turns) in enumerate(episodes):
        found.append([0.0] * len(turns))
        for turn in range(len(turns)):
            levels = []
            for depth in range(1, min(history, turn) + 2):
                paths = [
                    (their_group, [(n, reward, hash(tuple(a for _, _, a in played[t - depth + 1 : t + 1])))])
                    for their_group, played in episodes
                    for t in range(depth - 1, len(played))
                    for n, reward in [(1, sum(gamma ** (u - t) * played[u][1] for u in range(t, len(played))))]
                ]
                place = sum(max(0, len(played) - depth + 1) for _, played in episodes[:row]) + turn - depth + 1
                [value] = slow_gigpo(paths, gamma=gamma, by_std=by_std)[place]
                levels.append(((depth + 1) ** power, value))
            told = [(weight, value) for weight, value in levels if abs(value) > 1e-9]
            if told:
                found[row][turn] = sum(w * value for w, value in told) / sum(w for w, _ in told)
    return found


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition: the discounted sum of all later temporal differences."""
    deltas = [
        reward + gamma * (values[step + 1] if step + 1 < len(values) else 0.0) - values[step]
        for step, reward in enumerate(rewards)
    ]
    return [
        sum((gamma * lam) ** (later - step) * deltas[later] for later in range(step, len(deltas)))
        for step in range(len(deltas))
    ]


def slow_gagpo(episodes: list[Episode], *, gamma: float, lam: float, by_std: bool) -> list[list[float]]:
    """GAE of each episode with a table of mean returns for values; then less the mean of the prompt's turns."""
    met: dict[tuple[str, int], list[float]] = {}
    for group, turns in episodes:
        to_come = 0.0
        for _, reward, anchor in reversed(turns):
            to_come = reward + gamma * to_come
            met.setdefault((group, anchor), []).append(to_come)
    found = [
        slow_gae(
            [reward for _, reward, _ in turns],
            [statistics.fmean(met[group, anchor]) for _, _, anchor in turns],
            gamma,
            lam,
        )
        for group, turns in episodes
    ]
    normalised = []
    for (group, _), own in zip(episodes, found, strict=True):
        every = [a for (theirs, _), each in zip(episodes, found, strict=True) if theirs == group for a in each]
        spread = statistics.stdev(every) if by_std and len(every) > 1 else 0.0
        scale = spread + 1e-6 if spread > 1e-6 else 1.0
        normalised.append([(a - statistics.fmean(every)) / scale for a in own])
    return normalised


def slow_whiten(tokens: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    mean = statistics.fmean(tokens.values())
    variance = statistics.variance(tokens.values())
    return {place: (value - mean) / math.sqrt(variance + 1e-8) for place, value in tokens.items()}


def slow_turn_ppo(
    episodes: list[Episode], batch: dict[str, Any], *, gamma: float, lam: float
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    advantages: dict[tuple[int, int], float] = {}
    targets: dict[tuple[int, int], float] = {}
    for row, (_, turns) in enumerate(episodes):
        places = [tokens_of(batch, row, turn) for turn in range(len(turns))]
        values = [float(batch["values"][row, tokens[0]]) for tokens in places]
        found = slow_gae([reward for _, reward, _ in turns], values, gamma, lam)
        for tokens, advantage, value in zip(places, found, values, strict=True):
            advantages |= {(row, t): advantage for t in tokens}
            targets |= {(row, t): advantage + value for t in tokens}
    return slow_whiten(advantages), targets


def slow_bilevel(
    episodes: list[Episode],
    batch: dict[str, Any],
    *,
    gamma: float,
    lam: float,
    high_level_gamma: float,
    turn_value: str = "last",
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    advantages: dict[tuple[int, int], float] = {}
    targets: dict[tuple[int, int], float] = {}
    for row, (_, turns) in enumerate(episodes):
        places = [tokens_of(batch, row, turn) for turn in range(len(turns))]
        read = {"last": -1, "first": 0}[turn_value]
        of_turns = [float(batch["values"][row, tokens[read]]) for tokens in places]
        high = slow_gae([reward for _, reward, _ in turns], of_turns, high_level_gamma, lam)
        for tokens, advantage, end in zip(places, high, of_turns, strict=True):
            values = [float(batch["values"][row, t]) for t in tokens]
            low = slow_gae([0.0] * (len(tokens) - 1) + [advantage + end], values, gamma, lam)
            advantages |= {(row, t): value for t, value in zip(tokens, low, strict=True)}
            targets |= {(row, t): a + v for t, a, v in zip(tokens, low, values, strict=True)}
    return slow_whiten(advantages), targets


def assert_tokens(found: torch.Tensor, expected: dict[tuple[int, int], float]) -> None:
    dense = torch.zeros(found.shape)
    for place, value in expected.items():
        dense[place] = value
    torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-5)
