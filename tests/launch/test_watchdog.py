"""The watchdog on real processes: what it watches, what it says of a death, and when it ends the run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from actfocus_verl.launch import watchdog as watchdog_module
from actfocus_verl.launch.watchdog import (
    ESSENTIAL,
    HEALTH_FAILURES,
    HEALTH_THREADS,
    LOG_LINES,
    Death,
    Watchdog,
    essential_part,
)
from tests.launch.conftest import ENGINE_BELOW, FORK_BELOW, GUARD_SECONDS, EndRun, HealthServer, StartChild, wait_until

FOR_EVER = 3600.0


@pytest.mark.parametrize(
    ("title", "part"),
    [
        ("ray::TaskRunnerV1.run", "verl's task runner"),
        ("ray::WorkerDict.actor_rollout_ref_update_actor", "the training worker (actor, reference, critic)"),
        ("ray::CPUvLLMHttpServer.generate", "the vLLM server"),
        ("VLLM::EngineCore", "the vLLM engine"),
        ("VLLM::Worker_TP1", "a vLLM worker"),
        ("ray::AgentLoopWorkerTQ.generate_sequences", "an agent-loop worker"),
        ("/somewhere/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/raylet", "Ray's node manager (raylet)"),
        ("/somewhere/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", "Ray's control store (gcs_server)"),
    ],
)
def test_a_title_names_its_part(title: str, part: str) -> None:
    assert essential_part(title) == part


@pytest.mark.parametrize(
    "title",
    [
        "",
        "ray::IDLE",
        "python -c pass",
        # every Ray worker looks like this until it gets its title, and Ray ends idle ones as it likes
        "/venv/bin/python default_worker.py --raylet-name=/tmp/ray/session/sockets/raylet",
        "tail -f /tmp/ray/session_latest/logs/raylet.out",
        "/home/WorkerDict/bin/python train.py",
    ],
)
def test_other_titles_name_none(title: str) -> None:
    assert essential_part(title) is None


def test_nothing_is_dead_while_everything_lives(start_child: StartChild) -> None:
    start_child("ray::WorkerDict")
    start_child("ray::IDLE")
    watchdog = Watchdog(EndRun())
    assert watchdog.look() is None
    assert watchdog.look() is None


def test_a_killed_part_is_noticed_and_named(start_child: StartChild) -> None:
    worker = start_child("ray::WorkerDict.actor_rollout_ref_update_actor")
    watchdog = Watchdog(EndRun())
    assert watchdog.look() is None
    worker.kill()
    death = watchdog.look()
    assert death == Death("the training worker (actor, reference, critic)", worker.pid, "")
    assert str(death) == (
        f"the training worker (actor, reference, critic) (process {worker.pid}) died, so the run was ended."
    )


@pytest.mark.parametrize(
    ("cause", "consequence"),
    [
        ("VLLM::EngineCore", "SimpleStorageUnit"),
        ("RewardLoopWorker", "TransferQueueController"),
        ("WorkerDict", "GlobalRequestLoadBalancer"),
        ("VLLM::Worker", "VLLM::EngineCore"),
        ("raylet", "WorkerDict"),
    ],
)
def test_of_several_deaths_the_cause_is_named(start_child: StartChild, cause: str, consequence: str) -> None:
    """verl closes TransferQueue when anything fails, often before the watchdog's next look."""
    first, second = start_child(f"ray::{consequence}"), start_child(cause)
    watchdog = Watchdog(EndRun())
    assert watchdog.look() is None
    first.kill()
    second.kill()
    death = watchdog.look()
    assert death == Death(ESSENTIAL[cause], second.pid, "", others=(ESSENTIAL[consequence],))
    assert str(death).endswith(f"died, so the run was ended. Gone as well: {ESSENTIAL[consequence]}.")


def test_a_part_that_nobody_has_waited_for_is_dead_too(start_child: StartChild) -> None:
    worker = start_child("ray::RewardLoopWorker")
    watchdog = Watchdog(EndRun())
    assert watchdog.look() is None
    worker.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert worker.process.status() == psutil.STATUS_ZOMBIE
    death = watchdog.look()
    assert death is not None
    assert death.part == ESSENTIAL["RewardLoopWorker"]


