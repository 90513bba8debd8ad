"""The estimators: numbers by hand, and the truth on average over simulated measurements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actfocus_verl.truth.decomposition import SUM, MeasuredEpisode, decompose, squared_change
from actfocus_verl.truth.segments import Kind

STEPS = {Kind.REASONING: 1.0, Kind.ACTION: 2.0, Kind.FORMAT: 0.0, Kind.LUCK: 1.5}
"""The return is the sum of these, each with a random sign, over TURNS turns."""
TURNS = 2
KINDS_OF_EPISODE = [*STEPS] * TURNS
TURNS_OF_EPISODE = [turn for turn in range(TURNS) for _ in STEPS]
SIZES = np.array([STEPS[kind] for kind in KINDS_OF_EPISODE])
VARIANCE = float((SIZES**2).sum())


def simulated(rng: np.random.Generator, boards: int = 4, episodes: int = 2, count: int = 2) -> list[MeasuredEpisode]:
    """A measurement of that policy."""
    measured = []
    for board in range(boards):
        for _ in range(episodes):
            path = rng.choice([-1.0, 1.0], len(SIZES)) * SIZES
            known = np.concatenate([[0.0], path.cumsum()[:-1]])
            fresh = rng.choice([-1.0, 1.0], (len(SIZES), 2, count, len(SIZES))) * SIZES
            later = np.triu(np.ones((len(SIZES), len(SIZES))))  # what is open at each boundary
            returns = known[:, None, None] + (fresh * later[:, None, None, :]).sum(axis=-1)
            measured.append(MeasuredEpisode(board, path.sum(), KINDS_OF_EPISODE, TURNS_OF_EPISODE, returns))
    return measured


def test_numbers_by_hand() -> None:
    """One segment of luck on each of two boards, two episodes of return 0 and 1, sets {0, 1} and {1, 0}.

    Starts of a board: four 0 and four 1, so M_0 = 1/2, s^2 = 8/28 = 2/7, its noise 2/7 / 8 = 1/28. Each change is
    +-1/2: its square 1/4 - 1/28 = 3/14, the share (3/14) / (2/7) = 3/4. The drift is 0, Cov(R, change) = Var(R) = 1/2,
    by covariance (1/2) / (2/7) = 7/4. Null: means 1/2 and 1/2, noise (1/2) / 2 each: (0 - 1/4 - 1/4) / (2/7) = -7/4.
    """
    sets = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    episodes = [MeasuredEpisode(board, value, [Kind.LUCK], [0], sets) for board in (0, 1) for value in (0.0, 1.0)]
    found = decompose(episodes, resamples=10)
    assert found["variance"] == pytest.approx(2 / 7)
    assert found["shares"]["luck"] == pytest.approx({"estimate": 3 / 4, "low": 3 / 4, "high": 3 / 4})
    assert found["shares"][SUM] == found["shares"]["luck"]
    assert found["shares"]["action"] == pytest.approx({"estimate": 0, "low": 0, "high": 0})
    assert found["covariance"]["luck"]["estimate"] == pytest.approx(7 / 4)
    assert found["null"]["estimate"] == pytest.approx(-7 / 4)
    assert found["drift"]["luck"]["estimate"] == 0
    assert found["drift"]["action"] is None
    assert found["by_turn"] == [{"turn": 1, "reached": 1.0, **found["shares"]}]
    assert (found["boards"], found["episodes"], found["segments"]) == (2, 4, 4)
    whole = {"boards": 2, "episodes": 4, "variance": found["variance"], **found["shares"]}
    assert found["strata"] == {"0": whole}


def test_estimates_are_unbiased() -> None:
    """Over 200 repetitions with 2 N = 4 continuations a boundary; ratios of unbiased sums over many boards."""
    rng = np.random.default_rng(1)
    found = [decompose(simulated(rng), resamples=2) for _ in range(200)]
    variance = np.array([each["variance"] for each in found])
    _require_mean(variance, VARIANCE)
    for kind, size in STEPS.items():
        square = variance * [each["shares"][kind.value]["estimate"] for each in found]
        _require_mean(square, TURNS * size**2)
        _require_mean(variance * [each["covariance"][kind.value]["estimate"] for each in found], TURNS * size**2)
        _require_mean(variance * [each["by_turn"][1][kind.value]["estimate"] for each in found], size**2)
        _require_mean([each["drift"][kind.value]["estimate"] for each in found], 0)
    _require_mean(variance * [each["shares"][SUM]["estimate"] for each in found], VARIANCE)
    _require_mean(variance * [each["null"]["estimate"] for each in found], 0)


def _require_mean(values: np.ndarray | list[float], expected: float) -> None:
    """Within four standard errors, and those are small enough to say something."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) <= 4 * error
    assert error < 0.1 * VARIANCE


