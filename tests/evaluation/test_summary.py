"""The figures of an evaluation, against numbers worked by hand, and the tables that show them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import bootstrap, ttest_1samp

from actfocus_verl.evaluation.display import summary_tables
from actfocus_verl.evaluation.episodes import EpisodeKey, EpisodeRecord
from actfocus_verl.evaluation.summary import summarise
from tests.evaluation.test_episodes import record_of


def episode(board: int, repeat: int, success: bool, episode_return: float, **changes: Any) -> EpisodeRecord:
    """An episode that could have returned 1 at best, of two turns, on a board of stratum 3."""
    record = record_of(EpisodeKey(board, repeat))
    settings: dict[str, Any] = {"optimal_return": 1.0, "stratum": 3, "turns": 2, "parsed_turns": 2, "valid_turns": 2}
    settings["stop_reason"] = "success" if success else "failure"
    return replace(record, success=success, episode_return=episode_return, **{**settings, **changes})


FOUR = [
    episode(0, 0, True, 1.0, outcome={"score": 0.5}, tokens={"prompt": 10, "action": 3}, actions=2),
    episode(1, 0, False, 0.0, outcome={"score": None}, tokens={"prompt": 12, "action": 1}, turns=4, valid_turns=1),
    episode(2, 0, True, 0.5, stratum=1, outcome={"score": 1.0}, tokens={"prompt": 10, "action": 2}, parsed_turns=1),
    episode(3, 0, True, 1.0, stratum=1, optimal_return=None, tokens={"prompt": 12, "action": 2}),
]


def test_a_board_played_once_by_hand() -> None:
    summary = summarise(FOUR)
    assert (summary["episodes"], summary["boards"]) == (4, 4)
    # Wilson for 3 of 4: (0.75 + 3.841459/8 ± 1.959964 sqrt(0.75*0.25/4 + 3.841459/64)) / (1 + 3.841459/4)
    assert summary["success"] == {
        "rate": 0.75,
        "low": pytest.approx(0.300642, abs=1e-6),
        "high": pytest.approx(0.954413, abs=1e-6),
        "interval": "Wilson",
    }
    assert summary["return"]["mean"] == pytest.approx(2.5 / 4)
    interval = ttest_1samp([1.0, 0.0, 0.5, 1.0], 0.0).confidence_interval(0.95)
    assert (summary["return"]["low"], summary["return"]["high"]) == pytest.approx((interval.low, interval.high))
    # regrets 0, 1 and 0.5: mean 0.5, s = 0.5, t(2) = 4.302653, half = 4.302653 * 0.5 / sqrt(3) = 1.242069
    assert summary["regret"]["mean"] == pytest.approx(0.5)
    assert summary["regret"]["low"] == pytest.approx(0.5 - 1.242069, abs=1e-6)
    assert (summary["regret"]["interval"], summary["regret"]["left_out"]) == ("Student's t", 1)
    assert (summary["valid_turns"]["rate"], summary["parsed_turns"]["rate"]) == (0.7, 0.7)
    assert (summary["turns"], summary["actions"]) == (2.5, 1.25)
    assert summary["tokens"] == {"prompt": 11.0, "action": 2.0}
    assert summary["outcome"] == {"score": 0.75}
    assert summary["stop_reasons"] == {"failure": 1, "success": 3}


def test_strata_by_hand() -> None:
    strata = summarise(FOUR)["strata"]
    assert list(strata) == ["1", "3"]
    assert (strata["1"]["success"]["rate"], strata["3"]["success"]["rate"]) == (1.0, 0.5)
    assert (strata["1"]["return"]["mean"], strata["3"]["return"]["mean"]) == (0.75, 0.5)
    assert (strata["1"]["regret"]["mean"], strata["1"]["regret"]["left_out"]) == (0.5, 1)
    assert strata["1"]["regret"]["low"] is None  # one value has no interval
    assert strata["3"]["boards"] == 2


def test_repeats_are_clusters() -> None:
    """The bootstrap draws boards: its interval is that of the boards' rates, and wider than one of episodes."""
    rates = [0.0, 0.25, 0.25, 0.5, 0.75, 0.0, 1.0, 1.0]
    records = [
        episode(board, repeat, repeat < 4 * rate, float(repeat < 4 * rate))
        for board, rate in enumerate(rates)
        for repeat in range(4)
    ]
    summary = summarise(records)
    expected = bootstrap((rates,), np.mean, method="BCa", n_resamples=10_000, rng=1).confidence_interval
    for name in ("success", "return"):
        assert summary[name]["interval"] == "bootstrap over boards"
        assert summary[name]["low"] == pytest.approx(expected.low, abs=0.02)
        assert summary[name]["high"] == pytest.approx(expected.high, abs=0.02)
    assert summary["success"]["rate"] == pytest.approx(np.mean(rates))
    assert summary["regret"]["low"] == pytest.approx(1 - expected.high, abs=0.02)
    width_of_wilson_for_15_of_32 = 0.6355 - 0.3087
    assert summary["success"]["high"] - summary["success"]["low"] > 1.5 * width_of_wilson_for_15_of_32


def test_boards_that_all_fail_still_have_a_width() -> None:
    summary = summarise([episode(board, repeat, False, 0.0) for board in range(10) for repeat in range(4)])
    # Wilson for 0 of 10, not of 40
    assert summary["success"] == {
        "rate": 0.0,
        "low": pytest.approx(0.0, abs=1e-12),
        "high": pytest.approx(0.2775328, abs=1e-6),
        "interval": "Wilson, one trial a board",
    }
    assert summary["valid_turns"]["low"] == pytest.approx(1 - 0.2775328, abs=1e-6)


def test_nobody_knows_the_optimum() -> None:
    records = [replace(record, optimal_return=None) for record in FOUR]
    unknown = {"mean": None, "low": None, "high": None, "interval": None, "left_out": 4}
    assert summarise(records)["regret"] == unknown


def test_the_order_of_episodes_does_not_matter() -> None:
    records = [
        episode(board, repeat, (board + repeat) % 3 == 0, 0.1 * board) for board in range(6) for repeat in range(3)
    ]
    shuffled = random.Random(0).sample(records, len(records))
    assert summarise(shuffled) == summarise(records)


def test_the_tables_show_it() -> None:
    settings = {"env": "frozen_lake", "preset": "clean", "split": "test", "temperature": 0.5}
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary_tables(settings, summarise(FOUR)))
    text = " ".join(capture.get().split())
    assert "frozen_lake/clean/test: 4 episodes on 4 boards, temperature 0.5" in text
    assert "success rate 0.750 [0.301, 0.954] Wilson" in text
    assert "episodes without a known optimum 1" in text
    assert "stopped by failure 1" in text
    assert "score 0.750" in text
    assert "By stratum stratum boards episodes success rate 95 % interval return regret 1 2 2 1.000" in text


def test_one_stratum_needs_no_table() -> None:
    console = Console(width=120)
    settings = {"env": "e", "preset": "p", "split": "s", "temperature": 0.0}
    with console.capture() as capture:
        console.print(summary_tables(settings, summarise(FOUR[:1])))
    assert "stratum" not in capture.get()