def test_the_end_of_what_is_not_essential_means_nothing(start_child: StartChild) -> None:
    idle = start_child("ray::IDLE")
    watchdog = Watchdog(EndRun())
    watchdog.look()
    idle.kill()
    assert watchdog.look() is None


def test_a_process_is_watched_from_when_it_gets_its_title(start_child: StartChild) -> None:
    """Ray starts workers before it knows what they will be."""
    worker = start_child("ray::IDLE")
    watchdog = Watchdog(EndRun())
    watchdog.look()
    assert watchdog.processes == []
    worker.become("ray::WorkerDict")
    watchdog.look()
    assert watchdog.processes == [worker.process]


def test_a_fork_with_its_parents_title_is_not_a_part(start_child: StartChild) -> None:
    """A data loader's worker, or a helper between fork and exec: it may end when it likes."""
    runner = start_child("ray::TaskRunnerV1.run", before=FORK_BELOW)
    (copy,) = runner.below
    assert "TaskRunnerV1" in copy.cmdline()[0]
    watchdog = Watchdog(EndRun())
    assert watchdog.look() is None
    assert watchdog.processes == [runner.process]
    runner.kill_below()
    assert watchdog.look() is None


def test_the_log_tail_is_the_process_own(start_child: StartChild, tmp_path: Path) -> None:
    worker = start_child("ray::WorkerDict")
    stem = tmp_path / f"worker-0123-01000000-{worker.pid}"
    stem.with_suffix(".out").write_text("loading\n\n")
    stem.with_suffix(".err").write_text("Traceback\nMemoryError: no room\n")
    (tmp_path / f"worker-0123-01000000-9{worker.pid}.err").write_text("somebody else's\n")
    watchdog = Watchdog(EndRun(), log_folders=[tmp_path])
    watchdog.look()
    worker.kill()
    death = watchdog.look()
    assert death is not None
    assert death.log_tail == "loading\nTraceback\nMemoryError: no room"
    assert str(death).endswith("died, so the run was ended.\nlast lines of its log:\n" + death.log_tail)


MEMORY_LOG = """\
[2026-11-27 12:08:20,863 I 16294 16294] (raylet) Killing 1 worker(s)
OOM kill reason: Memory usage 24038633472B exceeded threshold of 24012677120B (95.0% of 25276502016B limit)
Total non-selected idle workers: 0
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
16609\t16.04\tray::WorkerDict.actor_rollout_ref_update_actor
16859\t2.86\tVLLM::EngineCore
"""


def test_a_machine_without_memory_is_named_with_its_largest_process(start_child: StartChild, tmp_path: Path) -> None:
    """As Ray wrote it when SmolLM2's logits filled 24 GB, and vLLM's engine was the first to be seen dead."""
    log = tmp_path / "raylet.out"
    log.write_text("an earlier run's\n" + MEMORY_LOG.replace("24038633472", "1"))
    child = start_child("VLLM::EngineCore")
    latest = tmp_path / "session_latest"
    latest.symlink_to(tmp_path)
    watchdog = Watchdog(EndRun(), log_folders=[latest, tmp_path / "none"])
    assert watchdog.look() is None
    latest.unlink()  # another run's session is now the latest
    with log.open("a") as file:
        file.write(MEMORY_LOG)
    child.kill()
    death = watchdog.look()
    assert death.part == "the vLLM engine"
    assert death.cause.startswith(
        "The machine's memory was full (24.0 GB used, Ray allows 24.0), so Ray killed workers; the largest process was "
        "ray::WorkerDict.actor_rollout_ref_update_actor with 16.04 GB. Lower actor_rollout_ref.actor.ppo_max_token_len"
    )
    assert death.cause in str(death)


def test_a_long_log_is_cut_to_its_last_lines(start_child: StartChild, tmp_path: Path) -> None:
    worker = start_child("ray::WorkerDict")
    lines = [f"line {number}" for number in range(100_000)]
    (tmp_path / f"worker-0123-01000000-{worker.pid}.err").write_text("\n".join(lines) + "\n")
    watchdog = Watchdog(EndRun(), log_folders=[tmp_path])
    watchdog.look()
    worker.kill()
    death = watchdog.look()
    assert death is not None
    assert death.log_tail.splitlines() == lines[-LOG_LINES:]


