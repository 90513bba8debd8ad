"""Runs that are killed, interrupted, or lose a part: they end, say why, leave nothing behind, and resume."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.e2e.runs import Run

pytestmark = pytest.mark.e2e

DEATH_SECONDS = 60
"""How soon a run must end after a part of it has died: a promise of the watchdog, not a measure of speed."""
_LONG = ("trainer.total_training_steps=50",)


def test_a_killed_run_leaves_nothing_behind_and_resumes(start: Callable[..., Run]) -> None:
    overrides = ("trainer.total_training_steps=4", "trainer.save_freq=1")
    killed = start("resumed", *overrides)
    killed.wait_until(lambda: killed.steps() >= 2, "second step")
    killed.send(signal.SIGKILL)
    killed.wait()
    assert killed.survivors(seconds=60) == []

    resumed = start("resumed", *overrides)
    assert resumed.wait() == 0, resumed.terminal[-4000:]
    assert resumed.survivors() == []
    steps = [json.loads(line)["step"] for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]  # each once, none lost
    record = json.loads((resumed.folder / "run.json").read_text())
    assert [entry["exit_reason"] for entry in record["starts"]] == ["running", "finished"]


def test_ctrl_c_ends_every_process(start: Callable[..., Run]) -> None:
    run = start("interrupted", *_LONG)
    run.wait_until(lambda: run.steps() >= 1, "first step")
    run.send(signal.SIGINT)
    assert run.wait(DEATH_SECONDS) == 130
    assert run.survivors() == []
    assert json.loads((run.folder / "run.json").read_text())["exit_reason"] == "interrupted"


@pytest.mark.parametrize(
    ("title", "named"),
    [
        ("VLLM::", "vLLM engine"),
        ("WorkerDict", "training worker"),
        ("RewardLoopWorker", "reward worker"),
    ],
)
def test_a_part_that_dies_ends_the_run_and_is_named(start: Callable[..., Run], title: str, named: str) -> None:
    run = start("bereaved", *_LONG)
    run.wait_until(lambda: run.steps() >= 1, "first step")
    victim = run.find(title)
    assert victim is not None
    victim.send_signal(signal.SIGKILL)
    assert run.wait(DEATH_SECONDS) == 1
    assert named in run.terminal
    assert "last lines of its log" in run.terminal
    assert run.survivors() == []
    assert json.loads((run.folder / "run.json").read_text())["exit_reason"].startswith("failed")


def test_too_few_logical_cpus_stop_the_run_instead_of_hanging(start: Callable[..., Run]) -> None:
    run = start("crowded", "ray_kwargs.ray_init.num_cpus=2")
    assert run.wait(120) == 1
    assert "ray_kwargs.ray_init.num_cpus=2" in run.terminal
    assert "the cluster has 2" in run.terminal
    assert run.survivors() == []
