"""Twenty steps of a plain openai agent with one tool, for several seeds: the curve at the end of docs/your_agent.md.

    python scripts/agent_curve.py --out results/agent/sums.json

The agent (`tests/helpers/framework_agents.py`) has the policy ask its tool for a sum, and the reward is that sum as a
share of the largest possible one; 0 where the call is no call. The policy, the tests' of sixty thousand weights, calls
well in about every second conversation at first, with numbers of its own choice. A seed takes three to five minutes on
two CPU cores. The gain is the mean reward of the last five steps less that of the first, which the untrained policy
plays; its interval is Student's over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the policy is a helper of the tests

from actfocus_verl.checks import finite_number  # noqa: E402
from actfocus_verl.reporting.statistics import mean_interval  # noqa: E402
from tests.helpers.tool_policy import write_tool_run  # noqa: E402

ENDS: Final = 5
REWARD, UNFINISHED, TURNS = "critic/score/mean", "episode/outcome/unfinished", "episode/turns"


def settings(steps: int, seed: int) -> list[str]:
    """The run's overrides, without its paths."""
    return [
        *("env=none", "agent=tests.helpers.framework_agents:play", "platform=cpu", f"run.seed={seed}"),
        *("data.train_batch_size=8", "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.actor.optim.lr=1e-3"),
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        *("data.max_prompt_length=64", "data.max_response_length=160", f"trainer.total_training_steps={steps}"),
        *("trainer.test_freq=-1", "trainer.val_before_train=false", "trainer.save_freq=-1", "run.rollouts_every=1000"),
    ]


def train(folder: Path, words: list[str], steps: int) -> list[dict[str, Any]]:
    """One run, unless the folder has it already; returns its metrics by step."""
    metrics, made_with = folder / "run" / "metrics.jsonl", folder / "settings.json"
    if metrics.exists() and json.loads(made_with.read_text()) == words:
        lines = metrics.read_text().splitlines()
        if len(lines) == steps:
            return [json.loads(line) for line in lines]
    folder.mkdir(parents=True)
    made_with.write_text(json.dumps(words))
    write_tool_run(folder, rows=16)
    files = [f"{key}={folder}/rows.jsonl" for key in ("data.train_files", "data.val_files")]
    paths = [f"run.dir={folder}/run", f"model.path={folder}/model", *files]
    with (folder / "terminal").open("w") as terminal:
        command = [sys.executable, "-m", "actfocus_verl.train", *words, *paths]
        subprocess.run(command, cwd=ROOT, check=True, stdout=terminal, stderr=subprocess.STDOUT)
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def summarise(rewards: dict[str, list[float]]) -> dict[str, Any]:
    """The gain by seed, its mean and its 95 % interval; one seed has none."""
    gains = {seed: statistics.fmean(curve[-ENDS:]) - curve[0] for seed, curve in rewards.items()}
    low, high = map(finite_number, mean_interval(list(gains.values())))
    return {"gain": gains, "mean_gain": statistics.fmean(gains.values()), "ci_low": low, "ci_high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--work", type=Path, help="folder of the runs, which keeps finished ones; default: a temporary one"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    curves: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.seeds:
            folder = (options.work or Path(temporary)).resolve() / f"seed{seed}"
            lines = train(folder, settings(options.steps, seed), options.steps)
            curves[str(seed)] = {key: [round(line[key], 4) for line in lines] for key in (REWARD, TURNS, UNFINISHED)}
    result = {
        "command": f"python scripts/agent_curve.py --steps {options.steps} --seeds {' '.join(map(str, options.seeds))}",
        "settings": settings(options.steps, 0),
        "curves": curves,
        **summarise({seed: curve[REWARD] for seed, curve in curves.items()}),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("mean_gain", "ci_low", "ci_high")}))


if __name__ == "__main__":
    main()