def test_an_engine_without_a_log_shows_its_servers(start_child: StartChild, tmp_path: Path) -> None:
    """vLLM's engine and its workers write into the log of the server that started them."""
    server = start_child("ray::vLLMHttpServer.generate", before=ENGINE_BELOW)
    (engine,) = server.below
    (tmp_path / f"worker-0123-01000000-{server.pid}.err").write_text("EngineCore: out of memory\n")
    watchdog = Watchdog(EndRun(), log_folders=[tmp_path])
    assert watchdog.look() is None
    server.kill_below()
    death = watchdog.look()
    assert death == Death("the vLLM engine", engine.pid, "EngineCore: out of memory")


def test_rays_own_processes_have_logs_by_name(start_child: StartChild, tmp_path: Path) -> None:
    raylet = start_child("/somewhere/raylet/raylet --raylet_socket_name=/tmp/raylet")
    (tmp_path / "raylet.out").write_text("the node has no memory left\n")
    watchdog = Watchdog(EndRun(), log_folders=[tmp_path])
    watchdog.look()
    raylet.kill()
    assert watchdog.look() == Death(ESSENTIAL["raylet"], raylet.pid, "the node has no memory left")


def test_an_orphan_is_still_known(start_child: StartChild) -> None:
    """Whose parent was killed is no descendant any more, and has to be ended with the run all the same."""
    server = start_child("ray::vLLMHttpServer.generate", before=ENGINE_BELOW)
    (engine,) = server.below
    watchdog = Watchdog(EndRun())
    watchdog.look()
    server.kill()
    assert engine not in psutil.Process().children(recursive=True)
    assert engine in watchdog.processes


def test_a_death_ends_the_run_once_after_the_grace_period(start_child: StartChild) -> None:
    worker = start_child("ray::WorkerDict")
    end_run = EndRun()
    with Watchdog(end_run, poll_seconds=0.01, grace_seconds=0.01) as watchdog:
        wait_until(lambda: watchdog.processes, "saw the worker")
        worker.kill()
        assert end_run.called.wait(GUARD_SECONDS)
    assert end_run.calls == 1
    assert watchdog.death is not None
    assert watchdog.death.pid == worker.pid


def test_a_death_is_seen_while_ray_does_not_say_where_the_servers_are(start_child: StartChild) -> None:
    worker = start_child("ray::WorkerDict")
    end_run, asked, answer = EndRun(), threading.Event(), threading.Event()

    def servers() -> list[str]:
        asked.set()
        answer.wait(GUARD_SECONDS)
        return []

    with Watchdog(end_run, servers=servers, poll_seconds=0.01, grace_seconds=0.01) as watchdog:
        wait_until(lambda: watchdog.processes and asked.is_set(), "saw the worker, and asked")
        worker.kill()
        assert end_run.called.wait(GUARD_SECONDS)
        answer.set()
    assert end_run.calls == 1


def test_a_run_that_ends_in_time_is_left_alone(start_child: StartChild) -> None:
    """verl often raises the better error by itself."""
    worker = start_child("ray::WorkerDict")
    end_run = EndRun()
    with Watchdog(end_run, poll_seconds=0.01, grace_seconds=FOR_EVER) as watchdog:
        wait_until(lambda: watchdog.processes, "saw the worker")
        worker.kill()
        wait_until(lambda: watchdog.death, "noticed the death")
    assert watchdog.death is not None
    assert watchdog.death.pid == worker.pid
    assert end_run.calls == 0


def test_a_run_without_a_death_is_left_alone(start_child: StartChild) -> None:
    start_child("ray::WorkerDict")
    end_run = EndRun()
    with Watchdog(end_run, poll_seconds=0.01, grace_seconds=0.0) as watchdog:
        wait_until(lambda: watchdog.processes, "saw the worker")
    assert watchdog.death is None
    assert end_run.calls == 0


