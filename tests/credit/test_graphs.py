"""GraphGPO's comparison against a search written for the test, hand-worked numbers, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from actfocus_verl.columns import SOLVED
from actfocus_verl.credit.estimation import Step, build_estimator
from actfocus_verl.credit.graphs import graph_step_advantages, grouped_step_advantages
from actfocus_verl.errors import ConfigurationError
from tests.helpers.slow_estimators import (
    assert_tokens,
    batch_of,
    episodes_of,
    gigpo,
    random_episodes,
    slow_gagpo,
    slow_graphgpo,
    step_of,
    tokens_of,
)


def graph(batch: dict[str, Any], *, gamma: float = 0.1, by_std: bool = False) -> tuple[torch.Tensor, float, float]:
    columns = batch["anchors"], batch["next_anchors"], batch["groups"]
    return graph_step_advantages(episodes_of(batch), *columns, gamma=gamma, by_std=by_std)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("by_std", [False, True])
@pytest.mark.parametrize("gamma", [0.1, 0.9])
def test_graphgpo_against_the_slow_search(seed: int, by_std: bool, gamma: float) -> None:
    episodes = random_episodes(8, seed)
    batch = batch_of(episodes, padding=2)
    expected = slow_graphgpo(episodes, gamma=gamma, by_std=by_std)
    found, share, _ = graph(batch, gamma=gamma, by_std=by_std)
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


def test_graphgpo_by_hand() -> None:
    """1 -> 2 -> 4 -> success, and 1 -> 4 -> 9, a hole: a failed episode took the shorter way to 4.

    d of 4 is 1, of 1 and 2 it is 2, and of 9, from where no way is known, 3: one more than the farthest. With gamma
    0.5 the turns from state 1 are worth 10 * 0.25 and 10 * 0.5; those from 4 are worth 10 and 10 * 0.125.
    """
    turns = [[(1, 0.0, 1), (1, 0.0, 2), (1, 1.0, 4)], [(1, 0.0, 1), (1, 0.0, 4)]]
    batch = batch_of([("a", each) for each in turns])
    batch["next_anchors"] = torch.tensor([[2, 4, SOLVED], [4, 9, 1]])
    found, compared, known = graph(batch, gamma=0.5)
    assert found[0, ::2].tolist() == [-1.25, 0.0, 4.375]
    assert found[1, ::2].tolist() == [1.25, -4.375, 0.0]
    assert (compared, known) == (0.8, 0.8)


def graphgpo(step: Step, **section: Any) -> torch.Tensor:
    spec = build_estimator("graphgpo", section)
    assert spec is not None
    return spec(step).advantages


def test_without_weight_it_is_grpo_to_the_bit() -> None:
    step = step_of(batch_of(random_episodes(8, 2), padding=1), gamma=0.1, by_std=True)
    grpo = step.grpo(step.rewards, step.response_mask)
    assert torch.equal(graphgpo(step, step_weight=0.0), grpo)
    assert not torch.equal(graphgpo(step), grpo)


def test_without_a_success_it_is_grpo() -> None:
    episodes = random_episodes(8, 2)
    failed = [(group, [(n, min(reward, 0.5), anchor) for n, reward, anchor in turns]) for group, turns in episodes]
    step = step_of(batch_of(failed), gamma=0.1)
    torch.testing.assert_close(graphgpo(step), step.grpo(step.rewards, step.response_mask))
    assert step.metrics["estimator/turns_to_success"] == 0.0


def test_padding_order_and_other_prompts_do_not_matter() -> None:
    episodes = random_episodes(9, 6)
    found, _, _ = graph(batch_of(episodes, padding=2), by_std=True)
    assert torch.equal(found[:9], graph(batch_of(episodes), by_std=True)[0])
    assert int(found[9:].count_nonzero()) == 0
    order = [3, 7, 0, 8, 5, 1, 6, 2, 4]
    turned, _, _ = graph(batch_of([episodes[row] for row in order]), by_std=True)
    torch.testing.assert_close(turned, found[order], rtol=0, atol=1e-6)
    rows = [row for row, episode in enumerate(episodes) if episode[0] == "a"]
    alone, _, _ = graph(batch_of([episodes[row] for row in rows]), by_std=True)
    torch.testing.assert_close(alone, found[rows][:, : alone.shape[1]], rtol=0, atol=1e-6)


def test_a_wrong_parameter_is_one_line() -> None:
    for key, value in (("episode_statistics", "rows"), ("values", "critic")):
        with pytest.raises(ConfigurationError, match=rf"estimator\.{key}='{value}': is not a known value"):
            build_estimator("graphgpo", {key: value})


# GAGPO's values


def grouped(batch: dict[str, Any], *, lam: float = 0.8, by_std: bool = False) -> torch.Tensor:
    columns = batch["anchors"], batch["groups"]
    return grouped_step_advantages(episodes_of(batch), *columns, gamma=0.9, lam=lam, by_std=by_std)[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("by_std", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.8])
def test_grouped_values_against_the_slow_table(seed: int, by_std: bool, lam: float) -> None:
    episodes = random_episodes(8, seed)
    batch = batch_of(episodes, padding=2)
    expected = slow_gagpo(episodes, gamma=0.9, lam=lam, by_std=by_std)
    assert_tokens(
        grouped(batch, lam=lam, by_std=by_std),
        {
            (row, t): value
            for row, turns in enumerate(expected)
            for turn, value in enumerate(turns)
            for t in tokens_of(batch, row, turn)
        },
    )


def test_grouped_values_by_hand() -> None:
    """State 1 leads to 2; 2 to success in one episode, to failure in the other. V(1) = V(2) = 0.5 with gamma 1.

    With lam 0 the first turns led from 0.5 to 0.5 and are worth 0, whatever followed; the last ones +0.5 and -0.5.
    """
    batch = batch_of([("a", [(1, 0.0, 1), (1, reward, 2)]) for reward in (1.0, 0.0)])
    columns = batch["anchors"], batch["groups"]
    found, share = grouped_step_advantages(episodes_of(batch), *columns, gamma=1.0, lam=0.0, by_std=False)
    assert found[:, ::2].tolist() == [[0.0, 0.5], [0.0, -0.5]]
    assert share == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_with_lam_1_grouped_values_are_gigpos_step(seed: int) -> None:
    batch = batch_of(random_episodes(8, seed), padding=1)
    torch.testing.assert_close(grouped(batch, lam=1.0), gigpo(batch, gamma=0.9, by_std=False)[0], rtol=0, atol=1e-6)


def test_grouped_values_know_neither_padding_nor_order_nor_other_prompts() -> None:
    episodes = random_episodes(9, 6)
    planted = batch_of(episodes, padding=2)  # NaN beyond the turns; the padding rows have a state of group "a"
    found = grouped(planted, by_std=True)
    assert torch.equal(found[:9], grouped(batch_of(episodes), by_std=True))
    assert int(found[9:].count_nonzero()) == 0
    order = [3, 7, 0, 8, 5, 1, 6, 2, 4]
    turned = grouped(batch_of([episodes[row] for row in order]), by_std=True)
    torch.testing.assert_close(turned, found[order], rtol=0, atol=1e-6)
    rows = [row for row, episode in enumerate(episodes) if episode[0] == "a"]
    alone = grouped(batch_of([episodes[row] for row in rows]), by_std=True)
    torch.testing.assert_close(alone, found[rows][:, : alone.shape[1]], rtol=0, atol=1e-6)


def test_the_option_has_its_own_weights_and_columns() -> None:
    batch = batch_of(random_episodes(8, 2), padding=1)
    step = step_of(batch, gamma=0.9, lam=0.8)
    grpo = step.grpo(step.rewards, step.response_mask)
    assert torch.equal(graphgpo(step, values="grouped", step_weight=0.0), grpo)
    torch.testing.assert_close(graphgpo(step, values="grouped", episode_weight=0.0), grouped(batch))
    spec = build_estimator("graphgpo", {"values": "grouped"})
    assert spec is not None
    assert "next_anchors" not in spec.required_columns
