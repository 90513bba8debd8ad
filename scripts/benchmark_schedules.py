"""Seconds per trained token of schedule=sync and colocate_async, on episodes with a long tail. Writes and prints JSON.

    .venv/bin/python scripts/benchmark_schedules.py --rounds 3

Both arms take turns in one run (`benchmark_schedule_trainer.py`), so that a machine's moods cost both the same. The
world is FrozenLake with up to TURNS turns of one action: most episodes end in a hole or at the goal within a few turns,
and some wander to the limit. Half a batch of groups is in flight in the asynchronous arm. Ratios are taken of a round's
blocks; their median has a 95 % bootstrap interval over rounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark import Line, median_interval, run_training, write_result
from benchmark_schedule_trainer import MODE, PHASES

ROOT = Path(__file__).resolve().parents[1]
TURNS = 20
ARMS = ("sync", "colocate_async")


def measure(folder: Path, rounds: int, overrides: list[str]) -> dict[str, Any]:
    lines = run_training(
        "benchmark_schedule_trainer",
        folder / "run",
        *("model=tiny", "platform=cpu", "schedule=colocate_async", f"trainer.v1.trainer_mode={MODE}"),
        *("env=frozen_lake", "credit=actfocus", "env.max_turn_tokens=64", "run.rollouts_a_step=0"),
        *(f"env.max_turns={TURNS}", f"env.max_actions_per_episode={TURNS}", "env.max_actions_per_turn=1"),
        *("data.train_batch_size=8", "actor_rollout_ref.rollout.n=4"),
        *(f"trainer.total_training_steps={rounds * len(PHASES)}", "trainer.v1.colocate_async.num_warmup_batches=0"),
        *overrides,
    )
    return summary(lines)


def summary(lines: list[Line]) -> dict[str, Any]:
    """Medians over rounds of what a block of each arm took, and of their ratio."""
    rounds = [
        {arm: [line for line in lines[start : start + len(PHASES)] if phase(line) == arm] for arm in ARMS}
        for start in range(0, len(lines) - len(PHASES) + 1, len(PHASES))
    ]
    costs = [{arm: seconds_a_token(block) for arm, block in each.items()} for each in rounds]
    blocks = {arm: [line for each in rounds for line in each[arm]] for arm in ARMS}
    return {
        "rounds": len(rounds),
        "seconds_a_trained_token": {arm: median_interval([each[arm] for each in costs]) for arm in ARMS},
        "colocate_async_over_sync": median_interval([each["colocate_async"] / each["sync"] for each in costs]),
        "mean": {
            name: {arm: mean(blocks[arm], key) for arm in ARMS}
            for name, key in (
                ("turns", "episode/turns"),
                ("most_turns", "training/num_turns/max"),
                ("generation_seconds", "timing_s/gen"),
                ("step_seconds", "timing_s/step"),
                ("age", "staleness/age"),
                ("versions_an_episode_spans", "training/off_policy/trajectory_spans/mean"),
            )
        },
    }


def phase(line: Line) -> str:
    return PHASES[int(line["benchmark/phase"])]


def seconds_a_token(block: list[Line]) -> float:
    """Of whole steps, over the tokens that they trained on, prompts and observations included, as verl counts them."""
    return float(sum(line["timing_s/step"] for line in block) / sum(line["perf/total_num_tokens"] for line in block))


def mean(block: list[Line], key: str) -> float:
    return float(sum(line[key] for line in block) / len(block))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    default = ROOT / "outputs" / "benchmark_schedules"
    parser.add_argument("--folder", type=lambda text: Path(text).absolute(), default=default)
    parser.add_argument("overrides", nargs="*", help="overrides of the training's configuration")
    arguments = parser.parse_intermixed_args()
    measured = measure(arguments.folder, arguments.rounds, arguments.overrides)
    write_result(arguments.folder / "schedules.json", measured)


if __name__ == "__main__":
    main()
