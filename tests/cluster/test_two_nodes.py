"""Two nodes train together and compute what one computes; when one is cut off, the run says so, ends and resumes."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.cluster.nodes import ADDRESSES, NAMES, Nodes, wait_until
from tests.cluster.ray_nodes import RayNodes, Training
from tests.cluster.runs import TINY
from tests.helpers.engines import save_tiny_model

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(4500)]

START_SECONDS = 900
END_SECONDS = 60
"""How soon a run must have ended after a node was cut off."""
LOST_NODE = 75
_RANK = """
import sys
from pathlib import Path
from tests.helpers.engines import rank_gradients
rank, store, model, out = sys.argv[1:]
rank_gradients(int(rank), 2, Path(store), Path(model), 4, Path(out))
"""


@pytest.fixture
def cluster(nodes: Nodes, folder: Path) -> Iterator[RayNodes]:
    started = RayNodes(nodes, folder)
    yield started
    started.close()


def generating(run: Training) -> bool:
    """The workers have had nothing to do for a while, after a step: the servers have."""
    if run.steps() == 0 or any(run.workers_do()):
        return False
    time.sleep(0.5)
    return not any(run.workers_do())


def updating(run: Training) -> bool:
    return any("update_actor" in method for method in run.workers_do())


def saving(run: Training) -> bool:
    return any("save_checkpoint" in method for method in run.workers_do())


@pytest.mark.nightly  # five starts over two nodes
def test_a_node_that_is_cut_off_is_named_and_the_run_resumes(nodes: Nodes, cluster: RayNodes, folder: Path) -> None:
    phases: dict[str, Callable[[Training], bool]] = {"generation": generating, "update": updating, "save": saving}
    run = folder / "run"
    seconds = {}
    for number, (phase, reached) in enumerate(phases.items()):
        cluster.open()
        training = Training(nodes, cluster, run, folder / f"run-{number}.log", *TINY)
        training.wait_until(lambda reached=reached, training=training: reached(training), phase, START_SECONDS)
        nodes.cut(NAMES[1])
        cut = time.monotonic()
        status = training.process.wait(300)
        seconds[phase] = round(time.monotonic() - cut, 1)
        nodes.join(NAMES[1])
        text = training.log.read_text()
        logger.info("%s: ended after %.1f s with %d:\n%s", phase, seconds[phase], status, text[-1500:])
        assert status == LOST_NODE, text[-4000:]
        (error,) = [line for line in text.splitlines() if line.startswith("error: ")]
        assert NAMES[1] in error
        assert ADDRESSES[1] in error
        assert not (run / "claim.json").exists()
        cluster.close()
    assert max(seconds.values()) <= END_SECONDS, seconds

    cluster.open()
    last = Training(nodes, cluster, run, folder / "run-last.log", *TINY)
    assert last.process.wait(START_SECONDS) == 0, last.log.read_text()[-4000:]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    record = json.loads((run / "run.json").read_text())
    assert [start["exit_reason"].partition(":")[0] for start in record["starts"]] == [*["failed"] * 3, "finished"]
    assert record["ray"]["nodes"] == 2


@pytest.mark.nightly
def test_a_head_that_is_cut_off_from_the_command_is_named(nodes: Nodes, cluster: RayNodes, folder: Path) -> None:
    """Nothing that is asked of Ray comes back then, and after a minute Ray would end the command without a word."""
    run = folder / "headless"
    cluster.open()
    training = Training(nodes, cluster, run, folder / "headless.log", *TINY, node=NAMES[1])
    training.wait_until(training.steps, "step", START_SECONDS)
    nodes.cut(NAMES[0])
    cut = time.monotonic()
    status = training.process.wait(300)
    seconds = round(time.monotonic() - cut, 1)
    nodes.join(NAMES[0])
    text = training.log.read_text()
    logger.info("headless: ended after %.1f s with %d:\n%s", seconds, status, text[-1500:])
    assert status == LOST_NODE, text[-4000:]
    (error,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert NAMES[0] in error
    assert json.loads((run / "run.json").read_text())["exit_reason"] in error
    assert not (run / "claim.json").exists()
    assert seconds <= END_SECONDS


@pytest.mark.nightly
def test_a_part_that_dies_on_the_other_node_ends_the_run(nodes: Nodes, cluster: RayNodes, folder: Path) -> None:
    """An agent-loop worker takes its episodes with it without a word, and the driver's machine sees no process end."""
    run = folder / "parted"
    cluster.open()
    workers = "actor_rollout_ref.rollout.agent.num_workers=2"  # verl spreads them over the nodes
    training = Training(nodes, cluster, run, folder / "parted.log", *TINY, workers)
    training.wait_until(training.steps, "step", START_SECONDS)
    (killed, *_) = training.processes("AgentLoopWorker", NAMES[1])
    os.kill(killed, signal.SIGKILL)
    struck = time.monotonic()
    status = training.process.wait(300)
    seconds = round(time.monotonic() - struck, 1)
    text = training.log.read_text()
    logger.info("parted: ended after %.1f s with %d:\n%s", seconds, status, text[-1500:])
    assert status == 1, text[-4000:]
    (error,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert f"an agent-loop worker (node {NAMES[1]}) (process {killed}) died, so the run was ended." in error
    assert seconds <= END_SECONDS
    # Ray ends what the run's actors own; the cluster's own processes stay.
    parts = ("TaskRunner", "WorkerDict", "AgentLoopWorker", "HttpServer", "VLLM")
    wait_until(
        lambda: not any(training.processes(part, *NAMES) for part in parts), "no part", END_SECONDS, training.log
    )


def test_two_nodes_give_the_gradients_of_one_node_with_two_processes(nodes: Nodes, folder: Path) -> None:
    """To the bit: the same two ranks of verl's engine, side by side on one node, and one on each."""
    model = save_tiny_model(folder / "model")
    found = {}
    for case, places in {"one": (NAMES[0], NAMES[0]), "two": NAMES}.items():
        (folder / case).mkdir()
        before = sent(nodes)
        started = []
        for rank, name in enumerate(places):
            words = [sys.executable, "-c", _RANK, str(rank), str(folder / case), str(model), str(folder / f"{case}.pt")]
            started.append(nodes.start(name, words, folder / f"{case}-{rank}.log", VERL_PLATFORM="cpu"))
        statuses = [process.wait(600) for process in started]
        assert statuses == [0, 0], "\n".join((folder / f"{case}-{rank}.log").read_text() for rank in range(2))
        found[case] = torch.load(folder / f"{case}.pt")
        assert (sent(nodes) - before > 10_000) is (case == "two")
    assert found["one"].keys() == found["two"].keys()
    for name, gradient in found["one"].items():
        assert torch.equal(gradient, found["two"][name]), name
    assert max(float(gradient.abs().max()) for gradient in found["one"].values()) > 0.05


def sent(nodes: Nodes) -> int:
    """Bytes that the first node has sent to the second."""
    return int(nodes.call(NAMES[0], "cat", "/sys/class/net/actfocus-veth-a/statistics/tx_bytes"))
