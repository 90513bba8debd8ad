"""Ray on the two nodes, started as recipes/cluster/slurm.sh starts it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cluster.nodes import ADDRESSES, NAMES, Nodes, wait_until
from tests.cluster.runs import CPU_NODE
from tests.e2e.runs import ROOT, end_session

PORT = 21000
_START = (str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", *CPU_NODE.split())
_SECONDS = 180


def health_checks() -> dict[str, str]:
    """The settings of the recipe, so that what is tested is what is recommended."""
    script = (ROOT / "recipes" / "cluster" / "slurm.sh").read_text()
    return dict(re.findall(r"export (RAY_health_check_\w+)=\"\$\{\1:-(\d+)\}\"", script))


class RayNodes:
    """A cluster of both nodes; `close` ends it, whatever the link between them does.

    dashboard: start the head's, which `ray job` talks to.
    """

    def __init__(self, nodes: Nodes, folder: Path, *, dashboard: bool = False) -> None:
        self._nodes = nodes
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._number = 0
        self._dashboard = ["--include-dashboard=false"]
        if dashboard:
            self._dashboard = ["--include-dashboard=true", f"--dashboard-host={ADDRESSES[0]}"]
        self.variables = {"RAY_AUTH_MODE": "disabled", **health_checks()}
        self.address = f"{ADDRESSES[0]}:{PORT}"

    def open(self) -> None:
        self._number += 1
        head = ["--head", f"--node-ip-address={ADDRESSES[0]}", f"--port={PORT}", *self._dashboard]
        for name, words in zip(NAMES, (head, [f"--address={self.address}"]), strict=True):
            log = self._folder / f"ray-{name}-{self._number}.log"
            self._started.append(self._nodes.start(name, [*_START, *words], log, **self.variables))
            started = self._started[-1]

            def runs(log: Path = log, started: subprocess.Popen[bytes] = started) -> bool:
                assert started.poll() is None, log.read_text()[-4000:]
                return "Ray runtime started" in log.read_text()

            wait_until(runs, "Ray", _SECONDS, log)

    def close(self) -> None:
        for process in self._started:
            end_session(process)
        self._started = []
        for name in NAMES:
            self._nodes.end_all(name)


class Training:
    """A training run started on a node; its training workers, wherever they are, are seen by their titles."""

    def __init__(
        self, nodes: Nodes, cluster: RayNodes, folder: Path, log: Path, *overrides: str, node: str = NAMES[0]
    ) -> None:
        self.folder, self.log = folder, log
        words = [sys.executable, "-m", "actfocus_verl.train", f"run.dir={folder}", *overrides]
        variables = {**cluster.variables, "RAY_ADDRESS": cluster.address, "ACTFOCUS_JOB": "test"}
        self.process = nodes.start(node, words, log, **variables)
        self._nodes = nodes
        self._workers: list[int] = []

    def processes(self, title: str, *names: str) -> list[int]:
        """Ids of the processes with this in their title, on the nodes `names`."""
        return [pid for name in names for pid in self._nodes.pids(name) if title in _title(pid)]

    def workers_do(self) -> list[str]:
        """What each training worker is doing: the method's name, or nothing."""
        if len(self._workers) < len(NAMES):
            self._workers = self.processes("WorkerDict", *NAMES)
        return [_title(pid).partition(".")[2] for pid in self._workers]

    def steps(self) -> int:
        path = self.folder / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        def holds() -> object:
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.log.read_text()[-4000:]}"
            return condition()

        wait_until(holds, what, seconds, self.log, poll=0.02)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