def test_a_server_that_stops_answering_is_a_death(start_health_server: Callable[..., HealthServer]) -> None:
    server = start_health_server(200, *[503] * HEALTH_FAILURES)
    end_run = EndRun()
    with Watchdog(end_run, servers=lambda: [server.address], poll_seconds=0.01, grace_seconds=0.0) as watchdog:
        assert end_run.called.wait(GUARD_SECONDS)
    assert end_run.calls == 1
    assert server.asked == 1 + HEALTH_FAILURES
    assert str(watchdog.death) == f"the vLLM server at {server.address} stopped answering, so the run was ended."


def test_the_node_of_a_server_is_named(start_health_server: Callable[..., HealthServer]) -> None:
    server = start_health_server(200, *[503] * HEALTH_FAILURES)
    end_run = EndRun()
    node_at = {server.address.rpartition(":")[0]: "gpu-3"}.get
    watchdog = Watchdog(
        end_run, servers=lambda: [server.address], node_at=node_at, poll_seconds=0.01, grace_seconds=0.0
    )
    with watchdog:
        assert end_run.called.wait(GUARD_SECONDS)
    assert f"the vLLM server at {server.address} (node gpu-3) stopped answering" in str(watchdog.death)


def test_servers_are_asked_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of a node that is gone all time out: one after another, they would take minutes to be noticed."""
    together = threading.Barrier(HEALTH_THREADS, timeout=GUARD_SECONDS)
    monkeypatch.setattr(watchdog_module, "_healthy", lambda address: together.wait() >= 0)
    servers = [f"10.0.0.{number}:1" for number in range(HEALTH_THREADS)]
    assert Watchdog(EndRun(), servers=lambda: servers)._unhealthy_server() is None


@pytest.mark.parametrize("reachable", [True, False])
def test_a_server_that_never_answered_is_no_death(
    start_health_server: Callable[..., HealthServer], caplog: pytest.LogCaptureFixture, reachable: bool
) -> None:
    """A driver that cannot reach the servers' ports must not end a healthy run: it says so once."""
    refusing = start_health_server(*[503] * (3 * HEALTH_FAILURES))
    # Port 1 of this machine: nobody listens there.
    address = refusing.address if reachable else "127.0.0.1:1"
    servers = [address, refusing.address]
    with Watchdog(EndRun(), servers=lambda: servers, poll_seconds=0.01, grace_seconds=0.0) as watchdog:
        assert refusing.enough.wait(GUARD_SECONDS)
    assert watchdog.death is None
    said = [record.getMessage() for record in caplog.records if address in record.getMessage()]
    assert said == [
        f"the vLLM server at {address} does not answer this machine, so its health is not watched until it does"
    ]


def test_a_look_that_fails_is_logged_once_and_does_not_end_the_watch(
    start_child: StartChild, caplog: pytest.LogCaptureFixture
) -> None:
    worker = start_child("ray::WorkerDict")
    calls = threading.Semaphore(0)

    def servers() -> list[str]:
        calls.release()
        raise RuntimeError("whatever a user's actor raises")

    end_run = EndRun()
    with Watchdog(end_run, servers=servers, poll_seconds=0.01, grace_seconds=0.0) as watchdog:
        for _ in range(3):
            assert calls.acquire(timeout=GUARD_SECONDS)
        worker.kill()
        assert end_run.called.wait(GUARD_SECONDS)
    assert watchdog.death is not None
    assert watchdog.death.pid == worker.pid
    assert [record.getMessage() for record in caplog.records] == ["the watchdog met an error and goes on"]


def test_a_server_that_fails_now_and_then_is_alive(start_health_server: Callable[..., HealthServer]) -> None:
    server = start_health_server(200, *[503] * (HEALTH_FAILURES - 1))
    with Watchdog(EndRun(), servers=lambda: [server.address], poll_seconds=0.01, grace_seconds=0.0) as watchdog:
        assert server.enough.wait(GUARD_SECONDS)
    assert watchdog.death is None


def test_servers_are_asked_past_any_proxy(
    start_health_server: Callable[..., HealthServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_health_server(200)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Watchdog(EndRun(), servers=lambda: [server.address], poll_seconds=0.01, grace_seconds=0.0) as watchdog:
        assert server.enough.wait(GUARD_SECONDS)
    assert watchdog.death is None
