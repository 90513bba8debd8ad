"""A run whose Ray has lost its control store, of which most calls wait for ever, ends with its cause all the same."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from omegaconf import OmegaConf
from rich.console import Console

from actfocus_verl import train as command
from actfocus_verl.command import EXIT_LOST_NODE
from actfocus_verl.launch import runner_end, shutdown
from actfocus_verl.launch.record import RunRecord
from actfocus_verl.launch.watchdog import CONTROL_STORE, HEALTH_FAILURES, Death, Watchdog
from actfocus_verl.reporting.run_folder import RunFolder
from tests.launch.conftest import GUARD_SECONDS, EndRun, StartChild, wait_until

FOR_EVER = 3600.0


@pytest.fixture(autouse=True)
def handlers(signal_handlers: None) -> None:
    """That of a run."""
    signal.signal(signal.SIGTERM, command._interrupt)


@pytest.fixture
def no_answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray kills nobody."""
    tests_end = threading.Event()
    monkeypatch.setattr(runner_end, "_kill_by_ray", lambda: tests_end.wait(GUARD_SECONDS))
    monkeypatch.setattr(runner_end, "KILL_SECONDS", 0.01)
    yield
    tests_end.set()


def test_without_rays_control_store_there_is_no_grace_period(start_child: StartChild) -> None:
    """No better error can come, and after a minute Ray would end the process before its record has the reason."""
    store = start_child("/somewhere/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp")
    end_run = EndRun()
    with Watchdog(end_run, poll_seconds=0.01, grace_seconds=FOR_EVER) as watchdog:
        wait_until(lambda: watchdog.processes, "saw the store")
        store.kill()
        assert end_run.called.wait(GUARD_SECONDS)
    assert watchdog.death is not None
    assert watchdog.death.leaves_ray_mute


def test_the_store_of_a_cluster_elsewhere_is_asked_for_its_port() -> None:
    end_run = EndRun()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        watchdog = Watchdog(end_run, node_at=lambda host: {"127.0.0.1": "head"}[host])
        assert [watchdog._unreachable_store() for _ in range(HEALTH_FAILURES + 1)] == [None] * (HEALTH_FAILURES + 1)
        watchdog.watch_cluster(address)
        assert watchdog._unreachable_store() is None
    found = [watchdog._unreachable_store() for _ in range(HEALTH_FAILURES)]
    assert found == [*[None] * (HEALTH_FAILURES - 1), Death(f"{CONTROL_STORE} at {address} (node head)")]
    assert found[-1].leaves_ray_mute


@pytest.mark.usefixtures("no_answer")
def test_the_wait_for_the_runner_is_interrupted() -> None:
    mute = threading.Event()
    threading.Timer(0.1, runner_end.end_runner, [mute]).start()
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(GUARD_SECONDS)
    assert mute.is_set()


def test_a_ray_that_kills_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    killed, mute = [], threading.Event()
    monkeypatch.setattr(runner_end, "_kill_by_ray", lambda: killed.append(True))
    runner_end.end_runner(mute)  # a signal would end the tests
    assert (killed, mute.is_set()) == ([True], False)


STORE_ELSEWHERE = f"{CONTROL_STORE} at 10.0.0.1:6379 (node head)"


@pytest.mark.parametrize(
    ("death", "status", "mute"),
    [
        (Death(CONTROL_STORE, 4711), 1, True),
        (Death(STORE_ELSEWHERE), EXIT_LOST_NODE, True),
        (Death("the vLLM engine", 4711), 1, False),
        (Death("the vLLM server at 10.0.0.1:40000 (node head)"), EXIT_LOST_NODE, False),
    ],
)
def test_the_record_says_what_died_and_ray_is_asked_only_if_it_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, death: Death, status: int, mute: bool
) -> None:
    config = OmegaConf.create({"run": {"dir": str(tmp_path)}, "trainer": {"default_local_dir": str(tmp_path)}})
    asked, terminal = [], io.StringIO()

    def train(config: object, console: object, watchdog: Watchdog, **_: object) -> None:
        watchdog.death = death
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "train", train)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: asked.append("shutdown"))
    monkeypatch.setattr(shutdown, "end_processes", lambda processes: [])
    with pytest.raises(SystemExit) as ended:
        command._run(config, RunRecord(tmp_path, config), Console(file=terminal))
    said = f"failed: {death}"
    assert RunFolder.open(tmp_path).info["exit_reason"] == said
    assert f"error: {said}" in terminal.getvalue()
    assert ended.value.code == status
    assert isinstance(ended.value, runner_end.ExitAtOnce) is mute
    assert asked == ([] if mute else ["shutdown"])


def test_the_process_ends_without_what_python_does_at_its_end(tmp_path: Path) -> None:
    script = """
import atexit, sys
from actfocus_verl import train
atexit.register(print, "waits for Ray")
def run():
    print("the last words")
    raise train.ExitAtOnce(1)
train.run = run
sys.argv = ["train"]
train.main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "the last words\n")
