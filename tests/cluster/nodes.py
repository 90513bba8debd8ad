"""Two nodes on one machine: network namespaces joined by a veth pair, each with its own host name and /tmp/ray."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.e2e.runs import ROOT, end_session

NAMES = ("actfocus-a", "actfocus-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_HOSTS = "127.0.0.1 localhost\n" + "".join(
    f"{address} {name}\n" for name, address in zip(NAMES, ADDRESSES, strict=True)
)
_ENTER = 'hostname "$1"; mount --bind "$2" /tmp/ray; shift 2; exec "$@"'


def missing() -> str | None:
    """Why this machine cannot have such nodes; None if it can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    for program in ("ip", "unshare", "mount"):
        if shutil.which(program) is None:
            return f"{program} is not installed: bash scripts/install_slurm.sh"
    found = subprocess.run(["ip", "netns", "add", "actfocus-probe"], capture_output=True, text=True)
    if found.returncode:
        return f"network namespaces are not allowed here: {found.stderr.strip()}"
    _ip("netns", "delete", "actfocus-probe")
    return None


class Nodes:
    """Both nodes, from `create` to `remove`. folder: where each has a disk of its own; all the rest is shared."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def create(self) -> None:
        Path("/tmp/ray").mkdir(exist_ok=True)  # where each node's own is mounted
        _ip("link", "add", "actfocus-veth-a", "type", "veth", "peer", "name", "actfocus-veth-b")
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            (self._folder / name / "ray").mkdir(parents=True)
            etc = Path("/etc/netns") / name  # `ip netns exec` mounts its files over those of /etc
            etc.mkdir(parents=True)
            (etc / "hosts").write_text(_HOSTS)
            _ip("netns", "add", name)
            link = _link(name)
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", link, "up")

    def remove(self) -> None:
        for process in reversed(self._started):
            end_session(process)
        for name in NAMES:
            self.end_all(name)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", "actfocus-veth-a"], capture_output=True)

    def pids(self, name: str) -> list[int]:
        """The processes on a node."""
        return list(map(int, subprocess.run(["ip", "netns", "pids", name], capture_output=True).stdout.split()))

    def end_all(self, name: str) -> None:
        """End whatever is left on a node."""
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut(self, name: str) -> None:
        """Take a node off the network; its processes go on."""
        _ip("-n", name, "link", "set", _link(name), "down")

    def join(self, name: str) -> None:
        _ip("-n", name, "link", "set", _link(name), "up")

    def command(self, name: str, *words: str) -> list[str]:
        """The words that run a command on a node."""
        own = str(self._folder / name / "ray")
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", _ENTER, "sh", name, own, *words]

    def start(self, name: str, words: Sequence[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command on a node, in a session of its own; `remove` ends it."""
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(name, *words),
                cwd=ROOT,
                env=environment() | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def call(self, name: str, *words: str, **variables: str) -> str:
        """What a command on a node prints."""
        answer = subprocess.run(
            self.command(name, *words),
            cwd=ROOT,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert answer.returncode == 0, f"{words}: {answer.stdout}{answer.stderr}"
        return answer.stdout.strip()


def environment() -> dict[str, str]:
    """A user's shell: the tests' own variables are not part of it."""
    return {key: value for key, value in os.environ.items() if key not in ("VERL_PLATFORM", "OMP_NUM_THREADS")}


def wait_until(
    condition: Callable[[], object], what: str, seconds: float, log: Path | None = None, poll: float = 0.2
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        tail = log.read_text()[-4000:] if log is not None and log.exists() else ""
        assert time.monotonic() < deadline, f"no {what} within {seconds} s:\n{tail}"
        time.sleep(poll)


def _link(name: str) -> str:
    return name.replace("actfocus-", "actfocus-veth-")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
