"""Our trainers on verl's asynchronous ones: verl's own steps, replay buffers and engine, over a local queue. No Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import transfer_queue
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode
from verl.utils import tensordict_utils as tu

from actfocus_verl.integration.async_trainers import (
    FailedGroups,
    TokenCreditTrainerColocateAsync,
    TokenCreditTrainerSeparateAsync,
    measure_staleness,
)
from actfocus_verl.integration.trainer import TokenCreditTrainerSync
from actfocus_verl.platforms.detached_worker import CPUDetachActorWorker
from tests.config.conftest import compose_config
from tests.helpers import engines
from tests.helpers.queue import LocalQueue
from tests.helpers.tokenizer import build_tokenizer
from tests.helpers.trainer import SECONDS, EngineWorkers

LEARNING_RATE = 1e-2
TRAINERS = {
    "sync": TokenCreditTrainerSync,
    "colocate_async": TokenCreditTrainerColocateAsync,
    "separate_async": TokenCreditTrainerSeparateAsync,
}
Play = Callable[..., "Played"]


class Workers(EngineWorkers):
    """The same, with the update, and verl's own worker for the saved policies."""

    micro_batch = 1

    def __init__(self, engine: Any, queue: LocalQueue) -> None:
        super().__init__(engine, queue)
        self.policies_asked: list[torch.Tensor] = []
        self._detached = object.__new__(CPUDetachActorWorker)
        self._detached.config = SimpleNamespace(actor=SimpleNamespace(strategy="fsdp2"))
        self._detached.actor = SimpleNamespace(engine=engine)
        self._detached._strategy_handlers = None
        for name in ("save_model_to_cpu", "restore_model_from_cpu", "clear_cpu_model"):
            setattr(self, name, getattr(self._detached, name))

    def compute_log_prob(self, batch: Any) -> Any:
        self.policies_asked.append(weights_of(self.engine))
        return super().compute_log_prob(batch)

    def update_actor(self, batch: Any) -> Any:
        names = ["input_ids", "position_ids", "prompts", "responses", *engines.TOKEN_COLUMNS, "rollout_is_weights"]
        size, settings = batch.extra_info["mini_batch_size"], {"use_remove_padding": False, "use_dynamic_bsz": False}
        for start in range(0, len(batch.keys), size):
            columns = self.queue.kv_batch_get(batch.keys[start : start + size], batch.partition_id, names)
            more = {"micro_batch_size_per_gpu": self.micro_batch, "global_batch_size": size}
            data = tu.get_tensordict(dict(columns.items()), settings | batch.extra_info | more)
            with self.engine.train_mode():
                self.engine.train_batch(data, engines.weighted_loss())
        return {"metrics": {"mfu": 0.0}}


class Played:
    """A trainer after its step, and what it logged."""

    def __init__(self, trainer: Any, engine: Any, metrics: dict[str, Any], batch: Any) -> None:
        self.trainer, self.metrics, self.batch = trainer, metrics, batch
        self.weights = weights_of(engine)


def weights_of(engine: Any) -> torch.Tensor:
    return torch.cat([weight.full_tensor().detach().flatten().clone() for weight in engine.module.parameters()])


