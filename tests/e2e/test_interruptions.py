"""Runs that are killed, interrupted, or too large: they end, say why, leave nothing behind, and resume."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.e2e.runs import Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

END_SECONDS = 60
"""How soon an interrupted run must have ended."""
RAYS_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def test_a_killed_run_resumes_and_an_interrupted_one_ends_every_process(start: Callable[..., Run]) -> None:
    overrides = ("trainer.total_training_steps=50", "trainer.save_freq=1")
    killed = start("resumed", *overrides)
    killed.wait_until(lambda: killed.steps() >= 2, "second step")
    killed.send(signal.SIGKILL)
    killed.wait()
    # Nothing of ours runs after SIGKILL; Ray's own two agents notice the missing raylet up to two minutes later.
    assert [title for title in killed.survivors(seconds=30) if not title.split()[-1].startswith(RAYS_AGENTS)] == []

    resumed = start("resumed", *overrides)
    resumed.wait_until(lambda: resumed.steps() >= 4, "fourth step")
    end(resumed, signal.SIGINT)
    steps = [json.loads(line)["step"] for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))  # each once, none lost
    record = json.loads((resumed.folder / "run.json").read_text())
    assert [entry["exit_reason"] for entry in record["starts"]] == ["running", "interrupted"]


@pytest.mark.nightly  # Ctrl-C above goes the same way
def test_slurms_and_kubernetes_word_ends_every_process(start: Callable[..., Run]) -> None:
    run = start("interrupted", "trainer.total_training_steps=50")
    run.wait_until(lambda: run.steps() >= 1, "first step")
    end(run, signal.SIGTERM)


def end(run: Run, signum: signal.Signals) -> None:
    run.send(signum)
    assert run.wait(END_SECONDS) == 130
    assert run.survivors() == []
    assert json.loads((run.folder / "run.json").read_text())["exit_reason"] == "interrupted"


def test_too_few_logical_cpus_stop_the_run_instead_of_hanging(start: Callable[..., Run]) -> None:
    run = start("crowded", "ray_kwargs.ray_init.num_cpus=2")
    assert run.wait(120) == 1
    assert "ray_kwargs.ray_init.num_cpus=2" in run.terminal
    assert "the cluster has 2" in run.terminal
    assert run.survivors() == []
