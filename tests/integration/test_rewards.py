"""Rewards that are no numbers, in a step and in an evaluation: the run ends with whose they are, or goes on without."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.columns import NO_NUMBER
from actfocus_verl.integration.rewards import CheckedRewards
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import composed
from tests.helpers.queue import LocalQueue
from tests.helpers.trainer import SECONDS, MakeTrainer, to_advantages

Rows = dict[str, dict[str, Any]]
DROP = "run.drop_nonfinite=true"
JUDGE = "reward.custom_reward_function.path=judge.py"


@pytest.fixture
def rows(rows: Rows) -> Rows:
    """Both groups know whose boards they are."""
    return {key: row | {"data_source": f"board-{row['uid']}"} for key, row in rows.items()}


def spoil(rows: Rows, key: str, value: float, given: str | None = None) -> None:
    rows[key]["rm_scores"] = rows[key]["rm_scores"].clone()
    rows[key]["rm_scores"][-1] = value
    if given is not None:
        extra = rows[key]["extra_fields"]
        info = extra["reward_extra_info"] | {NO_NUMBER: given}
        rows[key]["extra_fields"] = extra | {"reward_extra_info": info}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_ends_with_whose_it_is(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, value: float) -> None:
    spoil(rows, "b_1_0", value)
    with pytest.raises(ConfigurationError) as caught:
        make_trainer("credit=uniform", JUDGE)._balance_batch(queue.fill(rows), metrics={})
    assert str(caught.value) == (
        "run.drop_nonfinite=False: 1 of 6 episodes of step 1 have a reward that is not a finite number "
        f"(1 x {value}), from the reward function judge.py:compute_score; data source board-b; rows b_1_0. "
        "Let it give a finite number for every episode, "
        "or set run.drop_nonfinite=true to drop the prompt groups of such episodes"
    )
    assert set(queue.rows) == set(rows)  # nothing is lost


def test_many_are_counted_and_a_few_named(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    for key in ("a_0_0", "a_1_0", "a_2_0"):
        spoil(rows, key, math.nan, "None")
    spoil(rows, "b_0_0", math.nan, "'7/10'")
    with pytest.raises(ConfigurationError, match=r"4 of 6 episodes .*\(3 x None, 1 x '7/10'\), from the world ") as it:
        make_trainer("credit=uniform")._balance_batch(queue.fill(rows), metrics={})
    assert "data source board-a, board-b; rows " in str(it.value)
    assert " and 1 more. Let it give" in str(it.value)
    assert "drop_nonfinite=true" not in str(it.value)  # no group would be left


def test_the_reward_of_a_turn_counts_as_well(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    rows["a_1_0"]["turn_rewards"] = torch.tensor([math.inf, 0.0])
    with pytest.raises(ConfigurationError, match=r"1 of 6 .*\(1 x inf in turn_rewards\).* rows a_1_0"):
        make_trainer("credit=uniform")._balance_batch(queue.fill(rows), metrics={})


@pytest.mark.parametrize("order", [1, -1])
def test_dropping_leaves_the_step_of_the_other_groups(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows, tmp_path: Path, order: int
) -> None:
    """Whichever member of the group it is, and whatever came first: the rest is trained as if b had not been there."""
    spoil(rows, "b_2_0" if order > 0 else "b_0_0", math.nan)
    trainer = make_trainer("credit=actfocus", "filter=reward_variance", "filter.ratio=0.5", DROP)
    batch, metrics = to_advantages(trainer, queue.fill(dict(list(rows.items())[::order])))

    assert sorted(key for key in batch.keys if not key.startswith("pad")) == ["a_0_0", "a_1_0", "a_2_0"]
    assert len(batch.keys) == 4  # verl's padding makes the mini-batch full
    assert (metrics["reward/nonfinite_episodes"], metrics["reward/dropped_groups"]) == (1.0, 1.0)
    assert (metrics["filter/kept_groups"], metrics["filter/dropped_groups"]) == (1.0, 0.0)
    assert metrics["filter/group_std/mean"] == pytest.approx(math.sqrt(1 / 3))
    assert metrics["episode/success_rate"] == pytest.approx(1 / 3)
    # returns 1, 0, 0: (2/3) sqrt(3) = 1.1547 and -1/3 sqrt(3)
    assert float(queue.rows["a_0_0"]["advantages"].max()) == pytest.approx(1.1547, abs=1e-4)
    assert all(bool(torch.isfinite(queue.rows[key]["token_weights"]).all()) for key in batch.keys)
    trainer._note_played(batch, metrics)
    trainer._compute_metrics(batch, metrics, SECONDS, global_steps=1, epoch=0)
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["critic/score/mean"] == pytest.approx(1 / 3)
    for text in (tmp_path / "rollouts" / "1.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)


def test_without_such_a_reward_dropping_changes_nothing(
    make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows
) -> None:
    metrics: dict[str, Any] = {}
    batch = make_trainer("credit=uniform", DROP)._balance_batch(queue.fill(rows), metrics=metrics)
    assert set(rows) <= set(batch.keys)
    assert (metrics["reward/nonfinite_episodes"], metrics["reward/dropped_groups"]) == (0.0, 0.0)


def test_when_every_group_would_go_the_run_ends(make_trainer: MakeTrainer, queue: LocalQueue, rows: Rows) -> None:
    spoil(rows, "a_0_0", math.nan)
    spoil(rows, "b_0_0", math.inf)
    with pytest.raises(
        ConfigurationError, match=r"True: 2 of 6 .* every prompt group has one, so nothing is left. Let it"
    ):
        make_trainer("credit=uniform", DROP)._balance_batch(queue.fill(rows), metrics={})


class TestInAnEvaluation:
    SOURCES = ["sums"] * 4 + ["products"] * 2
    UIDS = ["u", "u", "v", "v", "w", "w"]

    def validate(self, trainer: Any, rewards: list[float], **infos: list[Any]) -> dict[str, float]:
        expected = {("sums", "u"): 2, ("sums", "v"): 2, ("products", "w"): 2}
        found: dict[str, float] = trainer._val_metrics_update(
            self.SOURCES, self.UIDS, {"reward": rewards, "acc": rewards} | infos, [2] * 6, expected_acc_counts=expected
        )
        return found

    @pytest.fixture
    def trainer(self, make_trainer: MakeTrainer) -> Any:
        def make(*overrides: str) -> Any:
            trainer = make_trainer("credit=uniform", *overrides)
            trainer.run_log.has_world = False
            return trainer

        return make

    def test_it_ends_as_a_step_does(self, trainer: Any) -> None:
        problems = [None, "None", None, None, None, None]
        with pytest.raises(
            ConfigurationError,
            match=r"2 of 6 episodes of the evaluation at step 1 .*\(1 x None, 1 x nan\).* products, sums; rows u, w",
        ):
            self.validate(trainer(), [1.0, math.nan, 0.0, 1.0, math.nan, 0.0], **{NO_NUMBER: problems})

    def test_or_goes_on_without_its_prompts(self, trainer: Any) -> None:
        found = self.validate(trainer(DROP), [1.0, math.nan, 0.0, 1.0, 1.0, 1.0])
        assert found["val-aux/nonfinite_episodes"] == 2.0  # both of prompt u
        assert found["val-aux/sums/reward/mean@2"] == 0.5
        assert found["val-core/sums/acc/mean@2"] == 0.5  # verl counts a missing episode of a prompt as 0
        assert found["val-core/products/acc/mean@2"] == 1.0

    def test_unless_nothing_is_left(self, trainer: Any) -> None:
        with pytest.raises(ConfigurationError, match="every prompt group"):
            self.validate(trainer(DROP), [math.nan, 1.0] * 3)

    def test_numbers_pass(self, trainer: Any) -> None:
        found = self.validate(trainer(), [1.0, 0.0] * 3)
        assert found["val-core/sums/acc/mean@2"] == 0.5
        assert "val-aux/nonfinite_episodes" not in found


class RewardWorker:
    """verl's reward worker: `await handle.compute_score.remote(data)`."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.compute_score = SimpleNamespace(remote=self._remote)

    async def _remote(self, data: Any) -> dict[str, Any]:
        assert data == "episode"
        return self.result


