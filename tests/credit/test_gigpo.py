"""GiGPO's step level and HGPO's history against loops over Python floats, hand-worked numbers, and oracles."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch

from actfocus_verl.credit.estimation import build_estimator
from actfocus_verl.credit.groups import over_turns
from tests.helpers.slow_estimators import (
    NAN,
    assert_tokens,
    batch_of,
    gigpo,
    random_episodes,
    slow_gigpo,
    slow_hgpo,
    step_of,
    tokens_of,
)

SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_std", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 0.95, 0.0])
def test_gigpo_against_the_slow_loop(seed: int, by_std: bool, gamma: float) -> None:
    episodes = random_episodes(7, seed)
    batch = batch_of(episodes, padding=2)
    found, share = gigpo(batch, gamma=gamma, by_std=by_std)
    expected = slow_gigpo(episodes, gamma=gamma, by_std=by_std)
    assert_tokens(
        found,
        {
            (row, t): value
            for row, turns in enumerate(expected)
            for turn, value in enumerate(turns)
            for t in tokens_of(batch, row, turn)
        },
    )
    met = [(group, anchor) for group, turns in episodes for _, _, anchor in turns]
    assert share == pytest.approx(sum(met.count(state) > 1 for state in met) / len(met))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_std", [False, True])
@pytest.mark.parametrize(("history", "power"), [(0, 1.0), (1, 1.0), (3, 0.5), (9, 0.0)])
def test_histories_against_the_slow_loop(seed: int, by_std: bool, history: int, power: float) -> None:
    episodes = random_episodes(9, seed)
    batch = batch_of(episodes, padding=2)
    found, _ = gigpo(batch, gamma=0.9, by_std=by_std, history=history, history_power=power)
    expected = slow_hgpo(episodes, gamma=0.9, by_std=by_std, history=history, power=power)
    assert_tokens(found, on_tokens(batch, expected))


def on_tokens(batch: dict[str, Any], by_turn: list[list[float]]) -> dict[tuple[int, int], float]:
    return {
        (row, t): value
        for row, turns in enumerate(by_turn)
        for turn, value in enumerate(turns)
        for t in tokens_of(batch, row, turn)
    }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_std", [False, True])
def test_statistics_over_turns_against_the_slow_loop(seed: int, by_std: bool) -> None:
    """Each return is repeated as often as its episode has turns."""
    episodes = [*random_episodes(9, seed), ("c", [(1, 0.5, 1)]), ("d", [(1, 0.5, 1), (1, 1.0, 2)])]
    batch = batch_of(episodes, padding=2)
    returns = [sum(reward for _, reward, _ in turns) for _, turns in episodes]
    expected = []
    for (group, _), value in zip(episodes, returns, strict=True):
        rows = [
            other for (theirs, turns), other in zip(episodes, returns, strict=True) for _ in turns if theirs == group
        ]
        centred = value - statistics.fmean(rows) if len(rows) > 1 else value
        expected.append(centred / (statistics.stdev(rows) + 1e-6 if by_std and len(rows) > 1 else 1.0))
    spec = build_estimator("gigpo", {"step_weight": 0.0, "episode_statistics": "turns"})
    assert spec is not None
    found = spec(step_of(batch, by_std=by_std)).advantages
    assert_tokens(found, on_tokens(batch, [[a] * len(turns) for a, (_, turns) in zip(expected, episodes, strict=True)]))


def test_gigpo_by_hand() -> None:
    """Returns with gamma 0.5: 0 + 0.5 * 1 = 0.5 and 1; 0 and 0. State 7 is met by turns worth 0.5 and 0."""
    batch = batch_of([("a", [(2, 0.0, 7), (1, 1.0, 8)]), ("a", [(1, 0.0, 7), (1, 0.0, 9)])])
    found, share = gigpo(batch, gamma=0.5, by_std=False)
    assert found.tolist() == [[0.25, 0.25, 0, 0, 0], [-0.25, 0, 0, 0, 0]]
    assert share == 0.5
    divided, _ = gigpo(batch, gamma=0.5, by_std=True)  # the deviation of 0.5 and 0 is 0.5 / sqrt(2)
    assert divided[:, 0].tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-5)


def test_histories_by_hand() -> None:
    """Returns 1, 1; 0, 0; 1, 1; state 8 after 7, 7 and 6. By state 8: 1/3, -2/3, 1/3; by the last two: 1/2, -1/2.

    Depths weigh 2 and 3: (2/3 + 3/2) / 5, (-4/3 - 3/2) / 5, and 1/3 where the history has no peer.
    """
    turns = [("a", [(1, 0.0, first), (1, reward, 8)]) for first, reward in ((7, 1.0), (7, 0.0), (6, 1.0))]
    batch = batch_of(turns)
    found, _ = gigpo(batch, gamma=1.0, by_std=False, history=1)
    assert found[:, 2].tolist() == pytest.approx([13 / 30, -17 / 30, 1 / 3])
    assert found[:, 0].tolist() == [0.5, -0.5, 0.0]


def test_histories_as_hgpos_code_has_them() -> None:
    """Recorded from `hgpo_advantage_estimate` of verl-agent's recipe/hgpo (mean_norm, two states back, alpha 0.5)."""
    turns = [[(7, 0.0), (8, 0.5), (9, 1.0)], [(7, 0.0), (8, 0.0), (9, 0.0)], [(6, 0.0), (8, 0.0), (9, 1.0)]]
    batch = batch_of([("a", [(1, reward, anchor) for anchor, reward in each]) for each in turns])
    found, _ = gigpo(batch, gamma=0.9, by_std=False, history=2, history_power=0.5)
    recorded = [[0.63, 0.6700338, 0.3981052], [-0.63, -0.7299658, -0.6018947], [0.0, 0.1333332, 0.3333332]]
    torch.testing.assert_close(found[:, ::2], torch.tensor(recorded), rtol=0, atol=1e-6)


