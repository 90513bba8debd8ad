"""Advantage estimators over turns against loops over Python floats, hand-worked numbers, and what follows from them."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from verl.trainer.ppo.core_algos import compute_gae_advantage_return

from actfocus_verl.credit import estimators
from actfocus_verl.credit.episodes import discounted_sums
from actfocus_verl.credit.estimation import build_estimator
from actfocus_verl.credit.estimators import whiten
from actfocus_verl.errors import ConfigurationError
from tests.helpers.slow_estimators import (
    NAN,
    Episode,
    assert_tokens,
    batch_of,
    bilevel,
    episodes_of,
    gigpo,
    random_episodes,
    slow_bilevel,
    slow_gae,
    slow_turn_ppo,
    slow_whiten,
    step_of,
    tokens_of,
    turn_ppo,
)

SEEDS = range(6)
GAE = [(1.0, 1.0), (0.9, 0.8), (0.5, 0.0)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("gamma", "lam"), GAE)
def test_turn_ppo_against_the_slow_loop(seed: int, gamma: float, lam: float) -> None:
    episodes = random_episodes(6, seed)
    batch = batch_of(episodes, padding=2)
    advantages, targets = turn_ppo(batch, gamma=gamma, lam=lam)
    expected = slow_turn_ppo(episodes, batch, gamma=gamma, lam=lam)
    assert_tokens(advantages, expected[0])
    assert_tokens(targets, expected[1])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("gamma", "lam"), GAE)
@pytest.mark.parametrize(("high_level_gamma", "turn_value"), [(1.0, "last"), (0.95, "last"), (0.95, "first")])
def test_bilevel_gae_against_the_slow_loop(
    seed: int, gamma: float, lam: float, high_level_gamma: float, turn_value: str
) -> None:
    episodes = random_episodes(6, seed)
    batch = batch_of(episodes, padding=2)
    settings: dict[str, Any] = {"gamma": gamma, "lam": lam, "high_level_gamma": high_level_gamma}
    settings["turn_value"] = turn_value
    advantages, targets = bilevel(batch, **settings)
    expected = slow_bilevel(episodes, batch, **settings)
    assert_tokens(advantages, expected[0])
    assert_tokens(targets, expected[1])


# Numbers worked out by hand


def by_hand() -> dict[str, Any]:
    """One episode: turns of two tokens and one, rewards 1 and 2."""
    batch = batch_of([("a", [(2, 1.0, 1), (1, 2.0, 2)])])
    batch["values"] = torch.tensor([[0.5, 9.0, NAN, 1.0, NAN]])
    return batch


def test_turn_ppo_by_hand() -> None:
    """V = 0.5, 1: d2 = 2 - 1 = 1, d1 = 1 + 0.5 * 1 - 0.5 = 1, A1 = 1 + 0.5 * 0.5 * 1 = 1.25; targets 1.75 and 2."""
    advantages, targets = turn_ppo(by_hand(), gamma=0.5, lam=0.5)
    assert targets.tolist() == [[1.75, 1.75, 0, 2.0, 0]]
    # 1.25, 1.25, 1: mean 7/6, deviations 1/12, 1/12, -1/6, variance (1/144 + 1/144 + 4/144) / 2 = 1/48
    assert advantages[0].tolist() == pytest.approx(
        [math.sqrt(48) / 12, math.sqrt(48) / 12, 0, -math.sqrt(48) / 6, 0], rel=1e-5
    )


def test_bilevel_gae_by_hand() -> None:
    """At the turns' ends V = 9, 1: A2 = 1, d1 = 1 + 0.5 * 1 - 9 = -7.5, A1 = -7.5 + 0.5 * 0.5 = -7.25, return 1.75.

    Inside turn 1 with gamma 1: the last token 1.75 - 9 = -7.25, the first 9 - 0.5 + 0.5 * -7.25 = 4.875.
    """
    _, targets = bilevel(by_hand(), gamma=1.0, lam=0.5, high_level_gamma=0.5)
    assert targets.tolist() == [[4.875 + 0.5, 1.75, 0, 2.0, 0]]
    # with V = 0.5 at turn 1's first token the return is 1.75 as in Turn-PPO
    _, targets = bilevel(by_hand(), gamma=1.0, lam=0.5, high_level_gamma=0.5, turn_value="first")
    assert targets[0, 1].tolist() == 1.75


# Oracles


def dense_rewards(episodes: list[Episode], batch: dict[str, Any]) -> torch.Tensor:
    """Each turn's reward on its last token."""
    rewards = torch.zeros_like(batch["values"])
    for row, (_, turns) in enumerate(episodes):
        for turn, (_, reward, _) in enumerate(turns):
            rewards[row, tokens_of(batch, row, turn)[-1]] = reward
    return rewards


