"""What a run is expected to take, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from actfocus_verl.reproduction import cost
from actfocus_verl.reproduction.composition import Composition
from actfocus_verl.reproduction.matrix import CostGuess, Experiment
from tests.reproduction.conftest import CONFIG

EXPERIMENT = Experiment("small/mine", "mine")
COMPOSITION = Composition(CONFIG)  # 8 steps of 64 episodes, 2 evaluations of 512: 1,536 episodes


def finished(
    seconds: float, name: str = "small/mine", starts: int = 1, steps: int = 8, **settings: Any
) -> dict[str, Any]:
    """A run with steps of 64 episodes, and evaluations on 512 and 512."""
    kept = {"env": {"name": "frozen_lake"}, "algorithm_name": "grpo", "platform.name": "cpu", "tiny_policy": {}}
    kept |= {"data.train_batch_size": 8, "actor_rollout_ref.rollout.n": 8}
    return {
        "experiment": name,
        "cost": {"seconds": seconds, "starts": starts, "starts_without_end": 0},
        "settings": kept | settings,
        "metrics": {"step": list(range(1, steps + 1))},
        "evaluations": [{"episodes": 512}, {"episodes": 512}],
    }


def test_the_cell_s_own_runs_come_first() -> None:
    summaries = [finished(100.0), finished(140.0), finished(999.0, starts=2), finished(9.0, name="small/other")]
    assert cost.estimate(EXPERIMENT, COMPOSITION, summaries, CostGuess()) == cost.Estimate(120.0, "2 finished")


def test_then_runs_of_its_kind_by_episodes() -> None:
    # 16 steps of 64 and 1,024 evaluated are 2,048 episodes in 400 s; this one has 1,536: 300 s
    summaries = [finished(400.0, name="small/other", steps=16), finished(1.0, name="x", algorithm_name="ppo")]
    estimate = cost.estimate(EXPERIMENT, COMPOSITION, summaries, CostGuess())
    assert estimate == cost.Estimate(pytest.approx(300.0), "1 alike")


def test_then_the_guess() -> None:
    # 70 + 512 * 0.1 + 1,024 * 0.05
    guess = CostGuess(70.0, {"frozen_lake": 0.1}, {"frozen_lake": 0.05})
    estimate = cost.estimate(EXPERIMENT, COMPOSITION, [finished(1.0, starts=2)], guess)
    assert estimate == cost.Estimate(pytest.approx(172.4), "guess")


def test_a_world_nobody_knows_is_not_guessed() -> None:
    assert cost.estimate(EXPERIMENT, COMPOSITION, [], CostGuess(70.0, {"sudoku": 0.1}, {"sudoku": 0.1})) is None


def test_one_unknown_makes_the_total_unknown() -> None:
    assert cost.total([cost.Estimate(1.0, ""), cost.Estimate(2.5, "")]) == 3.5
    assert cost.total([cost.Estimate(1.0, ""), None]) is None
    assert cost.total([]) == 0
    assert math.isnan(CostGuess().start)