@pytest.fixture
def play(
    group: None,
    model_folder: Path,
    queue: LocalQueue,
    rows: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Play:
    """A step of the two groups on new weights: `play("sync", "key=value", ...)`."""
    monkeypatch.setattr(transfer_queue, "kv_list", lambda *_: {"train": queue.tags})

    def once(schedule: str, *overrides: str, version: int = 0) -> Played:
        config = compose_config(
            *("platform=cpu", f"schedule={schedule}", "credit=actfocus", "data.train_batch_size=2"),
            *("actor_rollout_ref.rollout.n=3", "algorithm.rollout_correction.rollout_is=null"),
            *("actor_rollout_ref.rollout.calculate_log_probs=false", "run.rollouts_every=1", "run.rollouts_a_step=6"),
            *(("actor_rollout_ref.rollout.checkpoint_engine.backend=gloo",) if schedule == "separate_async" else ()),
            *overrides,
        )
        config.run.dir = str(tmp_path / f"{schedule}{len(list(tmp_path.iterdir()))}")
        Path(config.run.dir).mkdir()
        trainer = TRAINERS[schedule](config)
        engine = engines.build_engine(model_folder, lr=LEARNING_RATE)
        trainer.global_steps, trainer.ref_in_actor, trainer.total_training_steps = 1, False, 9
        trainer.tokenizer = build_tokenizer(vocab_size=engines.VOCABULARY)
        trainer.actor_rollout_wg, trainer.ref_policy_wg = Workers(engine, queue), Workers(engine, queue)
        for name in ("checkpoint_manager", "reward_loop_manager"):
            setattr(trainer, name, MagicMock())
        trainer.curr_step_profile, trainer.current_mode = False, HybridEngineMode.TRAINER
        trainer._add_batch_to_generate = lambda: None
        trainer._get_n_gpus_for_throughput = lambda: 1

        queue.rows, queue.tags = {}, {}
        queue.fill(rows)
        for tag in queue.tags.values():
            tag["min_global_steps"] = tag["max_global_steps"] = version
        for uid in ("a", "b"):
            queue.rows[uid] = {}
            queue.tags[uid] = {"is_prompt": True, "status": "finished", "global_steps": 1}
        metrics: dict[str, Any] = {}
        trainer.on_step_begin()
        batch = trainer.step(metrics, {})
        trainer._compute_metrics(batch, metrics, dict(SECONDS), global_steps=1, epoch=0)
        return Played(trainer, engine, metrics, batch)

    return once


BOTH = "actor_rollout_ref.actor.ppo_mini_batch_size=2"
ONE = "actor_rollout_ref.actor.ppo_mini_batch_size=1"


def test_with_nothing_in_flight_every_schedule_makes_the_same_update(play: Play, model_folder: Path) -> None:
    sync = play("sync", BOTH)
    colocated = play("colocate_async", BOTH, "trainer.v1.colocate_async.num_warmup_batches=0")
    separate = play("separate_async", BOTH, "trainer.v1.separate_async.parameter_sync_step=1")

    assert not torch.equal(sync.weights, weights_of(engines.build_engine(model_folder)))  # it learned something
    assert torch.equal(colocated.weights, sync.weights)
    torch.testing.assert_close(separate.weights, sync.weights, rtol=0, atol=1e-6)
    assert colocated.trainer.trainer_mode == "colocate_async"
    for name, value in sync.metrics.items():
        if name.startswith(("episode/", "stop/", "credit/", "filter/")):
            assert colocated.metrics[name] == value
            assert separate.metrics[name] == pytest.approx(value)
    colocated.trainer.checkpoint_manager.abort_replicas.assert_called_once()
    assert colocated.metrics["staleness/age"] == colocated.metrics["staleness/weighted_age"] == 0
    assert "staleness/age" not in sync.metrics


def test_local_updates_share_the_old_policy_and_have_their_own_rows(play: Play) -> None:
    played = play("separate_async", ONE, "credit.placebo=true")
    first, second, *_ = played.trainer.actor_rollout_wg.policies_asked
    assert torch.equal(first, second)  # the second update asks the policy before the first, not the current one
    assert not torch.equal(first, played.weights)

    lines = [json.loads(line) for line in (played.trainer.run_log.folder / "local_updates.jsonl").open()]
    assert [(line["step"], line["local_update"], line["episodes"]) for line in lines] == [(1, 0, 3), (1, 1, 3)]
    assert played.metrics["filter/kept_groups"] == 2
    assert played.metrics["stop/failure"] == 1
    assert played.metrics["episode/success_rate"] == pytest.approx(1 / 6)
    assert len((played.trainer.run_log.folder / "rollouts" / "1.jsonl").read_text().splitlines()) == 6


def test_each_local_update_has_a_placebo_of_its_own(play: Play) -> None:
    trainer = play("separate_async", ONE).trainer
    seeds = []
    for trainer.local_trigger_step in (0, 1, 2):
        seeds.append(trainer._placebo_seed)
    assert seeds == [(0, 1), (0, 1, 1), (0, 1, 2)]  # the first as in a synchronous step


def test_staleness_is_that_of_the_rows_that_are_trained(play: Play, queue: LocalQueue) -> None:
    played = play("colocate_async", BOTH)
    for key, tag in zip(played.batch.keys, played.batch.tags, strict=True):
        queue.rows[key]["rollout_log_probs"] = queue.rows[key]["old_log_probs"] - 0.5
        tag["min_global_steps"] = 1 if key.startswith("a") else 3
    found = measure_staleness(played.batch, played.trainer.config, step=4)
    assert 0 < found["staleness/age"] < 2
    assert found["staleness/log_ratio_sq/action"] == pytest.approx(0.25, abs=1e-5)


def test_groups_that_all_fail_end_the_run() -> None:
    buffer = MagicMock()
    evict = buffer._evict_terminal_groups
    failures = FailedGroups(buffer, limit=2)
    failed = (set(), set(), {"a", "b"}, None)
    buffer._evict_terminal_groups(1, "train", failed)
    failures.forget()
    buffer._evict_terminal_groups(1, "train", failed)
    with pytest.raises(RuntimeError, match="4 prompt groups of step 1 ended in an error"):
        buffer._evict_terminal_groups(1, "train", failed)
    assert evict.call_count == 2


@pytest.mark.parametrize("schedule", ["colocate_async", "separate_async"])
def test_it_is_registered_and_each_method_of_verls_is_reached(schedule: str) -> None:
    trainer = get_trainer_cls(f"actfocus_{schedule}")
    assert trainer is TRAINERS[schedule]
    verls = get_trainer_cls(schedule)
    order = trainer.__mro__
    assert order.index(verls) > max(order.index(each) for each in order if each.__module__.startswith("actfocus_verl"))


def test_a_saved_policy_is_not_the_live_one(group: None, model_folder: Path, queue: LocalQueue) -> None:
    engine = engines.build_engine(model_folder)
    workers = Workers(engine, queue)
    before = weights_of(engine)
    workers.save_model_to_cpu(0)
    with torch.no_grad():
        for weight in engine.module.parameters():
            weight.to_local().add_(1.0)
    assert not torch.equal(weights_of(engine), before)
    workers.restore_model_from_cpu(0)
    assert torch.equal(weights_of(engine), before)
