"""A run that joins a Ray cluster which already ran: its workers do not inherit the environment of the command."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from actfocus_verl.launch.shutdown import end_processes
from tests.e2e.runs import ROOT, START_SECONDS, Run, _environment

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1800)]


class Cluster:
    """Ray's processes as `ray start` starts them, in a folder and on a port of their own, ended by their ids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        self._started: list[psutil.Process] = []

    def start_node(self, *arguments: str, **variables: str) -> None:
        """Start one more node, the first as head, and wait until the cluster has it."""
        place = [f"--address={self.address}"] if self._started else ["--head", f"--port={self.port}"]
        place += [] if self._started else [f"--temp-dir={self._folder}", "--include-dashboard=false"]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        log = self._folder / f"start-{len(self._started)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*ray, *place, *arguments],
                cwd=ROOT,
                env=_environment() | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(psutil.Process(process.pid))
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)

    def close(self) -> None:
        processes = [child for process in self._started for child in process.children(recursive=True)]
        end_processes([*self._started, *processes])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node. Without Ray's tokens, which a machine has or has not from what ran on it before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield from _cluster()


def _cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets have paths below it
    started = Cluster(folder)
    try:
        started.start_node("--num-cpus=16", "--num-gpus=1")
        yield started
    finally:
        started.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_run_on_a_cluster_that_already_ran(start: Callable[..., Run], cluster: Cluster) -> None:
    run = start("joined", f"ray_kwargs.ray_init.address={cluster.address}")
    assert run.wait() == 0, run.terminal[-4000:]
    ray = json.loads((run.folder / "run.json").read_text())["ray"]
    assert ray.pop("address").rpartition(":")[2] == cluster.port
    assert ray == {"joined": True, "nodes": 1, "cpus": 16.0, "gpus": 1.0}
    assert re.search(rf"Ray: joined the cluster at \S+:{cluster.port}: 1 node, 16 CPUs, 1 GPUs", run.terminal)
    assert run.steps() == 2  # on the CPU platform, which the workers have from the configuration alone
    assert list((run.folder / "tensorboard").rglob("events.*"))
    assert not (ROOT / "tensorboard_log").exists()


def test_a_node_with_another_verl_is_named_before_models_load(
    start: Callable[..., Run], cluster: Cluster, tmp_path: Path
) -> None:
    metadata = tmp_path / "other" / "verl-0.9.99.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.9.99\n")
    path = os.pathsep.join([str(tmp_path / "other"), os.environ.get("PYTHONPATH", "")])
    cluster.start_node("--num-cpus=2", PYTHONPATH=path)

    run = start("different", f"ray_kwargs.ray_init.address={cluster.address}")
    assert run.wait() == 1
    (line,) = [line for line in run.terminal.splitlines() if line.startswith("error: ")]
    assert "error: failed: the nodes of the cluster differ: node " in line
    assert line.endswith(" has verl 0.9.99, and this machine 0.9.1")
    assert not (run.folder / "metrics.jsonl").exists()
