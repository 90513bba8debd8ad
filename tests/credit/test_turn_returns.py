"""turn_grpo against loops over Python floats, hand-worked numbers, and the exact gradient of a case with two turns."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import compute_rloo_outcome_advantage

from actfocus_verl.credit.estimation import Step, build_estimator
from actfocus_verl.credit.information_gain import BASELINES
from actfocus_verl.errors import ConfigurationError
from tests.helpers.slow_estimators import (
    Episode,
    assert_tokens,
    batch_of,
    random_episodes,
    step_of,
    tokens_of,
)

SEEDS = range(4)


def advantages(name: str, step: Step, **section: Any) -> torch.Tensor:
    spec = build_estimator(name, section)
    assert spec is not None
    return spec(step).advantages


def turn_grpo(batch: dict[str, Any], *, gamma: float = 1.0, by_std: bool = False, **section: Any) -> torch.Tensor:
    return advantages("turn_grpo", step_of(batch, gamma=gamma, by_std=by_std), **section)


def on_tokens(batch: dict[str, Any], by_turn: list[list[float]]) -> dict[tuple[int, int], float]:
    return {
        (row, t): value
        for row, turns in enumerate(by_turn)
        for turn, value in enumerate(turns)
        for t in tokens_of(batch, row, turn)
    }


# Against slow loops, with padding rows and NaN wherever nothing may read


def slow_turn_grpo(
    episodes: list[Episode], *, gamma: float, by_std: bool, baseline: str = "group"
) -> list[list[float]]:
    def to_come(turns: list[Any], turn: int) -> float:
        return sum(gamma ** (later - turn) * turns[later][1] for later in range(turn, len(turns)))

    found = []
    for row, (group, turns) in enumerate(episodes):
        others = [played for each, (theirs, played) in enumerate(episodes) if theirs == group and each != row]
        everyone = [*others, turns]
        compared = others if baseline == "leave_one_out" else everyone
        scale = 1.0
        if by_std and others:
            scale = statistics.stdev([to_come(played, 0) for played in everyone]) + 1e-6
        found.append(
            [
                (to_come(turns, turn) - statistics.fmean(to_come(played, turn) for played in compared if others))
                / scale
                if others
                else to_come(turns, turn)
                for turn in range(len(turns))
            ]
        )
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_std", [False, True])
@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
def test_turn_grpo_against_the_slow_loop(seed: int, by_std: bool, baseline: str) -> None:
    gamma = [1.0, 0.9, 0.0][seed % 3]
    episodes = [*random_episodes(8, seed), ("c", [(2, 1.0, 1), (1, 0.5, 1)])]
    batch = batch_of(episodes, padding=2)
    found = turn_grpo(batch, gamma=gamma, by_std=by_std, baseline=baseline)
    expected = slow_turn_grpo(episodes, gamma=gamma, by_std=by_std, baseline=baseline)
    assert_tokens(found, on_tokens(batch, expected))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("gamma", [1.0, 0.5, 0.0])
def test_redistribution_against_the_slow_loop(seed: int, gamma: float) -> None:
    """Each reward is split over its turn and those before it, then each token's share is centred in the episode."""
    episodes = random_episodes(7, seed)
    batch = batch_of(episodes, padding=2)
    expected = []
    for _, turns in episodes:
        credit = [0.0] * len(turns)
        for turn, (_, reward, _) in enumerate(turns):
            powers = [gamma**back for back in range(turn + 1)]
            for back, power in enumerate(powers):
                credit[turn - back] += reward * power / sum(powers)
        mean = sum(n * share for (n, _, _), share in zip(turns, credit, strict=True)) / sum(n for n, _, _ in turns)
        expected.append([0.7 * (share - mean) for share in credit])
    step = step_of(batch, gamma=gamma, by_std=True)
    moved = advantages("turn_grpo", step, redistribute=0.7) - step.grpo(step.rewards, step.response_mask)
    assert_tokens(moved, on_tokens(batch, expected))
    assert moved.sum(dim=1).tolist() == pytest.approx([0.0] * len(moved), abs=1e-5)


# Numbers worked out by hand


