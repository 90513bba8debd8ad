"""Whole runs share the tiny policy's cache at the repository's root, and are closed whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actfocus_verl.policies import TinyPolicyConfig, ensure_tiny_policy
from tests.e2e.runs import ROOT, Run


@pytest.fixture(scope="session")
def tiny_policy() -> Path:
    """The tiny policy, built before the first run so that no run's time limit pays for it."""
    return ensure_tiny_policy(TinyPolicyConfig(), ROOT / ".cache" / "tiny_policy")


@pytest.fixture(scope="session")
def real_run(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the quickstart's run, cut to two steps."""
    sizes = ("env.evaluation_size=16", "data.train_batch_size=4", "actor_rollout_ref.rollout.n=4")
    folder = tmp_path_factory.mktemp("real") / "run"
    settings = ("experiment=quickstart", f"run.dir={folder}", "trainer.total_training_steps=2", *sizes)
    run = Run(folder, command=[sys.executable, "-m", "actfocus_verl.train", *settings, "run.rollouts_every=1"])
    try:
        assert run.wait() == 0, run.terminal[-6000:]
    finally:
        run.close()
    return folder


@pytest.fixture
def start(tmp_path: Path, tiny_policy: Path) -> Iterator[Callable[..., Run]]:
    """Start a run: `start("name", "key=value", ...)`. The same name twice is the same folder: a resumed run."""
    runs: list[Run] = []

    def begin(name: str, *overrides: str) -> Run:
        runs.append(Run(tmp_path / name, *overrides))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()
