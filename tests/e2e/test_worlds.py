"""Two real steps of training in each world: `env=...` is all that changes from one to the next."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actfocus_verl.reporting.run_folder import RunFolder
from tests.e2e.runs import Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

MICRO = (
    # A policy that has seen little and is built in seconds: that the world is played is the point, not how well.
    "+tiny_policy.episodes=150",
    "+tiny_policy.layers=1",
    "+tiny_policy.evaluation_episodes=0",
    "env.max_turn_tokens=96",
)


@pytest.mark.parametrize(("env", "credit"), [("sokoban", "actfocus"), ("sudoku", "actfocus"), ("webshop", "uniform")])
def test_it_trains(start: Callable[..., Run], env: str, credit: str) -> None:
    run = start(env, f"env={env}", f"credit={credit}", *MICRO)
    assert run.wait() == 0, run.terminal[-4000:]
    assert run.survivors() == []
    folder = RunFolder.open(run.folder)
    assert [line["step"] for line in folder.metrics] == [1, 2]
    for line in folder.metrics:
        assert abs(line["rollout_corr/kl"]) < 1e-3
        assert line["response_tokens/reasoning"] + line["response_tokens/format"] > 0
        assert any(key.startswith("episode/outcome/") for key in line)
        assert ("timing_s/ref" in line) == (credit == "actfocus")  # uniform weights need no reference
        if credit == "uniform":
            assert line["credit/effective_sample_size"] == 1.0  # all weights equal
