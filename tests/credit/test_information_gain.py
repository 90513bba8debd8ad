"""IGPO and A2TGPO against loops over Python floats, hand-worked numbers, and what follows from their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from actfocus_verl.credit.estimation import build_estimator
from actfocus_verl.credit.information_gain import (
    Gains,
    a2tgpo_advantages,
    a2tgpo_information,
    clip_scales,
    igpo_advantages,
    turn_group_gains,
)
from actfocus_verl.errors import ConfigurationError
from tests.helpers.slow_estimators import NAN, assert_tokens, batch_of, step_of, tokens_of
from tests.helpers.slow_gains import (
    Played,
    by_turn,
    columns_of,
    play_of,
    random_plays,
    slow_gains,
    slow_grpo,
    slow_igpo,
    slow_information,
    slow_turn_groups,
)

SEEDS = range(6)


def gains_of(batch: dict[str, Any], *, first_turn: bool = True) -> Gains:
    return Gains.of(play_of(batch), batch["scores"], first_turn=first_turn)


def by_episode(plays: list[Played], batch: dict[str, Any]) -> torch.Tensor:
    """(B,): verl's GRPO by the slow loop, NaN for padding rows."""
    advantages = torch.full(batch["outcomes"].shape, NAN)
    for row, (group, _, _, outcome) in enumerate(plays):
        advantages[row] = slow_grpo(outcome, [other for theirs, _, _, other in plays if theirs == group])
    return advantages


def outcome_tokens(plays: list[Played], batch: dict[str, Any]) -> torch.Tensor:
    """(B, T): the same at the sampled tokens of real rows, 0 elsewhere."""
    return torch.where(batch["mask"] > 0, by_episode(plays, batch)[:, None], 0.0)


def igpo(plays: list[Played], batch: dict[str, Any], *, first_turn: bool = True, **settings: Any) -> torch.Tensor:
    episodes = play_of(batch)
    gains = Gains.of(episodes, batch["scores"], first_turn=first_turn)
    defaults = {"gamma": 1.0, "information_weight": 1.0, "pool": "separate"}
    return igpo_advantages(
        episodes, gains, batch["outcomes"], by_episode(plays, batch), batch["groups"], **defaults | settings
    )


