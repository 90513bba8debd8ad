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


def test_a_killed_run_leaves_nothing_behind_and_resumes(start: Callable[..., Run]) -> None:
    overrides = ("trainer.total_training_steps=4", "trainer.save_freq=1")
    killed = start("resumed", *overrides)
    killed.wait_until(lambda: killed.steps() >= 2, "second step")
    killed.send(signal.SIGKILL)
    killed.wait()
    # Nothing of ours runs after SIGKILL; Ray's own two agents notice the missing raylet up to two minutes later.
    assert [title for title in killed.survivors(seconds=30) if not title.split()[-1].startswith(RAYS_AGENTS)] == []

    resumed = start("resumed", *overrides)
    assert resumed.wait() == 0, resumed.terminal[-4000:]
    assert resumed.survivors() == []
    steps = [json.loads(line)["step"] for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]  # each once, none lost
    record = json.loads((resumed.folder / "run.json").read_text())
    assert [entry["exit_reason"] for entry in record["starts"]] == ["running", "finished"]


@pytest.mark.parametrize(
    "signum",  # Ctrl-C; SLURM's and Kubernetes' word
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)],
)
def test_an_interrupted_run_ends_every_process(start: Callable[..., Run], signum: signal.Signals) -> None:
    run = start("interrupted", "trainer.total_training_steps=50")
    run.wait_until(lambda: run.steps() >= 1, "first step")
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
