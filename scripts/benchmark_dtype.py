"""Whether bfloat16 or torch.compile makes a pretrained model faster on this machine's CPU. Writes a JSON file.

    .venv/bin/python scripts/benchmark_dtype.py --rounds 5

verl's FSDP2 engine with random weights of SmolLM2-135M's sizes; packed rows. A pass is the one that recomputes
log-probs, an update is forward and backward of a micro-batch. The arms take turns: float32 and bfloat16 as
`platform.dtype` sets them, each also with the model compiled. Ratios are of one round's seconds to float32's, their
median with a 95 % bootstrap interval over the rounds. The first round is for the compiler, and counted apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark import median_interval, write_result
from engine_bench import Bench, alone, import_without_ray, infer, make_batch, token_weighted_loss

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
"""SmolLM2-135M's sizes; its layers are Llama's, which differ from Qwen2's by a bias."""
ARMS = ("float32", "bfloat16", "float32 compiled", "bfloat16 compiled")
KINDS = ("pass", "update")
Seconds = dict[tuple[str, str], list[float]]


@contextmanager
def engine_of(bench: Bench, arm: str) -> Iterator[Any]:
    dtype, _, compiled = arm.partition(" ")
    with bench.engine(SMOLLM2, param_dtype=dtype) as engine:
        if compiled:
            engine.module.compile(dynamic=True)
        yield engine


def update(engine: Any, batch: Any, loss: Callable[..., Any]) -> None:
    with engine.train_mode():
        engine.optimizer_zero_grad()
        engine.forward_backward_batch(batch, loss)


def measure(bench: Bench, rounds: int, lengths: list[int]) -> tuple[Seconds, dict[str, float]]:
    """Seconds of each kind and arm in each round, and the first round's, of both kinds, by arm."""
    batch, loss = make_batch(SMOLLM2["vocab_size"], lengths), token_weighted_loss()
    seconds: Seconds = {(kind, arm): [] for kind in KINDS for arm in ARMS}
    with ExitStack() as stack:
        engines = {arm: stack.enter_context(engine_of(bench, arm)) for arm in ARMS}
        first = dict.fromkeys(ARMS, 0.0)
        for turn in range(rounds + 1):
            for arm in ARMS if turn % 2 else ARMS[::-1]:
                for kind in KINDS:
                    begun = time.perf_counter()
                    if kind == "pass":
                        infer(engines[arm], batch)
                    else:
                        update(engines[arm], batch, loss)
                    taken = time.perf_counter() - begun
                    if turn:
                        seconds[kind, arm].append(taken)
                    else:
                        first[arm] += taken
    return seconds, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmark")
    arguments = parser.parse_args()
    import_without_ray("cpu")
    with alone("cpu", tiny=False) as bench:
        seconds, first = measure(bench, arguments.rounds, [arguments.length] * arguments.rows)
    measured = {
        kind: {
            arm: {
                "seconds": median(seconds[kind, arm]),
                "ratio": median_interval(
                    [ours / plain for ours, plain in zip(seconds[kind, arm], seconds[kind, "float32"], strict=True)]
                ),
            }
            for arm in ARMS
        }
        for kind in KINDS
    }
    shape = {"rows": arguments.rows, "tokens of each": arguments.length, "threads": torch.get_num_threads()}
    capability = torch.backends.cpu.get_cpu_capability()
    write_result(
        arguments.folder / "dtype.json",
        measured | {"first round's seconds": first, "batch": shape, "cpu": capability, "torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
