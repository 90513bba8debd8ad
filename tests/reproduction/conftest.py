"""A small matrix whose trainings are the stand-in's, in a folder of the test's own."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.reproduction import runner
from actfocus_verl.reproduction.composition import Composition
from actfocus_verl.reproduction.folders import Workspace
from actfocus_verl.reproduction.matrix import Experiment, Matrix
from actfocus_verl.reproduction.version import CodeVersion

STAND_IN = (sys.executable, "-S", "-E", str(Path(__file__).with_name("stand_in.py")))
OPTIONS = runner.Options(training=STAND_IN)

CONFIG = {
    "env": {"name": "frozen_lake", "evaluation_size": 512},
    "algorithm_name": "grpo",
    "platform": {"name": "cpu"},
    "tiny_policy": {},
    "data": {"train_batch_size": 8},
    "actor_rollout_ref": {"rollout": {"n": 8, "val_kwargs": {"n": 1}}},
    "trainer": {"total_training_steps": 8, "test_freq": 8, "val_before_train": True},
}


@pytest.fixture(autouse=True)
def composed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Experiments are not composed by Hydra, which takes two seconds; the tests of composition do. May be changed."""
    configuration = json.loads(json.dumps(CONFIG))
    monkeypatch.setattr(runner, "compose_experiment", lambda experiment: Composition(configuration))
    return configuration


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the version of the code; it does not depend on the checkout the tests run in."""

    def choose(source: str, **packages: str) -> None:
        chosen = CodeVersion(source, "c0ffee", {"verl": "0.9.1"} | packages)
        monkeypatch.setattr(runner, "current_version", lambda: chosen)

    choose("a source")
    return choose


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("STAND_IN_JOURNAL", str(tmp_path / "journal"))
    experiments = tuple(Experiment(f"small/{name}", name) for name in ("uniform", "actfocus"))
    return Workspace(Matrix("trial", (0, 1, 2), {"all": experiments}), tmp_path / "results", tmp_path / "outputs")


@pytest.fixture
def run_all(workspace: Workspace) -> Callable[..., runner.Outcome]:
    """Runs the matrix to its end; what it says goes nowhere."""

    def run(**changes: Any) -> runner.Outcome:
        options = runner.Options(**{"training": STAND_IN} | changes)
        return runner.run_missing(workspace, workspace.matrix.runs(), options, lambda line: None)

    return run


def start_runner(workspace: Workspace) -> multiprocessing.process.BaseProcess:
    """A runner in a process, and a process group, of its own."""
    process = multiprocessing.get_context("fork").Process(target=_run_in_group, args=(workspace,))
    process.start()
    return process


def _run_in_group(workspace: Workspace) -> None:
    os.setpgid(0, 0)
    runner.run_missing(workspace, workspace.matrix.runs(), OPTIONS, lambda line: None)


def summaries(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """By path below results, all files there, without what depends on when and how often a run was started."""
    found = {}
    for path in sorted(workspace.results.rglob("*")):
        if path.is_file():
            content = json.loads(path.read_text())
            found[path.relative_to(workspace.results).as_posix()] = {k: v for k, v in content.items() if k != "cost"}
    return found
