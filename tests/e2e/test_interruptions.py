"""Runs that are killed, interrupted, or too large: they end, say why, leave nothing behind, and resume.

A run that is killed ends test_every_method.py as well, and one that fails resumes in test_worlds.py, where Ctrl-C ends
it: each start costs over a minute, so what has to start anyway shows how it ends.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.e2e.runs import Run, end, require_resumed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.mark.nightly
def test_a_killed_run_resumes_and_an_interrupted_one_ends_every_process(start: Callable[..., Run]) -> None:
    overrides = ("trainer.total_training_steps=50", "trainer.save_freq=1")
    killed = start("resumed", *overrides)
    killed.wait_until(lambda: killed.steps() >= 2, "second step")
    killed.send(signal.SIGKILL)
    killed.wait()
    assert killed.left_by_a_kill() == []

    resumed = start("resumed", *overrides)
    resumed.wait_until(lambda: resumed.steps() >= 4, "fourth step")
    end(resumed, signal.SIGINT)
    require_resumed(resumed, ["running", "interrupted"])


@pytest.mark.nightly  # Ctrl-C goes the same way
def test_slurms_and_kubernetes_word_ends_every_process(start: Callable[..., Run]) -> None:
    run = start("interrupted", "trainer.total_training_steps=50")
    run.wait_until(lambda: run.steps() >= 1, "first step")
    end(run, signal.SIGTERM)


def test_too_few_logical_cpus_stop_the_run_instead_of_hanging(start: Callable[..., Run]) -> None:
    run = start("crowded", "ray_kwargs.ray_init.num_cpus=2")
    assert run.wait(120) == 1
    assert "ray_kwargs.ray_init.num_cpus=2" in run.terminal
    assert "the cluster has 2" in run.terminal
    assert run.survivors() == []
