"""What an update's communication costs on this machine, by the number of processes. Writes a JSON file.

    .venv/bin/python scripts/benchmark_scaling.py

N processes of one thread make an update each of verl's FSDP2 engine on the same number of rows: together, as the ranks
of one group that shards the model over gloo, and apart, as N groups of one. Both wait for the machine's cores alike, so
the ratio of their seconds is what belonging together costs. The two take turns; a ratio is that of neighbours, and
their median has a 95 % bootstrap interval over all rounds and repeats. Float32, a model of three small layers (0.7
million parameters): the smaller the model, the larger the share of communication.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmark import median_interval, write_result
from engine_bench import SMALL, Bench, import_without_ray, make_batch, token_weighted_loss

ROOT = Path(__file__).resolve().parents[1]
ROWS, TOKENS = 8, 128
"""Of each process."""
WARM_UP = 2
PATIENCE = timedelta(minutes=10)


def updates(bench: Bench, rounds: int, world_size: int, start: dist.Store, processes: int, key: str) -> list[float]:
    """Seconds of each update after the warm-up, which all processes begin at the same time."""
    lengths, loss, seconds = [TOKENS] * ROWS, token_weighted_loss(), []
    with bench.engine(SMALL, param_dtype="fp32") as engine, engine.train_mode():
        for number in range(WARM_UP + rounds):
            batch = make_batch(SMALL["vocab_size"], lengths, global_batch_size=ROWS * world_size)
            start.add(f"{key}/{number}", 1)
            while int(start.add(f"{key}/{number}", 0)) < processes:
                time.sleep(0.001)
            began = time.perf_counter()
            engine.optimizer_zero_grad()
            engine.forward_backward_batch(batch, loss)
            engine.optimizer_step()
            seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def process(rank: int, processes: int, rounds: int, repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    import_without_ray("cpu")
    start = dist.FileStore(f"{folder}/start", processes)
    start.set_timeout(PATIENCE)
    measured: dict[str, list[list[float]]] = {"together": [], "apart": []}
    for repeat in range(repeats):
        for arm, found in measured.items():
            together = arm == "together"
            store = f"{folder}/{arm}{repeat}" + ("" if together else f"-{rank}")
            world_size = processes if together else 1
            dist.init_process_group(
                "cpu:gloo",
                init_method=f"file://{store}",
                rank=rank if together else 0,
                world_size=world_size,
                timeout=PATIENCE,
            )
            scratch = Path(folder) / f"models-{arm}{repeat}-{rank}"
            bench = Bench("cpu", tiny=False, folder=scratch)
            found.append(updates(bench, rounds, world_size, start, processes, f"{arm}{repeat}"))
            dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(measured))


def measure(processes: int, rounds: int, repeats: int) -> dict[str, Any]:
    """An update takes as long as its slowest process."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, args=(processes, rounds, repeats, folder), nprocs=processes)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    slowest = {arm: torch.tensor([each[arm] for each in found]).amax(dim=0).flatten() for arm in ("together", "apart")}
    ratios = (slowest["together"] / slowest["apart"]).tolist()
    return {arm: float(seconds.median()) for arm, seconds in slowest.items()} | {"ratio": median_interval(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmark")
    arguments = parser.parse_args()
    measured = {count: measure(count, arguments.rounds, arguments.repeats) for count in arguments.processes}
    write_result(arguments.folder / "scaling.json", measured)


if __name__ == "__main__":
    main()