@pytest.mark.parametrize(("gamma", "lam"), GAE)
def test_bilevel_gae_of_one_turn_is_verls_gae(gamma: float, lam: float) -> None:
    episodes = [("a", [(tokens, reward, 1)]) for tokens, reward in ((3, 1.0), (6, 0.0), (1, -0.1), (4, 1.0))]
    batch = batch_of(episodes, planted=0.0)
    expected = compute_gae_advantage_return(dense_rewards(episodes, batch), batch["values"], batch["mask"], gamma, lam)
    found = bilevel(batch, gamma=gamma, lam=lam, high_level_gamma=0.3)
    for ours, verls in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, verls * batch["mask"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("gamma", "lam"), GAE)
def test_turn_ppo_of_one_token_turns_is_verls_gae(gamma: float, lam: float) -> None:
    episodes = [(group, [(1, reward, anchor) for _, reward, anchor in turns]) for group, turns in random_episodes(6, 1)]
    batch = batch_of(episodes, planted=0.0)
    expected = compute_gae_advantage_return(dense_rewards(episodes, batch), batch["values"], batch["mask"], gamma, lam)
    for ours, verls in zip(turn_ppo(batch, gamma=gamma, lam=lam), expected, strict=True):
        torch.testing.assert_close(ours, verls * batch["mask"], rtol=1e-5, atol=1e-5)


