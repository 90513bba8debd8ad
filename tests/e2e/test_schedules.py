"""The asynchronous schedules, whole: stale episodes train, those cut off by an update go on, and a run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from actfocus_verl.reporting.run_folder import RunFolder
from tests.e2e.runs import Run

# Nightly: two starts each, and tests/integration/test_async_trainers.py compares the same trainers with sync.
pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(1800)]

COLOCATE = ("schedule=colocate_async", "trainer.v1.colocate_async.num_warmup_batches=1", "credit=actfocus")
SEPARATE = ("schedule=separate_async", "actor_rollout_ref.actor.ppo_mini_batch_size=2", "credit=actfocus")


def steps_of(start: Callable[..., Run], name: str, settings: Sequence[str], steps: int) -> RunFolder:
    run = start(name, *settings, f"trainer.total_training_steps={steps}", "trainer.save_freq=2")
    assert run.wait() == 0, run.terminal[-4000:]
    assert run.survivors() == []
    folder = RunFolder.open(run.folder)
    assert [line["step"] for line in folder.metrics] == list(range(1, steps + 1))
    return folder


def assert_weighted_and_stale(folder: RunFolder) -> None:
    for line in folder.metrics:
        assert line["credit/mean_weight/action"] > 4 * line["credit/mean_weight/reasoning"]
        assert line["staleness/log_ratio_sq/action"] >= 0
        assert 0 <= line["staleness/clipped_share/action"] <= 1
        assert sum(value for key, value in line.items() if key.startswith("stop/")) == pytest.approx(1)
    assert any(line["staleness/age"] > 0 for line in folder.metrics)


def test_colocate_async_trains_on_episodes_that_an_update_cut_off_and_resumes(start: Callable[..., Run]) -> None:
    steps_of(start, "colocate", COLOCATE, steps=2)
    folder = steps_of(start, "colocate", COLOCATE, steps=4)
    assert_weighted_and_stale(folder)
    assert any(line["training/off_policy/trajectory_spans/max"] > 1 for line in folder.metrics)
    record = json.loads((folder.path / "run.json").read_text())
    assert [entry["exit_reason"] for entry in record["starts"]] == ["finished", "finished"]


def test_separate_async_trains_beside_its_server_and_resumes(start: Callable[..., Run]) -> None:
    steps_of(start, "separate", SEPARATE, steps=2)
    folder = steps_of(start, "separate", SEPARATE, steps=4)
    assert_weighted_and_stale(folder)
    updates = [json.loads(line) for line in (folder.path / "local_updates.jsonl").read_text().splitlines()]
    assert [(line["step"], line["local_update"]) for line in updates] == [(s, u) for s in (1, 2, 3, 4) for u in (0, 1)]
    assert all(line["episodes"] == 8 for line in updates)
