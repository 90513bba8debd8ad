"""What Ray's table of actors says of the run's parts: the entries that Ray makes, on a make-believe table."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray._private import state
from ray.core.generated.common_pb2 import ActorDeathCause, ActorDiedErrorContext, OomContext

from actfocus_verl.launch.actors import DeadActor, dead_actors
from actfocus_verl.launch.watchdog import Death, Watchdog
from tests.launch.conftest import GUARD_SECONDS, EndRun

KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: End of "
    "file. Some common causes include: (1) the process was killed by the OOM killer due to high memory usage"
)
SAID = KILLED.partition(" Some common")[0]


def entry(title: str, cause: ActorDeathCause, address: str = "10.0.0.2", pid: int = 7) -> dict[str, Any]:
    return {"ActorClassName": title, "Address": {"IPAddress": address}, "Pid": pid, "DeathCause": cause}


def ended(reason: int, said: str = "") -> ActorDeathCause:
    return ActorDeathCause(actor_died_error_context=ActorDiedErrorContext(reason=reason, error_message=said))


def starved() -> ActorDeathCause:
    return ActorDeathCause(oom_context=OomContext(error_message="Memory on the node was\n23 GB of 24 GB."))


Table = Callable[..., None]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    """Give Ray's table these entries."""

    class Context:
        def get_job_id(self) -> str:
            return "01000000"

    def fill(*entries: dict[str, Any]) -> None:
        def actors_of(job_id: ray.JobID, actor_state_name: str) -> dict[str, Any]:
            assert (job_id.hex(), actor_state_name) == ("01000000", "DEAD")  # others use the cluster, too
            return {str(number): each for number, each in enumerate(entries)}

        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "get_runtime_context", Context)
        monkeypatch.setattr(state, "actors", actors_of)

    return fill


def test_without_ray_none_is_dead() -> None:
    assert dead_actors() == []


@pytest.mark.parametrize("reason", ["RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED", "OWNER_DIED"])
def test_an_actor_that_was_ended_is_no_death(table: Table, reason: str) -> None:
    """Nor one whose owner has died: the owner has an entry of its own."""
    table(entry("WorkerDict", ended(ActorDiedErrorContext.Reason.Value(reason))))
    assert dead_actors() == []


def test_deaths_keep_what_ray_says_of_them(table: Table) -> None:
    table(
        entry("AgentLoopWorkerTQ", ended(ActorDiedErrorContext.WORKER_DIED, KILLED)),
        entry("WorkerDict", starved()),
        entry("RewardLoopWorker", ended(ActorDiedErrorContext.NODE_DIED, "The node\ndied.")),
    )
    assert dead_actors() == [
        DeadActor("AgentLoopWorkerTQ", "10.0.0.2", 7, SAID),
        DeadActor("WorkerDict", "10.0.0.2", 7, "Memory on the node was 23 GB of 24 GB."),
        DeadActor("RewardLoopWorker", "10.0.0.2", None, "The node died."),
    ]


def test_a_death_elsewhere_ends_a_run_that_joined_a_cluster() -> None:
    dead = [DeadActor("AgentLoopWorkerTQ", "10.0.0.2", 7, SAID), DeadActor("Somebodys", "10.0.0.1", 8, "")]
    end_run = EndRun()
    node_at = {"10.0.0.2": "gpu-3"}.get
    watchdog = Watchdog(end_run, actors=lambda: dead, node_at=node_at, poll_seconds=0.01, grace_seconds=0.0)
    assert watchdog.look_elsewhere() is None  # of its own Ray it sees the processes
    with socket.create_server(("127.0.0.1", 0)) as store:
        watchdog.watch_cluster(f"127.0.0.1:{store.getsockname()[1]}")
        with watchdog:
            assert end_run.called.wait(GUARD_SECONDS)
    assert str(watchdog.death) == f"an agent-loop worker (node gpu-3) (process 7) died, so the run was ended. {SAID}"


def test_of_several_the_likeliest_cause_is_named() -> None:
    dead = [DeadActor(title, "10.0.0.2", 7, title) for title in ("AgentLoopWorkerTQ", "vLLMHttpServer")]
    watchdog = Watchdog(EndRun(), actors=lambda: dead)
    watchdog.watch_cluster("10.0.0.1:6379")
    assert watchdog.look_elsewhere() == Death(
        "the vLLM server", 7, cause="vLLMHttpServer", others=("an agent-loop worker",)
    )