def test_undiscounted_bilevel_gae_is_verls_gae_with_rewards_at_the_turns_ends() -> None:
    episodes = random_episodes(6, 2)
    batch = batch_of(episodes, planted=0.0)
    expected = compute_gae_advantage_return(dense_rewards(episodes, batch), batch["values"], batch["mask"], 1.0, 1.0)
    for ours, verls in zip(bilevel(batch, gamma=1.0, lam=1.0, high_level_gamma=1.0), expected, strict=True):
        torch.testing.assert_close(ours, verls * batch["mask"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_vetta_adds_centred_token_advantages_to_turn_ppo(seed: int) -> None:
    """Before whitening: verl's GAE over tokens with gamma and lam 1, less its mean over the turn."""
    episodes = random_episodes(6, seed)
    batch = batch_of(episodes, padding=2)
    raw = {}
    for row, (_, turns) in enumerate(episodes):
        places = [tokens_of(batch, row, turn) for turn in range(len(turns))]
        values = [[float(batch["values"][row, t]) for t in tokens] for tokens in places]
        of_turns = slow_gae([reward for _, reward, _ in turns], [each[0] for each in values], 0.9, 0.8)
        for tokens, own, advantage in zip(places, values, of_turns, strict=True):
            of_tokens = slow_gae([0.0] * (len(own) - 1) + [advantage + own[0]], own, 1.0, 1.0)
            mean = statistics.fmean(of_tokens)
            raw |= {(row, t): advantage + 3 * (a - mean) for t, a in zip(tokens, of_tokens, strict=True)}
    found, targets = turn_ppo(batch, gamma=0.9, lam=0.8, token_weight=3.0)
    assert_tokens(found, slow_whiten(raw))
    plain, same_targets = turn_ppo(batch, gamma=0.9, lam=0.8)
    assert torch.equal(targets, same_targets)
    step = step_of(batch, gamma=0.9, lam=0.8)
    for name, section in (("turn_ppo", {}), ("vetta", {"token_weight": 0.0})):
        spec = build_estimator(name, section)
        assert spec is not None
        assert torch.equal(spec(step).advantages, plain)


def test_the_targets_of_undiscounted_turn_ppo_are_the_rewards_to_come() -> None:
    episodes = random_episodes(6, 4)
    batch = batch_of(episodes)
    _, targets = turn_ppo(batch, gamma=1.0, lam=1.0)
    assert_tokens(
        targets,
        {
            (row, t): sum(reward for _, reward, _ in turns[turn:])
            for row, (_, turns) in enumerate(episodes)
            for turn in range(len(turns))
            for t in tokens_of(batch, row, turn)
        },
    )


# What must not matter


def everything(batch: dict[str, Any]) -> list[torch.Tensor]:
    return [
        gigpo(batch, gamma=0.95, by_std=True, history=2)[0],
        *turn_ppo(batch, gamma=0.9, lam=0.8),
        *turn_ppo(batch, gamma=0.9, lam=0.8, token_weight=1.0),
        *bilevel(batch, gamma=0.9, lam=0.8, high_level_gamma=0.95),
    ]


def test_padding_and_masked_tokens_take_no_part() -> None:
    episodes = random_episodes(6, 5)
    clean, planted = batch_of(episodes, planted=0.0), batch_of(episodes, padding=3)
    assert bool(torch.isnan(planted["values"]).any())
    clean["values"] = planted["values"][:6].nan_to_num()
    planted["rewards"][6] = 1.0  # a padding row is a copy of an episode: group, state and rewards fit
    for expected, found in zip(everything(clean), everything(planted), strict=True):
        assert torch.equal(found[:6], expected)
        assert int(found[6:].count_nonzero()) == 0


def test_the_order_of_rows_does_not_matter() -> None:
    episodes = random_episodes(9, 6)
    batch = batch_of(episodes, padding=2)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    shuffled = {name: column[order] for name, column in batch.items()}
    for expected, found in zip(everything(batch), everything(shuffled), strict=True):
        torch.testing.assert_close(found, expected[order], rtol=0, atol=1e-6)


def test_rows_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(random_episodes(9, 8), padding=1)
    whole = everything(batch)
    monkeypatch.setattr("actfocus_verl.credit.blocks.BLOCK_ELEMENTS", 1)
    for expected, found in zip(whole, everything(batch), strict=True):
        assert torch.equal(found, expected)


# Turns without tokens, penalties, rejected tokens


@pytest.mark.parametrize("place", [1, 2])
def test_the_reward_of_a_turn_without_tokens_goes_to_the_turn_before(place: int) -> None:
    """Such a turn is no step of its own: what comes after it is discounted once."""
    told = batch_of([("a", [(2, 1.0, 1), (1, 0.5, 2)]), ("a", [(1, 0.5, 1)])], planted=0.0)
    silent = dict(told)
    told["rewards"] = torch.tensor([[0.9, 0.5], [0.5, 0.0]]) if place == 1 else torch.tensor([[1.0, 0.4], [0.5, 0.0]])
    rewards = [1.0, 0.5]
    rewards.insert(place, -0.1)
    silent["rewards"], silent["counts"] = torch.tensor([rewards, [0.5, 0.0, 0.0]]), torch.tensor([3, 1])
    silent["turn_ids"] = torch.where(told["turn_ids"] >= place, told["turn_ids"] + 1, told["turn_ids"])
    silent["anchors"] = torch.tensor([[1, 2, 3], [1, 0, 0]])
    for found, expected in zip(everything(silent)[1:], everything(told)[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_an_episode_without_tokens_has_no_advantage() -> None:
    batch = batch_of([("a", [(2, 1.0, 1), (1, 0.0, 2)]), ("a", [(1, 0.5, 1)])])
    nothing = {"turn_ids": torch.full_like(batch["turn_ids"], -1), "mask": torch.zeros_like(batch["mask"])}
    assert all(int(found.count_nonzero()) == 0 for found in everything(batch | nothing))


def test_a_turns_penalties_are_part_of_its_reward() -> None:
    batch = batch_of([("a", [(2, 1.0, 1), (1, 2.0, 2)])])
    batch["values"] = torch.zeros_like(batch["values"])
    penalties = torch.tensor([[-0.25, -0.5, NAN, -1.0, NAN]])
    _, targets = turn_ppo(batch, gamma=1.0, lam=1.0, penalties=penalties)
    assert targets.tolist() == [[1.25, 1.25, 0, 1.0, 0]]


def test_a_rejected_token_keeps_its_turn_and_loses_its_advantage() -> None:
    episodes = random_episodes(5, 9)
    batch = batch_of(episodes)
    kept = batch["mask"].clone()
    kept[0, 0] = 0
    plain = turn_ppo(batch, gamma=0.9, lam=0.8)
    parts = (episodes_of(batch), batch["values"], torch.zeros_like(batch["values"]), kept)
    advantages, targets = estimators.turn_gae(*parts, gamma=0.9, lam=0.8)
    assert torch.equal(targets, plain[1])
    assert advantages[0, 0] == 0
    assert float(advantages[kept > 0].mean()) == pytest.approx(0.0, abs=1e-6)


def test_whitening_needs_no_second_token() -> None:
    one = torch.tensor([[True, False]])
    assert whiten(torch.tensor([[3.0, 1.0]]), one).tolist() == [[0.0, 0.0]]
    assert whiten(torch.tensor([[3.0, 1.0]]), ~one & one).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("width", [0, 1, 2, 7, 64])
def test_discounted_sums(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    values, decay = (torch.rand(3, width, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = torch.zeros(3, width + 1, dtype=torch.float64)
    for n in range(width - 1, -1, -1):
        expected[:, n] = values[:, n] + decay[:, n] * expected[:, n + 1] if n + 1 < width else values[:, n]
    torch.testing.assert_close(discounted_sums(values, decay), expected[:, :width])


# Mistakes


def test_columns_that_contradict_each_other_are_refused() -> None:
    batch = batch_of([("a", [(2, 1.0, 1), (1, 2.0, 2)])])
    with pytest.raises(ValueError, match="turn_ids has turns without an entry in turn_rewards"):
        episodes_of(batch | {"counts": torch.tensor([1])})
    with pytest.raises(ValueError, match="turn_ids has turns"):
        episodes_of(batch | {"rewards": torch.tensor([[1.0]]), "counts": torch.tensor([1])})
    with pytest.raises(ValueError, match="turn_rewards is NaN or infinite"):
        episodes_of(batch | {"rewards": torch.tensor([[1.0, NAN]])})
    with pytest.raises(ValueError, match="a turn is one reply"):
        bilevel(batch | {"turn_ids": torch.tensor([[0, 1, -1, 0, -1]])}, gamma=1.0, lam=1.0, high_level_gamma=1.0)
    with pytest.raises(ValueError, match="values is NaN or infinite"):
        turn_ppo(batch | {"values": torch.full_like(batch["values"], NAN)}, gamma=1.0, lam=1.0)
    values = batch["values"].clone()
    values[0, 1] = NAN  # not at the first token of a turn
    with pytest.raises(ValueError, match="values is NaN or infinite"):
        turn_ppo(batch | {"values": values}, gamma=1.0, lam=1.0, token_weight=1.0)
    values = batch["values"].clone()
    values[0, 0] = NAN  # not at the end of a turn: the level of tokens alone reads it
    with pytest.raises(ValueError, match="values is NaN or infinite"):
        bilevel(batch | {"values": values}, gamma=1.0, lam=1.0, high_level_gamma=1.0)


@pytest.mark.parametrize(
    ("name", "section", "message"),
    [
        (
            "gigpo",
            {"step_weigth": 1.0},
            "estimator.step_weigth=1.0: is not a parameter of the estimator gigpo. Known keys: step_we",
        ),
        ("gigpo", {"step_weight": -1.0}, "estimator.step_weight=-1.0: must be a finite number >= 0"),
        ("gigpo", {"step_weight": "one"}, "estimator.step_weight='one': must be a finite number >= 0"),
        ("gigpo", {"history": -1}, "estimator.history=-1: must be an integer >= 0"),
        ("gigpo", {"episode_statistics": "rows"}, "'rows': is not a known value. Choose one of: episodes, turns"),
        (
            "bilevel_gae",
            {"turn_value": "mean"},
            "estimator.turn_value='mean': is not a known value. Choose one of: last",
        ),
        ("bilevel_gae", {"high_level_gamma": 1.5}, "estimator.high_level_gamma=1.5: must be a number between 0 and 1"),
        ("vetta", {"token_weight": -1.0}, "estimator.token_weight=-1.0: must be a finite number >= 0"),
        (
            "turn_ppo",
            {"high_level_gamma": 1.0},
            "is not a parameter of the estimator turn_ppo. Remove estimator.high_level_g",
        ),
        (
            "grpo",
            {"step_weight": 1.0},
            "is not a parameter of the estimator grpo. Remove estimator.step_weight",
        ),
    ],
)
def test_a_wrong_parameter_is_one_line(name: str, section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_estimator(name, section)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parameters_have_defaults_and_verls_estimators_have_none() -> None:
    spec = build_estimator("gigpo", {})
    assert spec is not None
    assert spec.params["step_weight"] == 1.0
    changed = build_estimator("bilevel_gae", {"high_level_gamma": 1})
    assert changed is not None
    assert changed.params == {"high_level_gamma": 1.0, "turn_value": "last"}
    assert build_estimator("gae", {}) is None
