"""Two real steps of training in each world, two with something else to try as well. Then a part dies, and it is named.

One run shows both, for a start costs over a minute. One of them resumes, and Ctrl-C ends it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from actfocus_verl.reporting.run_folder import RunFolder
from tests.e2e.runs import Run, end, require_resumed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

DEATH_SECONDS = 60
"""How soon a run must have ended after a part of it has died."""
STEPS = 2
MICRO = (
    # A policy that has seen little and is built in seconds: that the world is played is the point, not how well.
    "+tiny_policy.episodes=150",
    "+tiny_policy.layers=1",
    "+tiny_policy.evaluation_episodes=0",
    "env.max_turn_tokens=96",
    "trainer.total_training_steps=50",
)


FORKS = {"rollout/replay_mismatches": 0.0, "estimator/steps_without_update": 0.0}
"""Episodes were forked, and something of them was critical."""
WHOLE_STEP = {"filter/kept_groups": 4.0, "filter/zero_std_groups": 0.0}
"""Groups whose returns were all equal have been replaced."""


def test_sokoban_with_forks_trains_until_a_part_dies_resumes_and_is_interrupted(start: Callable[..., Run]) -> None:
    words = ("env=sokoban", "credit=actfocus", *MICRO, "algorithm=carl", "trainer.save_freq=1")
    run = start("sokoban", *words)
    until_a_part_dies(run, "VLLM::", "vLLM engine")
    check(run, "actfocus", FORKS)
    before = run.steps()
    resumed = start("sokoban", *words)
    resumed.wait_until(lambda: resumed.steps() > before, f"step {before + 1}")
    end(resumed, signal.SIGINT)
    require_resumed(resumed, ["failed", "interrupted"])


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("env", "credit", "more", "metrics", "title", "named"),
    [
        ("sudoku", "actfocus", ("filter=zero_variance_refill",), WHOLE_STEP, "WorkerDict", "training worker"),
        ("webshop", "uniform", (), {}, "RewardLoopWorker", "reward worker"),
    ],
)
def test_it_trains_until_a_part_dies(
    start: Callable[..., Run],
    env: str,
    credit: str,
    more: tuple[str, ...],
    metrics: dict[str, float],
    title: str,
    named: str,
) -> None:
    run = start(env, f"env={env}", f"credit={credit}", *MICRO, *more)
    until_a_part_dies(run, title, named)
    check(run, credit, metrics)


def until_a_part_dies(run: Run, title: str, named: str) -> None:
    """Kill the process of this title after STEPS steps: the run ends, and says which part it was."""
    run.wait_until(lambda: run.steps() >= STEPS, f"step {STEPS}")
    victim = run.find(title)
    assert victim is not None
    victim.send_signal(signal.SIGKILL)
    assert run.wait(DEATH_SECONDS) == 1
    assert named in run.terminal
    assert "last lines of its log" in run.terminal
    assert run.survivors() == []
    assert json.loads((run.folder / "run.json").read_text())["exit_reason"].startswith("failed")


def check(run: Run, credit: str, metrics: dict[str, float]) -> None:
    """What the first steps say of themselves."""
    for line in RunFolder.open(run.folder).metrics[:STEPS]:
        assert abs(line["rollout_corr/kl"]) < 1e-3
        assert line["response_tokens/reasoning"] + line["response_tokens/format"] > 0
        assert any(key.startswith("episode/outcome/") for key in line)
        assert ("timing_s/ref" in line) == (credit == "actfocus")  # uniform weights need no reference
        assert {name: line[name] for name in metrics} == metrics
        if credit == "uniform":
            assert line["credit/effective_sample_size"] == 1.0  # all weights equal