def test_turn_grpo_by_hand() -> None:
    """To come: 1.5, 0.5; 0; 0 and 0. Means 0.5 and 1/6: the second episode has ended at turn 2 and counts 0."""
    batch = batch_of([("a", [(2, 1.0, 1), (1, 0.5, 1)]), ("a", [(1, 0.0, 1)]), ("a", [(1, 0.0, 1), (1, 0.0, 1)])])
    found = turn_grpo(batch)
    expected = [[1.0, 1.0, 0, 1 / 3, 0], [-0.5, 0, 0, 0, 0], [-0.5, 0, -1 / 6, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))
    torch.testing.assert_close(turn_grpo(batch, baseline="leave_one_out"), 1.5 * torch.tensor(expected))
    # the returns 1.5, 0, 0 have the deviation sqrt((1 + 1/4 + 1/4) / 2)
    torch.testing.assert_close(turn_grpo(batch, by_std=True), torch.tensor(expected) / math.sqrt(0.75))


def test_equal_returns_earned_at_different_turns_are_not_blown_up() -> None:
    """Returns of 0.1 + 0.2 and 0.3, which differ by rounding alone: a division by 1e-6 would give 1e5."""
    batch = batch_of([("a", [(1, 0.1, 1), (1, 0.2, 1)]), ("a", [(1, 0.3, 1), (1, 0.0, 1)])])
    assert_tokens(turn_grpo(batch, by_std=True), on_tokens(batch, [[0.0, 0.1], [0.0, -0.1]]))


def test_redistribution_by_hand() -> None:
    """Rewards 0 and 1, gamma 1: half of the 1 goes a turn back; gamma 0: none. Two tokens and one."""
    batch = batch_of([("a", [(2, 0.0, 1), (1, 1.0, 1)])] * 2)
    for gamma, credit in ((1.0, [0.5, 0.5]), (0.0, [0.0, 1.0])):
        mean = (2 * credit[0] + credit[1]) / 3
        found = turn_grpo(batch, gamma=gamma, redistribute=1)[0]
        assert found.tolist() == pytest.approx([credit[0] - mean] * 2 + [0, credit[1] - mean, 0], abs=1e-6)


# The exact gradient: after its first turn an episode stops and earns nothing, or goes on and earns 1

SIZE, GOES_ON = 4, 0.3


def every_group() -> list[tuple[bool, ...]]:
    """What the SIZE episodes of a prompt may do."""
    return list(itertools.product([False, True], repeat=SIZE))


def gradient(first: torch.Tensor) -> float:
    """Mean policy gradient for the probability of going on; `first` are advantages of first turns, a row an episode.

    The true one is 1: the return's expectation is that probability.
    """
    total = 0.0
    for group, row in zip(every_group(), first.view(-1, SIZE).double(), strict=True):
        chance = math.prod(GOES_ON if on else 1 - GOES_ON for on in group)
        scores = torch.tensor([1 / GOES_ON if on else -1 / (1 - GOES_ON) for on in group], dtype=torch.float64)
        total += chance * float((row * scores).mean())
    return total


def two_turns() -> dict[str, Any]:
    played = [(chr(ord("a") + number), on) for number, group in enumerate(every_group()) for on in group]
    batch = batch_of([(group, [(1, 0.0, 1), (1, 1.0, 1)] if on else [(1, 0.0, 1)]) for group, on in played])
    batch["scores"] = torch.tensor([[-2.0, -1.0] if on else [-2.0, math.nan] for _, on in played])
    return batch


def means_per_turn_number(batch: dict[str, Any]) -> torch.Tensor:
    """The usual construction: each turn's reward minus the mean over the episodes that got there, summed to come."""
    rewards = torch.where(torch.arange(2) < batch["counts"][:, None], batch["rewards"], torch.nan)
    by_group = rewards.view(-1, SIZE, 2)
    return (by_group - by_group.nanmean(dim=1, keepdim=True)).nan_to_num().sum(dim=2).flatten()


