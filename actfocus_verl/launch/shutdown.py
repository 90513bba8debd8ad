"""End a run so that no process of it survives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil

TERMINATE_SECONDS = 5.0


def shut_down(others: Iterable[psutil.Process] = (), *, ray_is_mute: bool = False) -> list[str]:
    """Disconnect from Ray, stop the local cluster if this process started one, and end every remaining descendant.

    vLLM's engine is a child of a Ray worker; killed workers leave it behind, so descendants are noted before Ray goes.

    Args:
        others: ended as well: parts of the run seen earlier, no longer descendants once their parent was killed.
        ray_is_mute: do not ask Ray to end: without its control store it does not answer.

    Returns:
        Titles of the processes that had to be killed.
    """
    import ray  # not above: an evaluation without vLLM has no Ray

    descendants = psutil.Process().children(recursive=True)
    if ray.is_initialized() and not ray_is_mute:
        with contextlib.suppress(ray.exceptions.RayError):  # a cluster that is half dead already
            ray.shutdown()
    return end_processes(list({*descendants, *others}))


def end_processes(processes: list[psutil.Process]) -> list[str]:
    """Terminate, then kill, the `processes` still running; return the titles of the killed."""
    _, alive = psutil.wait_procs(processes, timeout=0.1)
    for process in alive:
        with contextlib.suppress(psutil.Error):  # ended by itself in this moment
            process.terminate()
    _, alive = psutil.wait_procs(alive, timeout=TERMINATE_SECONDS)
    titles = []
    for process in alive:
        with contextlib.suppress(psutil.Error):
            titles.append(" ".join(process.cmdline()) or process.name())
            process.kill()
    psutil.wait_procs(alive, timeout=TERMINATE_SECONDS)
    return titles
