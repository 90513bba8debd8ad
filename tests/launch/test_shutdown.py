"""No process survives: asked to end first, killed when it does not."""

from __future__ import annotations

import psutil
import pytest

from actfocus_verl.launch import shutdown
from actfocus_verl.launch.shutdown import end_processes, shut_down
from tests.launch.conftest import StartChild


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "TERMINATE_SECONDS", 0.5)


def test_a_process_that_listens_ends_by_being_asked(start_child: StartChild) -> None:
    # The exit status tells SIGTERM, whose handler is the default one, from SIGKILL.
    before = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    child = start_child("ray::WorkerDict", before=before)
    process = child.process
    assert end_processes([process]) == []
    assert process.wait(0) == 7


def test_a_process_that_does_not_listen_is_killed_and_named(start_child: StartChild) -> None:
    before = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf, willing = start_child("VLLM::EngineCore", before=before), start_child("ray::IDLE")
    processes = [deaf.process, willing.process]
    (title,) = end_processes(processes)
    assert title.startswith("VLLM::EngineCore")
    assert not any(process.is_running() for process in processes)


def test_a_process_that_has_ended_already_is_no_trouble(start_child: StartChild) -> None:
    child = start_child("ray::WorkerDict")
    process = child.process
    child.kill()
    assert end_processes([process]) == []
    assert end_processes([]) == []


def test_shut_down_ends_descendants_and_the_orphans_it_is_told_of(
    start_child: StartChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    descendant, orphan = start_child("ray::WorkerDict").process, start_child("VLLM::EngineCore").process
    # This test's process has other children than a run's.
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [descendant])
    assert shut_down([orphan, descendant]) == []
    assert not descendant.is_running()
    assert not orphan.is_running()
