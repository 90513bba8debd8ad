"""In the place of `python -m actfocus_verl.train`: writes a run's folder step by step, a checkpoint every other step.

Standard library only, so that it starts fast. Its figures depend on seed and step alone, so a run that was broken off
and resumed must end as one that was not. `journal`, beside the matrix's folder, gets a line a step that was ever done,
and `overlap` appears when two of these work in one folder.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

STEPS, EVERY = 8, 2


def main() -> int:
    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    folder, seed = Path(given["run.dir"]), int(given["run.seed"])
    journal = Path(os.environ["STAND_IN_JOURNAL"])
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, journal)
    (folder / "config.yaml").write_text(config(given))
    record = start_record(folder)
    if (fails := os.environ.get("STAND_IN_FAILS")) and fails in cell(given):
        write(folder / "run.json", record | {"exit_reason": "failed: as told"})
        return int(os.environ.get("STAND_IN_STATUS", "1"))
    tracker = folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.parent.mkdir(exist_ok=True)
    step = int(tracker.read_text()) if tracker.exists() else 0
    for name, last in (("metrics.jsonl", step), ("evaluations.jsonl", step - 1)):
        keep(folder / name, last)
    evaluate(folder, seed, step)
    while step < STEPS:
        time.sleep(float(os.environ.get("STAND_IN_STEP_SECONDS", "0.01")))
        step += 1
        line = {"step": step, "episode/success_rate": figure(seed, step), "timing_s/step": 1.0, "not/kept": 1}
        append(folder / "metrics.jsonl", line)
        append(journal, {"run": given["run.dir"], "step": step})
        if step % EVERY == 0:
            tracker.with_suffix(".tmp").write_text(str(step))
            tracker.with_suffix(".tmp").replace(tracker)
    evaluate(folder, seed, step)
    (folder / "active").unlink()
    record |= {"exit_reason": "finished", "ended": "2026-01-01T00:01:00+00:00"}
    record["starts"][-1] |= {"ended": record["ended"]}
    write(folder / "run.json", record)
    return 0


def claim(folder: Path, journal: Path) -> None:
    """Notice a second process in the folder, as a lock that does not lock would let in."""
    active = folder / "active"
    if active.exists() and is_alive(int(active.read_text() or 0)):
        journal.with_name("overlap").touch()
    active.write_text(str(os.getpid()))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def cell(given: dict[str, str]) -> str:
    """What tells the cell of a matrix: the name that it gives its runs, or its experiment's."""
    return given.get("run.name", given["experiment"])


def config(given: dict[str, str]) -> str:
    name = cell(given)
    return json.dumps(
        {
            "env": {"name": "frozen_lake", "preset": "clean", "train_size": 64},
            "algorithm_name": "grpo",
            "credit": {"name": "actfocus" if "actfocus" in name else "uniform"},
            "filter": {"name": "none", "ratio": 1.0},
            "platform": {"name": "cpu"},
            "tiny_policy": {"env": "frozen_lake"},
            "model": {"path": os.environ.get("STAND_IN_POLICY")},
            "data": {"train_batch_size": 8},
            "actor_rollout_ref": {"actor": {"optim": {"lr": 1e-4}}, "rollout": {"n": 8}},
            "trainer": {"total_training_steps": STEPS, "test_freq": STEPS},
        }
    )


def start_record(folder: Path) -> dict:
    """run.json as launch/record.py writes it."""
    path = folder / "run.json"
    earlier = json.loads(path.read_text())["starts"] if path.exists() else []
    start = {"started": "2026-01-01T00:00:00+00:00", "ended": None}
    record = start | {"exit_reason": "running", "starts": [*earlier, start], "machine": {"cores": 2}}
    write(path, record)
    return record


def evaluate(folder: Path, seed: int, step: int) -> None:
    successes = 100 + 10 * step + seed
    entry = {"step": step, "env": "frozen_lake", "preset": "clean", "split": "evaluation", "episodes": 512}
    entry |= {"successes": successes, "rate": successes / 512, "ci_low": 0.0, "ci_high": 1.0, "mean_return": 0.1}
    append(folder / "evaluations.jsonl", entry | {"seed": seed, "temperature": 0.5, "valid_action_rate": 1.0})


def figure(seed: int, step: int) -> float:
    return random.Random(1000 * seed + step).random()


def keep(path: Path, last: int) -> None:
    if path.exists():
        lines = [line for line in path.read_text().split("\n")[:-1] if json.loads(line)["step"] <= last]
        path.with_suffix(".tmp").write_text("".join(line + "\n" for line in lines))
        path.with_suffix(".tmp").replace(path)


def append(path: Path, entry: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def write(path: Path, content: dict) -> None:
    path.with_suffix(".tmp").write_text(json.dumps(content))
    path.with_suffix(".tmp").replace(path)


if __name__ == "__main__":
    sys.exit(main())
