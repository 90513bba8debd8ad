"""Sampled tokens a second: a training run's generation, and vLLM alone on the same conversations. Writes JSON.

    .venv/bin/python scripts/benchmark_rollout.py --rounds 2

A round is a training run of the experiment (`benchmark_rollout_trainer.py` says what generation took, and which process
computed how much meanwhile), then vLLM alone, with the same settings in a process of its own: it gets the prompts of a
step all at once, and each reply's continuation at once, as the world would have answered, and samples as many tokens a
reply as the run did. Steps are paired; their ratio has a 95 % bootstrap interval. The first step of either is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import CPU_PLATFORM, cpu_engine, median_interval, run_training, write_result
from benchmark_rollout_trainer import MODE
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 1
CPU_SECONDS = "benchmark/cpu_seconds/"


@dataclass(frozen=True)
class Conversation:
    """A recorded one, as vLLM alone repeats it."""

    prompt: list[int]
    replies: list[tuple[int, list[int]]]
    """Tokens sampled for each reply, and the ids that followed it, which nobody sampled."""

    @property
    def sampled(self) -> int:
        return sum(count for count, _ in self.replies)


def conversations(file: Path) -> list[Conversation]:
    """Those of a step's `rollouts/<step>.jsonl`."""
    found = []
    for row in map(json.loads, file.read_text().splitlines()):
        runs: list[tuple[int, list[int]]] = []
        for sampled, tokens in groupby(
            zip(row["response_mask"], row["responses"], strict=True), key=lambda token: bool(token[0])
        ):
            ids = [identifier for _, identifier in tokens]
            if sampled:
                runs.append((len(ids), []))
            else:
                runs[-1][1].extend(ids)
        found.append(Conversation(row["prompt_ids"], runs))
    return found


def train(experiment: str, folder: Path, steps: int, overrides: Sequence[str]) -> list[dict[str, float]]:
    """The metrics of a run's steps, whose conversations are all in `folder`."""
    return run_training(
        "benchmark_rollout_trainer",
        folder,
        *(f"experiment={experiment}", "filter.ratio=1", f"trainer.v1.trainer_mode={MODE}"),
        *(f"trainer.total_training_steps={steps}", "run.rollouts_every=1", "run.rollouts_a_step=100000", *overrides),
    )


def alone(folder: Path) -> list[float]:
    """Seconds that vLLM alone takes for each step of the run in `folder`."""
    environment = os.environ | dict(OmegaConf.load(CPU_PLATFORM).platform.env_vars)
    command = [sys.executable, __file__, "--alone", str(folder)]
    result = subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return list(json.loads(result.stdout.splitlines()[-1]))


async def repeat(folder: Path) -> list[float]:
    """As `alone`, in this process."""
    config = OmegaConf.load(folder / "config.yaml")
    rollout, data = config.actor_rollout_ref.rollout, config.data
    engine = cpu_engine(
        config.actor_rollout_ref.model.path, data.max_prompt_length + data.max_response_length, rollout, {}
    )
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    async def converse(conversation: Conversation, name: str) -> None:
        ids = conversation.prompt
        for turn, (count, answer) in enumerate(conversation.replies):
            sampling = SamplingParams(
                temperature=rollout.temperature,
                max_tokens=count,
                logprobs=0,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            async for output in engine.generate({"prompt_token_ids": ids}, sampling, f"{name}-{turn}"):
                ids = [*ids, *output.outputs[0].token_ids, *answer]

    seconds = []
    for file in steps_of(folder):
        started = time.perf_counter()
        recorded = enumerate(conversations(file))
        await asyncio.gather(*(converse(each, f"{file.stem}-{number}") for number, each in recorded))
        seconds.append(time.perf_counter() - started)
        await engine.reset_prefix_cache()  # the run's new weights empty it
    engine.shutdown()
    return seconds


def steps_of(folder: Path) -> list[Path]:
    return sorted((folder / "rollouts").glob("*.jsonl"), key=lambda file: int(file.stem))


def measure(experiment: str, folder: Path, rounds: int, steps: int, overrides: Sequence[str]) -> dict[str, Any]:
    ratios, speeds, cpu = [], defaultdict(list), defaultdict(list)
    for number in range(rounds):
        run = folder / f"run{number}"
        lines, seconds = train(experiment, run, WARM_UP_STEPS + steps, overrides), alone(run)
        for line, file, own in list(zip(lines, steps_of(run), seconds, strict=True))[WARM_UP_STEPS:]:
            taken = line["benchmark/generation_seconds"]
            sampled = sum(each.sampled for each in conversations(file))
            speeds["training"].append(sampled / taken)
            speeds["vllm_alone"].append(sampled / own)
            ratios.append(own / taken)
            for key in line:
                if key.startswith(CPU_SECONDS):
                    cpu[key.removeprefix(CPU_SECONDS)].append(line[key] / taken)
    return {
        "steps": len(ratios),
        "tokens_a_second": {name: median_interval(found) for name, found in speeds.items()},
        "training_over_vllm_alone": median_interval(ratios),
        "cores_busy": {name: round(median(shares), 3) for name, shares in cpu.items() if median(shares) >= 0.005},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="quickstart", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of a round")
    default = ROOT / "outputs" / "benchmark_rollout"
    parser.add_argument("--folder", type=lambda text: Path(text).absolute(), default=default)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="overrides of the training's configuration")
    arguments = parser.parse_intermixed_args()
    if arguments.alone:
        print("\n" + json.dumps(asyncio.run(repeat(arguments.alone))))
        return
    measured = measure(arguments.experiment, arguments.folder, arguments.rounds, arguments.steps, arguments.overrides)
    write_result(arguments.folder / "rollout.json", measured)


if __name__ == "__main__":
    main()
