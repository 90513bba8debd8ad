"""What ActFocus costs: three arms interleaved step by step in one run, so that the machine's moods hit all of them.

    .venv/bin/python scripts/benchmark.py                      cost ratios (ten steps an arm), seconds a step by phase, tokens/s
    .venv/bin/python scripts/benchmark.py --packing            rollout tokens/s with and without vLLM's packed kernels

Arms: `uniform` (GRPO, reference pass on, uniform weights), `actfocus` (the same with the energy and its weights), and
`no_reference` (GRPO without a reference pass). Writes `benchmark.json` into the run's folder and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from scipy.stats import bootstrap

ROOT = Path(__file__).resolve().parents[1]
PHASES = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "step")
ARM_PHASES = ("ref", "adv", "update_actor")
"""What an arm can change; generation and the old-policy pass are the same in all of them."""
WARM_UP_STEPS = 3


def train(folder: Path, steps: int, *overrides: str, environment: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Run a training of the tiny policy and return its metrics."""
    command = [
        sys.executable,
        "-m",
        "actfocus_verl.train",
        f"run.dir={folder}",
        f"trainer.total_training_steps={steps}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        "trainer.save_freq=-1",
        "run.rollouts_a_step=0",
        *overrides,
    ]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | (environment or {}))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][WARM_UP_STEPS:]


def interleaved(folder: Path, steps_an_arm: int) -> dict[str, Any]:
    """Seconds a 1,000 tokens and peak memory by arm, and the ratios of neighbouring steps with their intervals."""
    lines = train(
        folder, WARM_UP_STEPS + 3 * steps_an_arm, "credit=actfocus", "trainer.v1.trainer_mode=actfocus_benchmark"
    )
    rounds = [lines[start : start + 3] for start in range(0, len(lines) - 2, 3)]
    by_arm = {name: [cost(line) for line in lines if line["benchmark/arm"] == name] for name in ARMS}
    peaks = {name: [line["benchmark/peak_memory_gb"] for line in lines if line["benchmark/arm"] == name] for name in ARMS}
    return {
        "steps_an_arm": steps_an_arm,
        "seconds_a_step": {phase: median(line.get(f"timing_s/{phase}", 0.0) for line in lines) for phase in PHASES},
        "rollout_tokens_a_second": median(rollout_speed(line) for line in lines),
        "seconds_a_1000_tokens": {name: median(values) for name, values in by_arm.items()},
        "peak_memory_gb": {name: max(values) for name, values in peaks.items()},
        "ratio_to_uniform": ratio(rounds, "actfocus", "uniform"),
        "ratio_to_no_reference": ratio(rounds, "actfocus", "no_reference"),
        "step_ratio_to_uniform": ratio(rounds, "actfocus", "uniform", cost=step_cost),
        "step_ratio_to_no_reference": ratio(rounds, "actfocus", "no_reference", cost=step_cost),
    }


ARMS = ("uniform", "actfocus", "no_reference")


def cost(line: dict[str, Any]) -> float:
    """Seconds a 1,000 trained tokens spent in the phases that an arm can change."""
    return 1000 * sum(line.get(f"timing_s/{phase}", 0.0) for phase in ARM_PHASES) / line["perf/total_num_tokens"]


def step_cost(line: dict[str, Any]) -> float:
    """Seconds a 1,000 trained tokens of the whole step."""
    return 1000 * line["timing_s/step"] / line["perf/total_num_tokens"]


def rollout_speed(line: dict[str, Any]) -> float:
    """Sampled tokens a second of the generation phase, the worlds' own time included."""
    sampled = sum(line[f"response_tokens/{role}"] for role in ("reasoning", "action", "format"))
    return float(sampled * line["episodes"] / line["timing_s/gen"])


def ratio(rounds: list[list[dict[str, Any]]], arm: str, base: str, cost: Any = cost) -> dict[str, float]:
    """Median over rounds of arm/base, with a 95 % bootstrap interval of that median."""
    values = []
    for lines in rounds:
        costs = {line["benchmark/arm"]: cost(line) for line in lines}
        values.append(costs[arm] / costs[base])
    interval = bootstrap((values,), median, confidence_level=0.95, method="percentile", rng=0).confidence_interval
    return {"median": median(values), "low": float(interval.low), "high": float(interval.high), "rounds": len(values)}


def packing(folder: Path, steps: int) -> dict[str, Any]:
    """Rollout tokens a second with vLLM's packed oneDNN kernels on and off, eager and compiled."""
    table = {}
    for packed in ("1", "0"):
        for eager in ("true", "false"):
            name = f"packed={packed} eager={eager}"
            lines = train(
                folder / name.replace(" ", "_").replace("=", "_"),
                WARM_UP_STEPS + steps,
                f"platform.env_vars.ACTFOCUS_VLLM_PREPACK='{packed}'",
                f"actor_rollout_ref.rollout.enforce_eager={eager}",
            )
            table[name] = {
                "tokens_a_second": median(rollout_speed(line) for line in lines),
                "log_prob_gap": max(abs(line["rollout_corr/kl"]) for line in lines),
                "largest_probability_gap": max(line["training/rollout_probs_diff_max"] for line in lines),
            }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packing", action="store_true", help="compare vLLM's packed kernels instead")
    parser.add_argument("--steps", type=int, default=10, help="steps an arm")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmark")
    arguments = parser.parse_args()
    result = packing(arguments.folder, arguments.steps) if arguments.packing else interleaved(arguments.folder, arguments.steps)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    name = "packing.json" if arguments.packing else "benchmark.json"
    (arguments.folder / name).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
