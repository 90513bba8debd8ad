"""Whole runs share the tiny policy's cache at the repository's root, and are closed whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actfocus_verl.policies import TinyPolicyConfig, ensure_tiny_policy
from tests.e2e.documentation import Workplace, blocks
from tests.e2e.runs import ROOT, Run, end_session

QUICKSTART_SIZES = "data.train_batch_size=4 actor_rollout_ref.rollout.n=4 env.evaluation_size=16 run.rollouts_every=1"
QUICKSTART_SECONDS = 1500
"""A generous bound: it builds the tiny policy where no test has, and waits for the environment."""


@pytest.fixture(scope="session")
def tiny_policy() -> Path:
    """The tiny policy, built before the first run so that no run's time limit pays for it."""
    return ensure_tiny_policy(TinyPolicyConfig(), ROOT / ".cache" / "tiny_policy")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder in which the documentation's commands are typed: what they write stays out of the repository."""
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="session")
def real_run(workplace: Workplace) -> Path:
    """The folder that the README's first command writes: two steps, its checkpoint, every episode it played.

    Whatever reads a run reads this one, so that no test rests on a folder that the product does not write.
    """
    (quickstart,) = blocks()[0].commands
    log = workplace.folder / "quickstart.terminal"
    process = workplace.start(f"STEPS=2 {quickstart} {QUICKSTART_SIZES}", log)
    try:
        status = process.wait(QUICKSTART_SECONDS)
    finally:
        end_session(process)
    assert status == 0, log.read_text()[-6000:]
    return workplace.folder / "outputs" / "quickstart"


@pytest.fixture(scope="session")
def quickstart_terminal(real_run: Path, workplace: Workplace) -> str:
    """What the README's first command said to its user."""
    return (workplace.folder / "quickstart.terminal").read_text()


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
