"""Notice that a part of a run has died, say which, and end the run.

A vLLM engine that dies makes verl wait forever for its rollouts. The watchdog looks at the processes of this machine's
Ray node every few seconds, and asks every vLLM server in the cluster for its health. In a cluster that was joined,
whose processes are not below this one, it asks Ray which actors have died. If a part dies and the run does not end by
itself within a grace period, the watchdog ends it. Any other error of the watchdog is logged, and it goes on.
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from actfocus_verl.launch.actors import DeadActor, dead_actors
from actfocus_verl.launch.memory import log_size, memory_kill

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
GRACE_SECONDS = 15.0
"""Seconds for a run to end by itself after a part has died: verl often raises the better error."""
HEALTH_TIMEOUT_SECONDS = 5.0
HEALTH_FAILURES = 3
"""Consecutive failed health checks that count as a death; one may time out on a loaded machine."""
HEALTH_THREADS = 64
"""Servers asked at once: those of a node that is gone all time out."""
LOG_LINES = 15
LOG_TAIL_BYTES = 1 << 16

CONTROL_STORE: Final = "Ray's control store (gcs_server)"
"""Without it most calls of Ray's wait, and after a minute Ray ends the process that made them."""

ESSENTIAL = {
    "gcs_server": CONTROL_STORE,
    "raylet": "Ray's node manager (raylet)",
    "TaskRunner": "verl's task runner",
    "VLLM::Worker": "a vLLM worker",
    "VLLM::EngineCore": "the vLLM engine",
    "vLLMHttpServer": "the vLLM server",
    "SGLangHttpServer": "the SGLang server",
    "WorkerDict": "the training worker (actor, reference, critic)",
    "RewardLoopWorker": "a reward worker",
    "AgentLoopWorker": "an agent-loop worker",
    "GlobalRequestLoadBalancer": "verl's request router",
    "TransferQueueController": "TransferQueue's controller",
    "SimpleStorageUnit": "TransferQueue's storage",
}
"""Text in the title of a process whose end must end the run, and what to call the process.

Causes come before their consequences: a part that ends takes others with it (Ray ends what a dead worker owns, vLLM's
engine ends with its worker, and verl closes TransferQueue when anything else fails).
"""

_BY_CAUSE = list(ESSENTIAL.values())

_CLOSED_BY_VERL = frozenset(
    ESSENTIAL[mark] for mark in ("GlobalRequestLoadBalancer", "TransferQueueController", "SimpleStorageUnit")
)
"""Parts that verl ends itself after an error in its own code: their end then explains nothing."""

