"""A run folder as a training run writes it."""

import json
from pathlib import Path

import pytest


def evaluation(step, successes, ci, **changes):
    episodes = changes.pop("episodes", 512)
    record = {
        "step": step,
        "env": "frozen_lake",
        "preset": "clean",
        "split": "test",
        "episodes": episodes,
        "successes": successes,
        "rate": successes / episodes,
        "ci_low": ci[0],
        "ci_high": ci[1],
        "mean_return": 0.1,
        "seed": 0,
        "temperature": 0.5,
    }
    return record | changes


EVALUATIONS = (
    evaluation(0, 138, (0.2333, 0.3100)),
    evaluation(20, 180, (0.3115, 0.3940)),
    evaluation(40, 231, (0.4086, 0.4944)),
)


def write_jsonl(file: Path, records) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def run_path(tmp_path):
    folder = tmp_path / "outputs" / "quickstart" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("credit: {name: actfocus, alpha: 0.1}\n", encoding="utf-8")
    (folder / "run.json").write_text('{"exit_reason": "finished"}', encoding="utf-8")
    write_jsonl(folder / "metrics.jsonl", [{"step": 1, "a/b": 0.5}, {"step": 2, "a/b": float("nan")}])
    write_jsonl(folder / "evaluations.jsonl", EVALUATIONS)
    write_jsonl(folder / "rollouts" / "10.jsonl", [{"text": "é"}])
    write_jsonl(folder / "rollouts" / "9.jsonl", [{"text": "a"}, {"text": "b"}])
    return folder


@pytest.fixture
def make_evaluation():
    return evaluation


@pytest.fixture
def write():
    return write_jsonl
