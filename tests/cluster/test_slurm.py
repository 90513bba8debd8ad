"""recipes/cluster/slurm.sh as SLURM runs it: two nodes train, the time limit requeues the job, and it resumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.nodes import NAMES, wait_until
from tests.cluster.runs import CPU_NODE, TINY
from tests.cluster.slurm import Slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

SECONDS = 900


def test_the_recipe_trains_over_two_nodes_is_requeued_and_resumes(slurm: Slurm, folder: Path) -> None:
    run, log = folder / "run", folder / "job.log"
    train = [sys.executable, "-m", "actfocus_verl.train", f"run.dir={run}", *TINY]
    job = slurm.call(
        *("env", f"RAY_START_OPTIONS={CPU_NODE}"),
        *("sbatch", "--parsable", "--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={log}"),
        *("recipes/cluster/slurm.sh", *train),
    )
    metrics, tracker = run / "metrics.jsonl", run / "checkpoints" / "latest_checkpointed_iteration.txt"
    wait_until(tracker.exists, "checkpoint", SECONDS, log)
    slurm.call("scancel", "--signal=USR1", "--batch", job)  # as --signal does before the time limit
    wait_until(lambda: slurm.job(job)["Restarts"] == "1", "requeue", 90, log)
    first = json.loads((run / "run.json").read_text())
    assert first["exit_reason"] == "interrupted"
    done = len(metrics.read_text().splitlines())
    slurm.start_requeued(job)
    wait_until(lambda: slurm.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), "end", SECONDS, log)

    assert slurm.job(job)["JobState"] == "COMPLETED", log.read_text()[-4000:]
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [1, 2, 3]
    assert 1 <= done < 3
    record = json.loads((run / "run.json").read_text())
    assert [start["exit_reason"] for start in record["starts"]] == ["interrupted", "finished"]
    assert record["ray"]["joined"]
    assert (record["ray"]["nodes"], record["ray"]["gpus"]) == (2, 2.0)
    shards = {path.name for path in (run / "checkpoints" / "global_step_3" / "actor").glob("model_*.pt")}
    assert shards == {f"model_world_size_2_rank_{rank}.pt" for rank in range(2)}
    assert NAMES[0] in slurm.job(job)["NodeList"]
