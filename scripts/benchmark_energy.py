"""What the energy adds to a reference pass on this machine's CPU, by the size of the vocabulary. Writes a JSON file.

    .venv/bin/python scripts/benchmark_energy.py --rounds 15

verl's FSDP2 engine, float32, a model of three small layers, so that the logits are most of its work; packed rows. The
arms take turns: the pass without energy, with it as in training (temperature 1: from the log-probs), and with its own
reduction of the logits, as at other temperatures. Ratios are of one round's passes, their median with a 95 % bootstrap
interval over the rounds. Memory is what torch holds at its peak beyond the weights.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from benchmark import median_interval, write_result
from engine_bench import SMALL, Bench, alone, energy_flag, import_without_ray, infer, make_batch, peak_bytes
from gpu_checks import compare_passes

ROOT = Path(__file__).resolve().parents[1]
TOKENS = {1_000: 4096, 49_152: 1024, 151_936: 512}
"""In a pass, by vocabulary."""
ROW = 128


def measure(bench: Bench, vocabulary: int, rounds: int) -> dict[str, object]:
    lengths = [ROW] * (TOKENS[vocabulary] // ROW)
    with bench.engine(SMALL | {"vocab_size": vocabulary}, param_dtype="fp32") as engine:
        arms = compare_passes(bench, engine, vocabulary, lengths, len(lengths), rounds)
        passes = [partial(infer, engine, make_batch(vocabulary, lengths, **flags)) for flags in ({}, energy_flag())]
        less, more = map(peak_bytes, passes)
    ratios = {name: median_interval(arm["ratios"]) for name, arm in arms.items() if "ratios" in arm}
    seconds = {name: arm["seconds"] for name, arm in arms.items()}
    return {"tokens": TOKENS[vocabulary], "seconds": seconds, "ratios": ratios} | {
        "peak_memory_ratio": more / less,
        "peak_memory_mb": less / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmark")
    arguments = parser.parse_args()
    import_without_ray("cpu")
    with alone("cpu", tiny=False) as bench:
        measured = {vocabulary: measure(bench, vocabulary, arguments.rounds) for vocabulary in TOKENS}
    write_result(arguments.folder / "energy.json", measured)


if __name__ == "__main__":
    main()
