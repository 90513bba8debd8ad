"""Whole runs share the tiny policy's cache at the repository's root, and are closed whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actfocus_verl.policies import TinyPolicyConfig, ensure_tiny_policy
from tests.e2e.runs import ROOT, Run


@pytest.fixture(scope="session")
def tiny_policy() -> Path:
    """The tiny policy, built before the first run so that no run's time limit pays for it."""
    return ensure_tiny_policy(TinyPolicyConfig(), ROOT / ".cache" / "tiny_policy")


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