@pytest.mark.parametrize("given", [None, "7/10", math.nan, [0.5], (1.0, "why")], ids=repr)
def test_a_reward_function_s_no_number_becomes_nan_and_is_named(given: Any) -> None:
    worker = RewardWorker({"reward_score": given, "reward_extra_info": {"acc": given, "length": 3}})
    found = asyncio.run(CheckedRewards(worker).compute_score.remote("episode"))
    assert math.isnan(found["reward_score"])
    assert found["reward_extra_info"] == {"acc": given, "length": 3, NO_NUMBER: repr(given)}


@pytest.mark.parametrize("given", [1, 0.5, True])
def test_a_number_passes_as_it_is(given: Any) -> None:
    result = {"reward_score": given, "reward_extra_info": {"acc": given}}
    assert asyncio.run(CheckedRewards(RewardWorker(result)).compute_score.remote("episode")) is result


def test_the_trainer_gives_agent_loops_checked_handles(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("credit=uniform")
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=["worker"])
    (handle,) = trainer.get_reward_handles()
    assert isinstance(pickle.loads(pickle.dumps(handle)), CheckedRewards)  # it goes to an agent-loop worker
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=None)  # a reward model between rollouts
    assert trainer.get_reward_handles() is None


def test_the_setting_is_a_truth_value() -> None:
    check_config(composed(DROP))
    with pytest.raises(ConfigurationError, match=r"run\.drop_nonfinite=1: must be true or false"):
        check_config(composed("run.drop_nonfinite=1"))
