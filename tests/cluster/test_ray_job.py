"""recipes/cluster/ray.sh as a user types it: a job of a cluster that already runs trains over its two nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import ADDRESSES, NAMES, Nodes, wait_until
from tests.cluster.ray_nodes import RayNodes
from tests.cluster.runs import TINY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SECONDS = 900
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture
def cluster(nodes: Nodes, folder: Path) -> Iterator[RayNodes]:
    started = RayNodes(nodes, folder, dashboard=True)
    started.open()
    yield started
    started.close()


def test_a_submitted_job_trains_over_two_nodes(nodes: Nodes, cluster: RayNodes, folder: Path) -> None:
    run = folder / "job"
    variables = {**cluster.variables, "RAY_ADDRESS": f"http://{ADDRESSES[0]}:8265"}
    train = [sys.executable, "-m", "actfocus_verl.train", f"run.dir={run}", *TINY, "trainer.total_training_steps=2"]
    said = nodes.call(NAMES[0], "bash", "recipes/cluster/ray.sh", *train, **variables)
    job = said.split()[-1]
    assert job.startswith("actfocus-")

    def status() -> str:
        """succeeded, failed or stopped; until then a sentence that ends with PENDING or RUNNING."""
        words = nodes.call(NAMES[0], RAY, "job", "status", job, **variables)
        return next((end for end in ("succeeded", "failed", "stopped") if end in words), "")

    wait_until(status, "the job's end", SECONDS, run / "train.log", poll=5.0)
    logs = nodes.call(NAMES[0], RAY, "job", "logs", job, **variables)
    assert status() == "succeeded", logs[-4000:]
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    record = json.loads((run / "run.json").read_text())
    assert record["exit_reason"] == "finished"
    assert (record["ray"]["joined"], record["ray"]["nodes"]) == (True, 2)
    assert "step 2: success" in logs  # what the run says reaches `ray job logs`
