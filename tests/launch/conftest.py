"""Child processes with the titles that Ray's and vLLM's have, a small web server, and how to wait for the watchdog."""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
import pytest

GUARD_SECONDS = 60
"""How long a test waits for something that happens at once: reached only when it does not happen."""

_TITLED = """
import setproctitle, sys
setproctitle.setproctitle(sys.argv[1])
{before}
print("ready", flush=True)
for title in sys.stdin:  # ends with the test, whatever happens to it
    setproctitle.setproctitle(title.strip())
    print("ready", flush=True)
"""

ENGINE_BELOW = """
import subprocess
code = "import setproctitle, signal; setproctitle.setproctitle('VLLM::EngineCore'); print(flush=True); signal.pause()"
engine = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
engine.stdout.readline()
print(engine.pid, flush=True)
"""
"""Python for `before`: starts a child of its own, which outlives it, and prints its process id."""

FORK_BELOW = """
import os, signal
pid = os.fork()
pid or signal.pause()
print(pid, flush=True)
"""
"""Likewise: forks, so that the copy has its title."""


@dataclass
class Child:
    """A child of the test that lives until it is killed or its input is closed."""

    popen: subprocess.Popen[str]
    below: list[psutil.Process]
    """Processes it started, by the ids it printed."""

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.popen.pid)

    def become(self, title: str) -> None:
        """Give it another title."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(title + "\n")
        self.popen.stdin.flush()
        assert self.popen.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """Kill it and take its exit status: nothing is left of it."""
        self.popen.kill()
        self.popen.wait(GUARD_SECONDS)

    def kill_below(self) -> None:
        """Kill the one process it started and wait for its end; its parent never takes its exit status."""
        (process,) = self.below
        process.kill()
        for _ in range(GUARD_SECONDS * 100):
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.01)
        raise AssertionError(f"{process} outlives SIGKILL")


StartChild = Callable[..., Child]


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    """Start a process with a title: `start_child("ray::WorkerDict")`; `before` is Python it runs first."""
    children: list[Child] = []

    def start(title: str, before: str = "") -> Child:
        popen = subprocess.Popen(
            [sys.executable, "-c", _TITLED.format(before=before), title],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert popen.stdout is not None
        child = Child(popen, [])
        children.append(child)
        for line in popen.stdout:
            if line == "ready\n":
                return child
            child.below.append(psutil.Process(int(line)))
        raise AssertionError(f"{title} ended with {popen.wait(GUARD_SECONDS)} before it was ready")

    yield start
    for child in children:
        for process in child.below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.kill()
        for stream in (child.popen.stdin, child.popen.stdout):
            if stream is not None:
                stream.close()


@dataclass
class HealthServer:
    """Answers `/health` with its statuses in turn, again and again, and counts the questions."""

    statuses: list[int]
    asked: int = 0
    address: str = ""
    enough: threading.Event = field(default_factory=threading.Event)
    """Set after three rounds."""

    def next_status(self) -> int:
        status = self.statuses[self.asked % len(self.statuses)]
        self.asked += 1
        if self.asked >= 3 * len(self.statuses):
            self.enough.set()
        return status


@pytest.fixture
def start_health_server() -> Iterator[Callable[..., HealthServer]]:
    """Start a server on 127.0.0.1: `start_health_server(503, 200)`."""
    running: list[tuple[http.server.HTTPServer, threading.Thread]] = []

    def start(*statuses: int) -> HealthServer:
        answers = HealthServer(list(statuses))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(answers.next_status() if self.path == "/health" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not into the test's output."""

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        answers.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        running.append((server, thread))
        return answers

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join(GUARD_SECONDS)
        server.server_close()


class EndRun:
    """Counts its calls; the first one sets an event."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.called.set()


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for what the watchdog's thread does at once."""
    tick = threading.Event()
    for _ in range(GUARD_SECONDS * 100):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError(f"the watchdog never {what}")
