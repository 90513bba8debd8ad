"""End a run whose part has died: its task runner while Ray answers, this process's own wait where it does not."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Final

RUNNER_NAME: Final = "actfocus_task_runner"
KILL_SECONDS = 5.0
"""How long Ray may take to kill the task runner. Without its control store it never does."""


class ExitAtOnce(SystemExit):
    """The end of a process whose Ray has lost its control store: an orderly one would wait for it, and crash."""


def end_runner(ray_is_mute: threading.Event) -> None:
    """End verl's task runner; where Ray does not answer, end the main thread's wait for it, as SIGTERM does.

    ray_is_mute: set then.
    """
    killer = threading.Thread(target=_kill_by_ray, name="actfocus-kill-runner", daemon=True)
    killer.start()
    killer.join(KILL_SECONDS)
    if killer.is_alive():
        ray_is_mute.set()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _kill_by_ray() -> None:
    import ray

    with contextlib.suppress(ValueError, ray.exceptions.RayError):
        ray.kill(ray.get_actor(RUNNER_NAME))
