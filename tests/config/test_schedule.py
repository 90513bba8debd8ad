"""Asynchronous schedules: what is derived, what is refused before Ray starts, in one line, and what is warned of."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from omegaconf import OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.resources import demanded
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.schedule import check_schedule
from tests.config.conftest import changed, compose_config, composed

COLOCATE = "schedule=colocate_async"
SEPARATE = "schedule=separate_async"
ROLLOUT = "actor_rollout_ref.rollout"
MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size"


def test_what_separate_async_leaves_open_is_derived() -> None:
    config = composed(SEPARATE)
    assert config.trainer.v1.trainer_mode == "actfocus_separate_async"
    assert OmegaConf.select(config, MINI_BATCH) == 6  # 12 groups in two local updates
    assert config.ray_kwargs.ray_init.num_gpus == 2
    engine = config.actor_rollout_ref.rollout.checkpoint_engine
    assert (engine.backend, engine.custom_backend_module) == ("gloo", "actfocus_verl.platforms.gloo_weights")
    assert config.platform.env_vars.VERL_LOGGING_LEVEL == "WARN"
    # queue 2, trainer 3, server 2, and one free
    assert demanded(config) == {"CPU": 8.0, "GPU": 2.0}

    on_gpus = composed(SEPARATE, "platform=gpu", "data.train_batch_size=8", f"{ROLLOUT}.n_gpus_per_node=4")
    engine = on_gpus.actor_rollout_ref.rollout.checkpoint_engine
    assert (engine.backend, engine.custom_backend_module) == ("nccl", None)
    assert on_gpus.ray_kwargs.ray_init.num_gpus is None
    assert demanded(on_gpus)["GPU"] == 8.0


def test_sync_is_the_default_and_colocate_async_shares_its_slot() -> None:
    sync, colocated = composed(), composed(COLOCATE)
    assert sync.schedule.name == "sync"
    assert demanded(sync) == demanded(colocated) == {"CPU": 6.0, "GPU": 1.0}
    assert OmegaConf.select(colocated, MINI_BATCH) == 12


@pytest.mark.parametrize(
    ("schedule", "values", "message"),
    [
        ("schedule=sync", {"actor_rollout_ref.hybrid_engine": False}, "only separate_async has servers elsewhere"),
        (COLOCATE, {"trainer.v1.colocate_async.num_warmup_batches": -1}, "must be a finite number >= 0"),
        (COLOCATE, {"trainer.v1.sampler.max_off_policy_threshold": 0}, "must be an integer >= 1"),
        (COLOCATE, {"trainer.v1.sampler.max_off_policy_strategy": "skip"}, "Choose one of: wait, drop"),
        (COLOCATE, {"data.train_batch_size": 84}, "up to 1008 episodes wait for replies of one server"),
        (SEPARATE, {"trainer.v1.separate_async.parameter_sync_step": 5}, "does not divide data.train_batch_size=12"),
        (SEPARATE, {"trainer.v1.separate_async.parameter_sync_step": 0}, "must be an integer >= 1"),
        (SEPARATE, {MINI_BATCH: 3}, "Set it to 6, or to null"),
        (SEPARATE, {f"{ROLLOUT}.nnodes": 0}, "rollout.nnodes=0: must be an integer >= 1"),
        (SEPARATE, {f"{ROLLOUT}.checkpoint_engine.backend": "naive"}, "the servers are elsewhere"),
        (SEPARATE, {"platform.env_vars.VERL_LOGGING_LEVEL": "INFO"}, "Set it to WARN"),
        (SEPARATE, {"reward.reward_model.enable": True}, "needs servers that pause, and these do not"),
    ],
)
def test_what_cannot_run_is_one_line(schedule: str, values: dict[str, Any], message: str) -> None:
    config = compose_config(schedule)
    fill_derived(config)
    with pytest.raises(ConfigurationError) as caught:
        check_schedule(changed(config, **values))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stale_entropy_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        composed(COLOCATE, "credit=entropy_quantile")
        assert "credit=entropy_quantile reads the entropy of the policy that is trained" in caplog.text
        caplog.clear()
        composed(COLOCATE, "credit=actfocus")
        composed("credit=entropy_quantile")
    assert "reads the entropy" not in caplog.text


@pytest.mark.parametrize("schedule", [COLOCATE, SEPARATE])
def test_forked_rollouts_are_allowed(schedule: str) -> None:
    assert composed(schedule, "rollout=forked", "algorithm=carl", "credit=uniform").rollout.name == "forked"