_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The servers are nodes of this cluster: a proxy meant for the internet would answer for them, wrongly."""


@dataclass(frozen=True)
class Death:
    """A part that died: its name, its process id where it was seen to end, and the last lines of its log.

    cause: a sentence, if Ray knows why: it killed workers because the machine's memory was full.
    others: parts that were gone as well. One may be the cause: vLLM's engine ends within milliseconds of its server.
    """

    part: str
    pid: int | None = None
    log_tail: str = ""
    cause: str = ""
    others: tuple[str, ...] = ()

    @property
    def leaves_ray_mute(self) -> bool:
        """Whether nothing may be asked of Ray any more."""
        return any(part.startswith(CONTROL_STORE) for part in (self.part, *self.others))

    @property
    def may_follow_an_error(self) -> bool:
        """Whether verl ends this part itself, once its own code has raised an error."""
        return self.part in _CLOSED_BY_VERL

    def __str__(self) -> str:
        what = f"{self.part} stopped answering" if self.pid is None else f"{self.part} (process {self.pid}) died"
        tail = f"\nlast lines of its log:\n{self.log_tail}" if self.log_tail else ""
        cause = self.cause and f" {self.cause}"
        others = f" Gone as well: {', '.join(self.others)}." if self.others else ""
        return f"{what}, so the run was ended.{others}{cause}{tail}"


@dataclass(frozen=True)
class _Watched:
    part: str
    process: psutil.Process
    logs: tuple[str, ...]
    """Names of its log files without suffix, as glob patterns, best first."""


def essential_part(title: str) -> str | None:
    """Return the name of the part a process title belongs to, or None for a process whose end does not matter.

    Only the program's name counts, the last component of the title's first word: the arguments of every Ray worker that
    has not got its title yet contain `raylet`.
    """
    program = _program(title)
    return next((name for mark, name in ESSENTIAL.items() if mark in program), None)


class Watchdog:
    """Watch the descendants of this process, the vLLM servers and a joined cluster's control store until stopped.

    Args:
        end_run: called once, from a thread of the watchdog's, when a death did not end the run by itself.
        log_folders: where Ray keeps its workers' logs.
        servers: returns the addresses `host:port` of the vLLM servers known by now.
        actors: returns the run's actors that have died.
        node_at: returns the name of the node with an IP address, or None.
    """

    def __init__(
        self,
        end_run: Callable[[], None],
        *,
        log_folders: Iterable[Path] = (),
        servers: Callable[[], list[str]] = list,
        actors: Callable[[], list[DeadActor]] = dead_actors,
        node_at: Callable[[str], str | None] = lambda address: None,
        poll_seconds: float = POLL_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._end_run = end_run
        self.log_folders = list(log_folders)
        self._servers = servers
        self._actors = actors
        self._node_at = node_at
        self._poll_seconds = poll_seconds
        self._grace_seconds = grace_seconds
        self._watched: dict[int, _Watched] = {}
        self._health_failures: dict[str, int] = {}
        self._answered: set[str] = set()
        """Servers that have answered once."""
        self._troubles: set[str] = set()
        """Errors of the watchdog itself that are already logged."""
        self._begun: dict[Path, int] = {}
        """Of each folder: Ray's log in bytes when the first part was seen. What stands before was not this run's."""
        self._stopping = threading.Event()
        self._store: str | None = None
        self._store_failures = 0
        # Finding servers and actors asks Ray, which may never answer, and the rest is to be seen all the same.
        self._threads = [
            threading.Thread(target=self._run, args=(look,), name=f"actfocus-watchdog-{name}", daemon=True)
            for name, look in (
                ("processes", self.look),
                ("servers", self._unhealthy_server),
                ("store", self._unreachable_store),
                ("actors", self.look_elsewhere),
            )
        ]
        self._declaring = threading.Lock()
        self.death: Death | None = None

    @property
    def processes(self) -> list[psutil.Process]:
        """Every essential process seen so far. If its parent was killed, it is no longer a descendant."""
        return [watched.process for watched in list(self._watched.values())]

    def __enter__(self) -> Watchdog:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        deadline = time.monotonic() + self._poll_seconds + HEALTH_TIMEOUT_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def watch_cluster(self, address: str) -> None:
        """Watch a cluster that was joined: its control store at `host:port`, and the actors that it knows."""
        self._store = address

    def look(self) -> Death | None:
        """Check once: note new essential processes, return one that is gone; of several, the likeliest cause."""
        for process in psutil.Process().children(recursive=True):
            if process.pid not in self._watched:
                self._remember(process)
        dead = [watched for watched in list(self._watched.values()) if not _alive(watched.process)]
        if not dead:
            return None
        part, *others = _causes_first(watched.part for watched in dead)
        cause = next(watched for watched in dead if watched.part == part)
        memory = next(filter(None, (memory_kill(folder, begun) for folder, begun in self._begun.items())), "")
        return Death(part, cause.process.pid, self._log_tail(cause), memory, tuple(others))

    def look_elsewhere(self) -> Death | None:
        """Check once what Ray knows of the run's actors in a cluster that was joined. It may wait for ever."""
        if self._store is None:
            return None
        dead = [(part, actor) for actor in self._actors() if (part := essential_part(actor.title)) is not None]
        if not dead:
            return None
        part, *others = _causes_first(part for part, _ in dead)
        actor = next(actor for other, actor in dead if other == part)
        return Death(f"{part}{self._on_node(actor.address)}", actor.pid, cause=actor.said, others=tuple(others))

    def _remember(self, process: psutil.Process) -> None:
        try:
            title = _title(process)
            part = essential_part(title)
            if part is None:
                return
            parents = process.parents()
            if parents and essential_part(_title(parents[0])) == part:
                return  # a fork carries its parent's title until it gets its own: a data loader, a helper about to exec
            # vLLM's processes write into the log of the server that started them; Ray's own have logs by name.
            logs = (*(f"*-{each.pid}" for each in (process, *parents)), _program(title))
            if not self._watched:
                self._find_logs()
            self._watched[process.pid] = _Watched(part, process, logs)
        except psutil.Error:  # ended between two calls
            return

    def _find_logs(self) -> None:
        """Keep to this run's session, which is the latest while its first part starts: the next one takes the link."""
        self.log_folders = [folder.resolve() for folder in self.log_folders]
        self._begun = {folder: log_size(folder) for folder in self.log_folders}

    def _run(self, look: Callable[[], Death | None]) -> None:
        while self.death is None and not self._stopping.wait(self._poll_seconds):
            death = self._seen_by(look)
            if death is not None and self._declare(death):
                if death.leaves_ray_mute or not self._stopping.wait(self._grace_seconds):
                    self._end_run()
                return

    def _declare(self, death: Death) -> bool:
        """Whether it is the first: the run is ended once."""
        with self._declaring:
            if self.death is not None:
                return False
            self.death = death
            return True

    def _seen_by(self, look: Callable[[], Death | None]) -> Death | None:
        try:
            return look()
        except Exception as error:  # a run must not lose its watch, whatever a look meets
            kind = f"{type(error).__name__}: {error}"
            if kind not in self._troubles:  # else it is logged every few seconds
                self._troubles.add(kind)
                logger.warning("the watchdog met an error and goes on", exc_info=error)
            return None

    def _unhealthy_server(self) -> Death | None:
        addresses = self._servers()
        with ThreadPoolExecutor(max(1, min(len(addresses), HEALTH_THREADS))) as threads:
            answers = list(threads.map(_healthy, addresses))
        for address, healthy in zip(addresses, answers, strict=True):
            if healthy:
                self._answered.add(address)
                self._health_failures[address] = 0
                continue
            failures = self._health_failures[address] = self._health_failures.get(address, 0) + 1
            if failures < HEALTH_FAILURES:
                continue
            if address in self._answered:
                return Death(f"the vLLM server at {address}{self._on_node(_host(address))}")
            if failures == HEALTH_FAILURES:
                # It may be that this machine cannot reach it: a firewall, or a driver outside the cluster's network.
                logger.warning(
                    "the vLLM server at %s does not answer this machine, so its health is not watched until it does",
                    address,
                )
        return None

    def _unreachable_store(self) -> Death | None:
        if self._store is None:
            return None
        self._store_failures = 0 if _reachable(self._store) else self._store_failures + 1
        if self._store_failures < HEALTH_FAILURES:
            return None
        return Death(f"{CONTROL_STORE} at {self._store}{self._on_node(_host(self._store))}")

    def _on_node(self, address: str) -> str:
        """` (node <name>)`, where the name of the node with this IP address is known."""
        node = self._node_at(address)
        return f" (node {node})" if node else ""

    def _log_tail(self, watched: _Watched) -> str:
        for pattern in watched.logs:
            lines = [line for folder in self.log_folders for line in _last_lines(folder, pattern)]
            if lines:
                return "\n".join(lines[-LOG_LINES:])
        return ""


