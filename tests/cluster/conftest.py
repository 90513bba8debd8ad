"""What needs root, network namespaces and SLURM; only `-m cluster` runs it, and skips with a reason what is missing."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actfocus_verl.policies import TinyPolicyConfig, ensure_tiny_policy
from tests.cluster import slurm as slurms
from tests.cluster.nodes import Nodes, missing
from tests.cluster.slurm import Slurm
from tests.e2e.runs import ROOT


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Seen by all nodes, and short: paths of sockets lie below it.."""
    path = Path(tempfile.mkdtemp(prefix="cluster-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[Nodes]:
    problem = missing()
    if problem is not None:
        pytest.skip(problem)
    ensure_tiny_policy(TinyPolicyConfig(), ROOT / ".cache" / "tiny_policy")
    both = Nodes(folder)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit leaves no namespaces behind
    try:
        both.create()
        yield both
    finally:
        both.remove()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def slurm(nodes: Nodes, folder: Path) -> Slurm:
    problem = slurms.missing()
    if problem is not None:
        pytest.skip(problem)
    (folder / "slurm").mkdir()
    started = Slurm(nodes, folder / "slurm")
    started.start()
    return started