def test_intervals_hold_the_truth() -> None:
    found = decompose(simulated(np.random.default_rng(2), boards=40, episodes=4, count=8), resamples=500)
    for kind, size in STEPS.items():
        for name in ("shares", "covariance"):
            figure = found[name][kind.value]
            assert figure["low"] <= TURNS * size**2 / VARIANCE <= figure["high"]
        assert found["drift"][kind.value]["low"] <= 0 <= found["drift"][kind.value]["high"]
    assert found["shares"][SUM]["low"] <= 1 <= found["shares"][SUM]["high"]
    assert found["null"]["low"] <= 0 <= found["null"]["high"]
    assert found["shares"]["action"]["low"] > found["shares"]["reasoning"]["high"]


def test_the_square_is_less_noisy_than_the_product_of_halves() -> None:
    """What `squared_change` says of the two where M does not change: the variances differ by a factor of 2."""
    rng = np.random.default_rng(3)
    draws = rng.normal(size=(20_000, 2, 2, 32))  # repetition, boundary, set, continuation
    halves = draws.mean(axis=3)
    product = (halves[:, 1, 0] - halves[:, 0, 0]) * (halves[:, 1, 1] - halves[:, 0, 1])
    both = draws.reshape(20_000, 2, 64)
    means, noise = both.mean(axis=2), both.var(axis=2, ddof=1) / 64
    square = squared_change(means[:, 0], noise[:, 0], means[:, 1], noise[:, 1])
    assert product.var() / square.var() == pytest.approx(2, rel=0.1)


def test_what_cannot_be_decomposed() -> None:
    sets = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    one = MeasuredEpisode(0, 0.0, [Kind.LUCK], [0], sets)
    with pytest.raises(ValueError, match="two episodes"):
        decompose([one])
    with pytest.raises(ValueError, match="two continuations"):
        decompose([MeasuredEpisode(0, 0.0, [Kind.LUCK], [0], sets[:, :, :1])] * 2)
    with pytest.raises(ValueError, match="different numbers of episodes"):
        decompose([one, one, *[MeasuredEpisode(1, 0.0, [Kind.LUCK], [0], sets)] * 3])
    with pytest.raises(ValueError, match="varies"):
        decompose([MeasuredEpisode(0, 0.0, [Kind.LUCK], [0], np.zeros_like(sets))] * 2)


def test_a_stratum_has_shares_and_intervals_of_its_own_boards() -> None:
    """Strata 3 (three boards), 7 (one) and 8 (one whose return does not vary) of simulated boards."""
    measured = simulated(np.random.default_rng(3), boards=5)
    strata = [3, 7, 3, 8, 3]
    measured = [replace(episode, stratum=strata[episode.board]) for episode in measured]
    still = np.ones_like(measured[0].continuations)
    measured = [
        replace(episode, episode_return=1.0, continuations=still) if episode.stratum == 8 else episode
        for episode in measured
    ]
    found = decompose(measured, resamples=200)["strata"]
    alone = decompose([episode for episode in measured if episode.stratum == 3], resamples=200)
    assert list(found) == ["3", "7", "8"]
    assert found["3"] == {"boards": 3, "episodes": 6, "variance": alone["variance"], **alone["shares"]}
    assert found["7"]["action"] == {"estimate": found["7"]["action"]["estimate"], "low": None, "high": None}
    assert found["7"][SUM]["estimate"] is not None
    assert found["8"][SUM] == {"estimate": None, "low": None, "high": None}