def test_the_exact_gradient_of_going_on() -> None:
    batch = two_turns()
    assert gradient(turn_grpo(batch, baseline="leave_one_out")[:, 0]) == pytest.approx(1.0)
    assert gradient(turn_grpo(batch)[:, 0]) == pytest.approx((SIZE - 1) / SIZE)
    assert gradient(means_per_turn_number(batch)) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("name", "section"), [("igpo", {}), ("a2tgpo", {"alpha": 1.0, "first_turn": True, "min_group_size": 2})]
)
def test_gains_to_come_reward_a_turn_of_average_gain(name: str, section: dict[str, Any]) -> None:
    """A turn that goes on gains 1, all returns are equal: the authors' baseline takes the gain away again."""
    batch = two_turns()
    batch["rewards"] = torch.zeros_like(batch["rewards"])
    found = {each: gradient(advantages(name, step_of(batch), baseline=each, **section)[:, 0]) for each in BASELINES}
    assert found == {"gain": pytest.approx(0.0), "to_come": pytest.approx((SIZE - 1) / SIZE, abs=1e-5)}


# What follows from the definitions


def test_nothing_to_redistribute_is_grpo_to_the_bit() -> None:
    step = step_of(batch_of(random_episodes(9, 1), padding=2), gamma=0.9, by_std=True)
    grpo = step.grpo(step.rewards, step.response_mask)
    assert torch.equal(advantages("turn_grpo", step, redistribute=0), grpo)
    assert not torch.equal(advantages("turn_grpo", step, redistribute=0.1), grpo)
    counts = torch.bincount(step.group_ids)[step.group_ids, None]
    found = advantages("turn_grpo", step, redistribute=0, baseline="leave_one_out")
    torch.testing.assert_close(found, grpo * counts / (counts - 1).clamp(min=1))


@pytest.mark.parametrize("by_std", [False, True])
def test_episodes_of_one_turn_have_verls_advantages(by_std: bool) -> None:
    batch = batch_of([(group, [(3, float(number), 1)]) for number, group in enumerate("aabaabba")])
    step = step_of(batch, by_std=by_std)
    torch.testing.assert_close(advantages("turn_grpo", step), step.grpo(step.rewards, step.response_mask))
    if not by_std:
        groups = batch["groups"].numpy().astype(str)
        rloo, _ = compute_rloo_outcome_advantage(step.rewards, step.response_mask, np.array(groups, dtype=object))
        torch.testing.assert_close(advantages("turn_grpo", step, baseline="leave_one_out"), rloo)


@pytest.mark.parametrize("section", [{}, {"redistribute": 1.0}])
def test_padding_order_and_other_prompts_do_not_matter(section: dict[str, Any]) -> None:
    episodes = random_episodes(9, 6)
    found = turn_grpo(batch_of(episodes, padding=2), gamma=0.9, by_std=True, **section)
    assert torch.equal(found[:9], turn_grpo(batch_of(episodes), gamma=0.9, by_std=True, **section))
    assert int(found[9:].count_nonzero()) == 0
    order = [3, 7, 0, 8, 5, 1, 6, 2, 4]
    turned = turn_grpo(batch_of([episodes[row] for row in order]), gamma=0.9, by_std=True, **section)
    torch.testing.assert_close(turned, found[order], rtol=0, atol=1e-6)
    rows = [row for row, episode in enumerate(episodes) if episode[0] == "a"]
    alone = turn_grpo(batch_of([episodes[row] for row in rows]), gamma=0.9, by_std=True, **section)
    torch.testing.assert_close(alone, found[rows][:, : alone.shape[1]], rtol=0, atol=1e-6)


def test_a_tokens_penalty_is_part_of_its_turns_reward() -> None:
    step = step_of(batch_of([("a", [(2, 0.0, 1), (1, 1.0, 1)])]))
    step.rewards = step.scores + torch.tensor([[-0.25, -0.5, 0.0, -1.0, 0.0]])
    assert advantages("turn_grpo", step)[0].tolist() == [-0.75, -0.75, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("section", [{}, {"redistribute": 1.0}])
def test_a_batch_without_turns(section: dict[str, Any]) -> None:
    batch = batch_of([("a", [(1, 1.0, 1)])] * 2)
    batch |= {"mask": torch.zeros_like(batch["mask"]), "counts": torch.zeros(2, dtype=torch.int64)}
    assert int(turn_grpo(batch, by_std=True, **section).count_nonzero()) == 0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"baseline": "mean"}, "estimator.baseline='mean': is not a known value. Choose one of: group, leave_one_out"),
        ({"redistribute": -1}, "estimator.redistribute=-1: must be a finite number >= 0"),
    ],
)
def test_a_wrong_parameter_is_one_line(section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_estimator("turn_grpo", section)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
