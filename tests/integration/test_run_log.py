"""A run's own records: what is written, and what an interrupted run's next start keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from actfocus_verl.credit.influence import METRICS, MovingInfluence
from actfocus_verl.integration.run_log import RunLog


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    config = {
        "run": {"dir": str(tmp_path / "run"), "rollouts_a_step": 2, "rollouts_every": 5},
        "env": {"seed": 3},
        "trainer": {"val_before_train": True},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0.5}}},
    }
    return RunLog(OmegaConf.create(config))


def lines(log: RunLog, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (log.folder / name).read_text().splitlines()]


def test_metrics_are_one_flat_object_a_step(log: RunLog) -> None:
    log.metrics(
        {"a": 1, "b": np.float64(0.5), "c": torch.tensor(2.0), "d": [1, 2], "e": float("nan"), "f": "x"}, step=1
    )
    log.metrics({"a": 2}, step=2)
    assert lines(log, "metrics.jsonl") == [
        {"step": 1, "a": 1, "b": 0.5, "c": 2.0, "e": None, "f": "x"},  # JSON has no NaN
        {"step": 2, "a": 2},
    ]


def test_evaluations_by_hand(log: RunLog) -> None:
    sources = ["frozen_lake/clean/evaluation"] * 4 + ["frozen_lake/clean/test"]
    infos = {
        "success": [1.0, 0.0, 0.0, 1.0, 1.0],
        "reward": [1.0, 0.0, -1.0, 1.0, 1.0],
        "valid_action_rate": [1.0, 1.0, 0.0, 1.0, 1.0],
        "outcome/score": [1.0, 0.5, 0.0, 1.0, 0.25],
    }
    log.evaluations(sources, ["u", "v", "w", "u", "z"], infos, step=10)

    evaluation, test = lines(log, "evaluations.jsonl")
    # Wilson, 2 of 4, z = 1.96: centre 0.5, half width 1.96 sqrt(0.25/4 + 1.96^2/64) / (1 + 1.96^2/4) = 0.3500
    assert evaluation.pop("ci_low") == pytest.approx(0.1500, abs=1e-4)
    assert evaluation.pop("ci_high") == pytest.approx(0.8500, abs=1e-4)
    assert evaluation == {
        "step": 10,
        "env": "frozen_lake",
        "preset": "clean",
        "split": "evaluation",
        "episodes": 4,
        "boards": 3,
        "successes": 2,
        "rate": 0.5,
        "mean_return": 0.25,
        "valid_action_rate": 0.75,
        "seed": 3,
        "temperature": 0.5,
        "outcome/score": 0.625,
    }
    assert (test["split"], test["episodes"], test["rate"]) == ("test", 1, 1.0)


def interrupted(log: RunLog, *, evaluated: tuple[int, ...]) -> None:
    """Records of a run that was killed in step 5, while it wrote."""
    for step in (1, 2, 3, 4):
        log.metrics({"loss": step / 10}, step)
    for step in evaluated:
        infos = {"success": [1.0], "reward": [1.0], "valid_action_rate": [1.0]}
        log.evaluations(["frozen_lake/clean/evaluation"], ["u"], infos, step)
    with (log.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')


def test_a_resumed_run_forgets_what_it_will_do_again(log: RunLog) -> None:
    interrupted(log, evaluated=(0, 2, 4))
    log.continue_from(2)
    assert [line["step"] for line in lines(log, "metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in lines(log, "evaluations.jsonl")] == [0]  # verl evaluates at 2 again


def test_an_evaluation_that_will_not_be_repeated_is_kept(log: RunLog) -> None:
    interrupted(log, evaluated=(0, 2, 4))
    log.evaluates_first = False
    log.continue_from(2)
    assert [line["step"] for line in lines(log, "evaluations.jsonl")] == [0, 2]


def test_a_step_that_was_saved_and_not_recorded_is_recorded_on_resuming(log: RunLog) -> None:
    """verl saves, evaluates, and records then: a kill between them must not lose the step."""
    log.metrics({"loss": 0.1, "timing_s/step": 3.0}, 1)
    log.played({"loss": 0.2, "rows": [1, 2]}, 2)
    assert log.recover(2)
    log.continue_from(2)
    assert lines(log, "metrics.jsonl") == [{"step": 1, "loss": 0.1, "timing_s/step": 3.0}, {"step": 2, "loss": 0.2}]
    assert not log.recover(2)  # once
    assert len(lines(log, "metrics.jsonl")) == 2


def test_a_step_whose_record_was_cut_short_is_recorded_whole(log: RunLog) -> None:
    log.metrics({"loss": 0.1}, 1)
    log.played({"loss": 0.2}, 2)
    with (log.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert log.recover(2)
    assert lines(log, "metrics.jsonl") == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.2}]


def test_a_step_that_will_be_played_again_is_not_recorded(log: RunLog) -> None:
    log.metrics({"loss": 0.1}, 1)
    log.played({"loss": 0.2}, 2)
    assert not log.recover(1)
    assert not (log.folder / "played_step.json").exists()
    assert lines(log, "metrics.jsonl") == [{"step": 1, "loss": 0.1}]


def test_a_recorded_step_is_not_recorded_twice(log: RunLog) -> None:
    log.played({"loss": 0.2}, 1)
    log.metrics({"loss": 0.2, "timing_s/step": 3.0}, 1)
    assert not (log.folder / "played_step.json").exists()
    log.played({"loss": 0.2}, 1)  # as if the kill had come before the file was removed
    assert not log.recover(1)
    assert lines(log, "metrics.jsonl") == [{"step": 1, "loss": 0.2, "timing_s/step": 3.0}]


def test_a_fresh_start_forgets_everything(log: RunLog) -> None:
    interrupted(log, evaluated=(0, 2))
    log.continue_from(0)
    assert lines(log, "metrics.jsonl") == []
    assert lines(log, "evaluations.jsonl") == []


def test_a_resumed_run_has_the_averages_of_an_undisturbed_one(log: RunLog) -> None:
    undisturbed = MovingInfluence()
    for step in range(1, 7):
        metrics = dict(zip(METRICS, (1 / (step + 2), step / 70, 0.5), strict=True))
        log.metrics(metrics, step)
        if step <= 4:
            undisturbed.add_step(metrics)
    log.continue_from(4)
    assert log.influence.value == undisturbed.value


def test_a_folder_without_records_is_left_alone(log: RunLog) -> None:
    log.continue_from(3)
    assert not log.folder.exists()


def test_episodes_of_no_world_have_no_success_rate(tmp_path: Path) -> None:
    config = {
        "run": {"dir": str(tmp_path / "run")},
        "env": {"name": "none", "seed": 3},
        "trainer": {},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"temperature": 0.5}}},
    }
    log = RunLog(OmegaConf.create(config))
    log.evaluations(["openai/gsm8k"], ["u"], {"reward": [1.0], "acc": [1.0]}, step=10)
    log.metrics({"a": 1}, step=10)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]