def test_statistics_over_turns_by_hand() -> None:
    """A success in 2 turns, a failure in 8: the mean of ten turns is 2, not 5."""
    found = over_turns(torch.tensor([10.0, 0.0, NAN]), torch.tensor([2, 8, 0]), torch.tensor([4, 4, 4]), by_std=False)
    assert found.tolist() == [8.0, -2.0, 0.0]


def test_gigpo_sums_to_zero_in_a_state_and_compares_no_prompts() -> None:
    episodes = random_episodes(12, 3)
    turns = slow_gigpo(episodes, gamma=0.95, by_std=False)
    batch = batch_of(episodes)
    found, _ = gigpo(batch, gamma=0.95, by_std=False)
    sums: dict[tuple[str, int], float] = {}
    for row, (group, played) in enumerate(episodes):
        for turn, (_, _, anchor) in enumerate(played):
            state = (group, anchor)
            sums[state] = sums.get(state, 0.0) + float(found[row, tokens_of(batch, row, turn)[0]])
    assert len(sums) > 3
    assert list(sums.values()) == pytest.approx([0.0] * len(sums), abs=1e-6)
    assert any(abs(value) > 0.1 for row in turns for value in row)
    alone = [episode for episode in episodes if episode[0] == "a"]
    rows = [row for row, episode in enumerate(episodes) if episode[0] == "a"]
    separate, _ = gigpo(batch_of(alone), gamma=0.95, by_std=False)
    width = separate.shape[1]
    torch.testing.assert_close(found[rows][:, :width], separate, rtol=0, atol=1e-6)


def test_gigpo_is_silent_where_states_are_met_once_or_episodes_are_equal() -> None:
    unique = [("a", [(2, 1.0, 1), (1, 0.0, 2)]), ("a", [(1, 1.0, 3)]), ("b", [(1, 0.0, 1)])]
    for by_std in (False, True):
        found, share = gigpo(batch_of(unique), gamma=0.9, by_std=by_std)
        assert (int(found.count_nonzero()), share) == (0, 0.0)
        same = batch_of([("a", [(2, 0.0, 1), (1, 1.0, 2)])] * 3)
        assert float(gigpo(same, gamma=0.9, by_std=by_std)[0].abs().max()) < 1e-6