def _causes_first(parts: Iterable[str]) -> list[str]:
    """Each part once, the likeliest cause first."""
    return sorted(set(parts), key=_BY_CAUSE.index)


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()) or process.name()


def _host(address: str) -> str:
    """Of `host:port`."""
    return address.rpartition(":")[0].strip("[]")


def _reachable(address: str) -> bool:
    port = int(address.rpartition(":")[2])
    try:
        socket.create_connection((_host(address), port), timeout=HEALTH_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


def _program(title: str) -> str:
    return title.partition(" ")[0].rpartition("/")[2]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it is there, and does not show itself
        return True


def _healthy(address: str) -> bool:
    try:
        with _without_proxy.open(f"http://{address}/health", timeout=HEALTH_TIMEOUT_SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # URLError and HTTPError are OSErrors
        return False


def _last_lines(folder: Path, pattern: str) -> list[str]:
    """Last lines of a process's logs; Ray names a worker's `worker-<id>-<job>-<pid>.out` and `.err`."""
    lines: list[str] = []
    for path in sorted(folder.glob(f"{pattern}.out")) + sorted(folder.glob(f"{pattern}.err")):
        try:
            with path.open("rb") as file:
                file.seek(max(path.stat().st_size - LOG_TAIL_BYTES, 0))
                text = file.read().decode(errors="replace")
        except OSError:  # removed in this moment, or another user's
            continue
        lines.extend([line for line in text.splitlines() if line.strip()][-LOG_LINES:])
    return lines


def ray_log_folder() -> Path:
    """Return the log folder of this machine's latest Ray session."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "session_latest" / "logs"
