"""The actors of a run that have died, whichever machine they were on.

Where a run joins a cluster, its parts are no processes below the command, and an agent-loop worker that ends takes its
episodes with it without a word: verl goes on waiting for them. Ray's control store keeps how every actor ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import ray
from ray._private import state
from ray.core.generated.common_pb2 import ActorDeathCause, ActorDiedErrorContext

_OUT_OF_MEMORY: Final = "oom_context"
_ENDED: Final = "actor_died_error_context"
_WORKER_DIED: Final = ActorDiedErrorContext.WORKER_DIED
_NODE_DIED: Final = ActorDiedErrorContext.NODE_DIED


@dataclass(frozen=True)
class DeadActor:
    """An actor that nobody asked to end.

    pid: on its node; None where the node is gone as a whole. said: Ray's words on it, in one line.
    """

    title: str
    """Its class's name, with which the title of its process begins."""
    address: str
    """Its node's IP address."""
    pid: int | None
    said: str


def dead_actors() -> list[DeadActor]:
    """Return those of this process's job; none where Ray runs no job for it. It may wait for Ray, even for ever."""
    if not ray.is_initialized():
        return []
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    # ray.util.state, which is public, asks the dashboard, and runs have none.
    found = (_dead_actor(entry) for entry in state.actors(job_id=job, actor_state_name="DEAD").values())
    return [actor for actor in found if actor is not None]


def _dead_actor(entry: dict[str, Any]) -> DeadActor | None:
    """The entry of an actor in the state DEAD; None if it was ended on purpose, or never began."""
    cause: ActorDeathCause = entry["DeathCause"]
    title, address, pid = entry["ActorClassName"], entry["Address"]["IPAddress"], entry["Pid"]
    kind = cause.WhichOneof("context")
    if kind == _OUT_OF_MEMORY:
        return DeadActor(title, address, pid, _one_line(cause.oom_context.error_message))
    if kind == _ENDED:
        ended = cause.actor_died_error_context
        if ended.reason == _WORKER_DIED:
            return DeadActor(title, address, pid, _one_line(ended.error_message))
        if ended.reason == _NODE_DIED:
            return DeadActor(title, address, None, _one_line(ended.error_message))
    return None


def _one_line(text: str) -> str:
    """Without the causes that any such end may have, which Ray lists after it."""
    return " ".join(text.partition("Some common causes")[0].split())