def on_tokens(batch: dict[str, Any], found: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    return {(row, t): value for (row, turn), value in found.items() for t in tokens_of(batch, row, turn)}


# Against the slow loops, with padding rows and NaN wherever nothing may read


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("first_turn", [True, False])
def test_gains_against_the_slow_loop(seed: int, first_turn: bool) -> None:
    plays = random_plays(8, seed)
    gains = gains_of(columns_of(plays, padding=2), first_turn=first_turn)
    expected = slow_gains(plays, first_turn=first_turn)
    assert {tuple(place) for place in gains.known.nonzero().tolist()} == set(expected)
    assert by_turn(gains.values, expected) == pytest.approx(expected, abs=1e-6)
    assert gains.metrics["estimator/information_gains"] == len(expected)
    assert gains.metrics["estimator/information_gain/mean"] == pytest.approx(
        sum(expected.values()) / len(expected), abs=1e-6
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pool", ["separate", "joint"])
@pytest.mark.parametrize(("gamma", "weight"), [(1.0, 1.0), (0.9, 0.5), (0.0, 1.0)])
def test_igpo_against_the_slow_loop(seed: int, pool: str, gamma: float, weight: float) -> None:
    plays = random_plays(9, seed)
    batch = columns_of(plays, padding=2)
    found = igpo(plays, batch, gamma=gamma, information_weight=weight, pool=pool)
    assert_tokens(found, on_tokens(batch, slow_igpo(plays, gamma=gamma, weight=weight, pool=pool)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("min_group_size", [1, 2, 3, 100])
@pytest.mark.parametrize("first_turn", [True, False])
def test_a2tgpo_against_the_slow_loops(seed: int, min_group_size: int, first_turn: bool) -> None:
    plays = random_plays(9, seed)
    batch = columns_of(plays, padding=2)
    gains = gains_of(batch, first_turn=first_turn)
    normal = turn_group_gains(gains, batch["groups"], min_group_size=min_group_size)
    expected = slow_turn_groups(plays, slow_gains(plays, first_turn=first_turn), min_group_size=min_group_size)
    assert by_turn(normal, expected) == pytest.approx(expected, abs=1e-4)  # scores are float32
    for gamma in (1.0, 0.9):
        to_come = slow_information(expected, gamma=gamma)
        assert by_turn(a2tgpo_information(gains, normal, gamma=gamma), to_come) == pytest.approx(to_come, abs=1e-4)
        found = a2tgpo_information(gains, normal, gamma=gamma)
        found = a2tgpo_advantages(play_of(batch), found, by_episode(plays, batch), alpha=0.3)
        found = found - outcome_tokens(plays, batch)
        assert_tokens(found, on_tokens(batch, {place: 0.3 * value for place, value in to_come.items()}))
    scales = clip_scales(play_of(batch), normal, clip_beta=0.3)
    known = on_tokens(batch, {place: 0.3 * math.tanh(value / 2) for place, value in expected.items()})
    assert_tokens(scales - 1.0, known)


# Numbers worked out by hand


HAND: list[Played] = [
    ("a", [2, 1, 1], [-3.0, -2.0, -2.5], 1.0),
    ("a", [1, 1, 2], [-3.0, -3.0, -1.5], 0.0),
]
"""Gains 1 and -0.5; 0 and 1.5. All four: mean 0.5, variance (0.25 + 1 + 0.25 + 1) / 4 = 0.625."""


def test_igpo_by_hand() -> None:
    batch = columns_of(HAND)
    deviation = math.sqrt(0.625)
    outcome = 0.5 / math.sqrt(0.5)  # of 1 and 0, divided by the unbiased deviation
    found = igpo(HAND, batch)
    first = [0.5 / deviation, -1.0 / deviation]
    assert found[0].tolist() == pytest.approx(
        [sum(first) + outcome] * 2 + [0, first[1] + outcome, 0, outcome, 0], abs=1e-4
    )
    second = [-0.5 / deviation, 1.0 / deviation]
    assert found[1].tolist() == pytest.approx(
        [sum(second) - outcome, 0, second[1] - outcome, 0, -outcome, -outcome, 0], abs=1e-4
    )


def test_a2tgpo_by_hand() -> None:
    """First turns: 1 and 0 are one deviation from their mean; second turns: -0.5 and 1.5, too."""
    batch = columns_of(HAND)
    gains = gains_of(batch)
    normal = turn_group_gains(gains, batch["groups"], min_group_size=1)
    torch.testing.assert_close(normal.float(), torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]), rtol=0, atol=1e-4)
    to_come = a2tgpo_information(gains, normal, gamma=0.5)
    half = 0.5 / math.sqrt(2)  # (1 - 0.5 * 1) over the root of two terms
    torch.testing.assert_close(to_come.float(), torch.tensor([[half, -1.0, 0.0], [-half, 1.0, 0.0]]), rtol=0, atol=1e-4)
    scales = clip_scales(play_of(batch), normal, clip_beta=0.3)
    up = 1 + 0.3 * (2 / (1 + math.exp(-1)) - 1)
    assert scales[0].tolist() == pytest.approx([up, up, 1, 2 - up, 1, 1, 1], abs=1e-4)


def test_the_first_turn_as_a2tgpos_authors_have_it() -> None:
    """Recorded from their `turn-group-v1d` and `dynamic_clip`: two episodes of four turns, alpha and clip_beta 0.3."""
    scores = [[-3.0, -2.0, -1.0, -0.5], [-3.0, -2.5, -2.2, -2.4]]
    batch = batch_of([("a", [(1, 0.0, 1)] * 3 + [(1, outcome, 1)]) for outcome in (1.0, 0.0)])
    batch["scores"] = torch.tensor(scores)
    step = step_of(batch)
    found = {}
    for first_turn in (False, "as_second"):
        spec = build_estimator("a2tgpo", {"first_turn": first_turn})
        assert spec is not None
        result = spec(step)
        assert result.clip_scales is not None
        information = result.advantages - step.outcome_advantages()[:, None] * step.response_mask
        found[first_turn] = (information[0, ::2].tolist(), result.clip_scales[0, ::2].tolist())
    assert found[False][0] == pytest.approx([0.0, 0.424, 0.3, 0.0], abs=1e-3)
    assert found[False][1] == pytest.approx([1.0, 1.139, 1.139, 1.0], abs=1e-3)
    assert found["as_second"][0] == pytest.approx([0.424, 0.424, 0.3, 0.0], abs=1e-3)
    assert found["as_second"][1] == pytest.approx([1.139, 1.139, 1.139, 1.0], abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_igpo_less_the_mean_to_come_against_the_slow_loop(seed: int) -> None:
    """Gains over their root mean square; sums to come less the mean over all episodes, 0 for those that have ended."""
    plays = random_plays(9, seed)
    batch = columns_of(plays, padding=2)
    gains, sums = slow_gains(plays, first_turn=True), {}
    for row, (group, tokens, _, _) in enumerate(plays):
        pool = [value for (other, _), value in gains.items() if plays[other][0] == group]
        scale = math.sqrt(sum(value**2 for value in pool) / max(len(pool), 1) + 1e-8) + 1e-6
        for turn in range(len(tokens)):
            later = range(turn, len(tokens))
            sums[row, turn] = sum(0.9 ** (other - turn) * gains.get((row, other), 0.0) / scale for other in later)
    expected = {}
    for (row, turn), value in sums.items():
        group = [other for other, play in enumerate(plays) if play[0] == plays[row][0]]
        mean = sum(sums.get((other, turn), 0.0) for other in group) / len(group) if len(group) > 1 else 0.0
        expected[row, turn] = value - mean
    outcome = igpo(plays, batch, gamma=0.9, information_weight=0.0)
    found = igpo(plays, batch, gamma=0.9, baseline="to_come") - outcome
    assert_tokens(found, on_tokens(batch, expected))
    assert torch.equal(igpo(plays, batch, information_weight=0.0, baseline="to_come"), outcome_tokens(plays, batch))


@pytest.mark.parametrize("seed", SEEDS)
def test_a2tgpo_less_the_mean_to_come_against_the_slow_loop(seed: int) -> None:
    """Gains over the root mean square of their turn number; D less its mean, 0 for those that have ended."""
    plays = random_plays(9, seed)
    gains, scaled = slow_gains(plays, first_turn=True), {}
    for (row, turn), value in gains.items():
        same = [gain for (r, t), gain in gains.items() if t == turn and plays[r][0] == plays[row][0]]
        scaled[row, turn] = value / (math.sqrt(sum(gain**2 for gain in same) / len(same) + 1e-8) + 1e-6)
    sums, expected = slow_information(scaled, gamma=0.9), {}
    for row, (group, tokens, _, _) in enumerate(plays):
        rows = [other for other, play in enumerate(plays) if play[0] == group]
        for turn in range(len(tokens)):
            mean = sum(sums.get((other, turn), 0.0) for other in rows) / len(rows) if len(rows) > 1 else 0.0
            expected[row, turn] = 0.3 * (sums.get((row, turn), 0.0) - mean)
    batch = columns_of(plays, padding=2)
    step = step_of(batch, gamma=0.9)
    spec = build_estimator("a2tgpo", {"baseline": "to_come", "first_turn": True})
    assert spec is not None
    assert_tokens(spec(step).advantages, on_tokens(batch, expected))


# What follows from the definitions


@pytest.mark.parametrize("seed", SEEDS)
def test_gains_telescope(seed: int) -> None:
    """Without normalisation they sum to the last score minus the first, or minus that after the first turn."""
    plays = [play for play in random_plays(20, seed) if None not in play[2]]
    batch = columns_of(plays)
    for first_turn in (True, False):
        sums = gains_of(batch, first_turn=first_turn).values.sum(dim=1)
        for found, (_, _, scores, _) in zip(sums.tolist(), plays, strict=True):
            numbers = [score for score in scores if score is not None]
            start = numbers[0] if first_turn else numbers[min(1, len(numbers) - 1)]
            assert found == pytest.approx(numbers[-1] - start, abs=1e-5)


def test_no_weight_leaves_the_outcome_to_the_bit() -> None:
    plays = random_plays(9, 1)
    batch = columns_of(plays, padding=2)
    assert torch.equal(igpo(plays, batch, information_weight=0.0), outcome_tokens(plays, batch))
    assert not torch.equal(igpo(plays, batch, information_weight=0.5), outcome_tokens(plays, batch))
    gains = gains_of(batch)
    normal = turn_group_gains(gains, batch["groups"], min_group_size=1)
    to_come = a2tgpo_information(gains, normal, gamma=1.0)
    for alpha in (0.0, 0.3):
        found = a2tgpo_advantages(play_of(batch), to_come, by_episode(plays, batch), alpha=alpha)
        assert torch.equal(found, outcome_tokens(plays, batch)) == (alpha == 0.0)


def test_a_gain_of_zero_is_a_gain() -> None:
    """It takes part in mean and deviation, and it keeps its turn's number."""
    plays: list[Played] = [("a", [1, 1, 1], [-1.0, -1.0, -0.5], 1.0), ("a", [1, 1, 1], [-2.0, -1.0, -0.5], 0.0)]
    batch = columns_of(plays)
    gains = gains_of(batch)
    assert gains.known.tolist() == [[True, True, False]] * 2
    normal = turn_group_gains(gains, batch["groups"], min_group_size=1)
    assert normal[:, 0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    assert normal[:, 1].tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_a2tgpo_sums_to_zero_in_a_turn_group_and_one_alone_gets_nothing(seed: int) -> None:
    plays = [*random_plays(9, seed), ("c", [1, 1, 1], [-1.0, -2.0, -1.5], 1.0)]
    batch = columns_of(plays)
    normal = turn_group_gains(gains_of(batch), batch["groups"], min_group_size=1)
    sums: dict[tuple[str, int], float] = {}
    for row, turn in slow_gains(plays, first_turn=True):
        key = (plays[row][0], turn)
        sums[key] = sums.get(key, 0.0) + float(normal[row, turn])
    assert list(sums.values()) == pytest.approx([0.0] * len(sums), abs=1e-9)
    assert normal[-1].tolist() == [0.0] * normal.shape[1]
    with_fallback = turn_group_gains(gains_of(batch), batch["groups"], min_group_size=2)
    assert with_fallback[-1, :2].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)  # gains -1 and 0.5 of one prompt


def test_the_last_gain_is_a_single_term_and_many_terms_keep_their_variance() -> None:
    generator = torch.Generator().manual_seed(3)
    normal = torch.zeros(4000, 5, dtype=torch.float64)
    normal[:, :4] = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    known = torch.ones(4000, 5, dtype=torch.bool)
    known[:, 4] = False
    to_come = a2tgpo_information(Gains(normal, known), normal, gamma=1.0)
    assert torch.equal(to_come[:, 3], normal[:, 3])
    assert int(to_come[:, 4].count_nonzero()) == 0
    assert to_come[:, :4].var(dim=0).tolist() == pytest.approx([1.0] * 4, abs=0.1)


def test_scales_lie_around_one() -> None:
    batch = columns_of([("a", [1, 1, 1], [-1.0, -1.0, -1.0], 0.0)] * 2)
    normal = torch.tensor([[2.0, 50.0, 0.0], [-2.0, -50.0, 0.0]], dtype=torch.float64)
    scales = clip_scales(play_of(batch), normal, clip_beta=0.3)[:, [0, 2, 4]]
    assert (scales.sum(dim=0) / 2).tolist() == pytest.approx([1.0] * 3)
    assert scales[:, 1].tolist() == pytest.approx([1.3, 0.7])
    assert scales[:, 2].tolist() == [1.0, 1.0]
    assert torch.equal(clip_scales(play_of(batch), normal, clip_beta=0.0), torch.ones_like(batch["mask"]))


def test_prompts_do_not_mix_and_the_order_of_rows_does_not_matter() -> None:
    plays = random_plays(12, 5)
    order = [7, 2, 11, 0, 4, 9, 1, 10, 3, 8, 6, 5]
    batch, turned = columns_of(plays), columns_of([plays[row] for row in order])
    found = igpo(plays, batch, gamma=0.9)
    torch.testing.assert_close(found[order], igpo([plays[row] for row in order], turned, gamma=0.9), rtol=0, atol=1e-6)
    normal = turn_group_gains(gains_of(batch), batch["groups"], min_group_size=2)
    again = turn_group_gains(gains_of(turned), turned["groups"], min_group_size=2)
    torch.testing.assert_close(normal[order], again, rtol=0, atol=1e-9)
    rows = [row for row, play in enumerate(plays) if play[0] == "a"]
    alone = columns_of([plays[row] for row in rows])
    separate = turn_group_gains(gains_of(alone), alone["groups"], min_group_size=2)
    torch.testing.assert_close(normal[rows][:, : separate.shape[1]], separate, rtol=0, atol=1e-9)


def test_a_batch_without_gains() -> None:
    """Episodes of one turn: every method is its outcome alone."""
    plays: list[Played] = [("a", [2], [-1.0], 1.0), ("a", [3], [None], 0.0)]
    batch = columns_of(plays, padding=1)
    assert torch.equal(igpo(plays, batch), outcome_tokens(plays, batch))
    gains = gains_of(batch)
    normal = turn_group_gains(gains, batch["groups"], min_group_size=2)
    assert int(a2tgpo_information(gains, normal, gamma=1.0).count_nonzero()) == 0
    assert gains.metrics == {"estimator/information_gains": 0.0}


def test_a_turn_without_tokens_ends_an_episode() -> None:
    """A reply broken off before its first token: the turn before it has a gain, the outcome is discounted to it."""
    plays: list[Played] = [("a", [2, 1, 0], [-2.0, -1.0, -0.5], 1.0), ("a", [1, 1, 1], [-2.0, -1.5, -1.0], 0.0)]
    batch = columns_of(plays)
    assert_tokens(
        igpo(plays, batch, gamma=0.5), on_tokens(batch, slow_igpo(plays, gamma=0.5, weight=1.0, pool="separate"))
    )


def test_an_infinite_score_is_an_error() -> None:
    batch = columns_of(HAND)
    batch["scores"][0, 1] = -math.inf
    with pytest.raises(ValueError, match="answer_scores is infinite"):
        gains_of(batch)
    batch["scores"][0, 1] = NAN
    assert gains_of(batch).known.tolist() == [[False, False, False], [True, True, False]]


@pytest.mark.parametrize(
    ("name", "section", "message"),
    [
        ("igpo", {"pool": "both"}, "estimator.pool='both': is not a known value. Choose one of: separate, joint"),
        ("igpo", {"information_weight": -1}, "estimator.information_weight=-1: must be a finite number >= 0"),
        ("igpo", {"first_turn": 1}, "estimator.first_turn=1: must be true or false"),
        (
            "igpo",
            {"baseline": "group"},
            "estimator.baseline='group': is not a known value. Choose one of: gain, to_come",
        ),
        (
            "igpo",
            {"pool": "joint", "baseline": "to_come"},
            "estimator.pool='joint': subtracts one mean from gains and returns, and",
        ),
        ("a2tgpo", {"first_turn": 1}, "estimator.first_turn=1: must be true, false or as_second"),
        ("a2tgpo", {"first_turn": "as_second", "baseline": "to_come"}, "estimator.first_turn='as_second': credits"),
        ("a2tgpo", {"min_group_size": 0}, "estimator.min_group_size=0: must be an integer >= 1"),
        ("a2tgpo", {"min_group_size": True}, "estimator.min_group_size=True: must be an integer >= 1"),
        ("a2tgpo", {"clip_beta": 1.5}, "estimator.clip_beta=1.5: must be a number between 0 and 1"),
        ("a2tgpo", {"pool": "joint"}, "estimator.pool='joint': is not a parameter of the estimator a2tgpo"),
    ],
)
def test_a_wrong_parameter_is_one_line(name: str, section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_estimator(name, section)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
