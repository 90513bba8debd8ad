"""How rollout and training take turns: what `schedule=colocate_async` and `separate_async` require, before Ray starts.

verl asserts most of it in its trainers' constructors, in a Ray actor; the rest it does not notice.
"""

from __future__ import annotations

import logging
import math
from typing import Final

from omegaconf import DictConfig, OmegaConf

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.columns import ENTROPY
from actfocus_verl.config import estimator_columns, section
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.errors import ConfigurationError

logger = logging.getLogger(__name__)

SYNC_STEP: Final = "trainer.v1.separate_async.parameter_sync_step"
SERVER_CALLS: Final = 1000
"""Calls that a server's actor runs at a time, Ray's default. With as many episodes waiting for replies, the call that
stops them for an update would wait for them."""

_MODE: Final = "trainer.v1.trainer_mode"
_COLOCATE: Final = "colocate_async"
_SEPARATE: Final = "separate_async"
_TRAINERS: Final = {f"actfocus_{name}": name for name in (_COLOCATE, _SEPARATE)}
_SAMPLER: Final = "trainer.v1.sampler"
_HYBRID: Final = "actor_rollout_ref.hybrid_engine"
_ROLLOUT: Final = "actor_rollout_ref.rollout"
_MINI_BATCH: Final = "actor_rollout_ref.actor.ppo_mini_batch_size"
_LOG_LEVEL: Final = "platform.env_vars.VERL_LOGGING_LEVEL"


def schedule_of(config: DictConfig) -> str | None:
    """`colocate_async` or `separate_async`; None for any other trainer."""
    return _TRAINERS.get(str(OmegaConf.select(config, _MODE)))


def is_separate(config: DictConfig) -> bool:
    """Whether servers have devices of their own."""
    return schedule_of(config) == _SEPARATE


def rollout_slots(config: DictConfig) -> int:
    """Devices of servers beside the trainer; 0 where it shares its own with them.

    Raises ConfigurationError for numbers that are none.
    """
    if not is_separate(config):
        return 0
    sizes = {f"{_ROLLOUT}.{name}": config.actor_rollout_ref.rollout[name] for name in ("nnodes", "n_gpus_per_node")}
    for key, size in sizes.items():
        require_integer(key, size, low=1)
    return math.prod(sizes.values())


def check_schedule(config: DictConfig) -> None:
    """Raise ConfigurationError for an asynchronous schedule that cannot run as configured; warn of stale signals.

    `fill_derived` comes first.
    """
    schedule = schedule_of(config)
    if schedule != _SEPARATE and not OmegaConf.select(config, _HYBRID, default=True):
        raise ConfigurationError(
            _HYBRID, False, f"only {_SEPARATE} has servers elsewhere", f"Set it to true, or use schedule={_SEPARATE}"
        )
    if schedule is None:
        return
    warmup_key = f"trainer.v1.{schedule}.num_warmup_batches"
    warmup = OmegaConf.select(config, warmup_key)
    require_number(warmup_key, warmup, low=0)
    _check_sampler(config)
    if schedule == _SEPARATE:
        _check_separate(config)
    _check_outstanding(config, schedule, warmup_key, warmup)
    _warn_of_stale_signals(config, schedule)


def _check_sampler(config: DictConfig) -> None:
    sampler = OmegaConf.select(config, _SAMPLER)
    if sampler.max_off_policy_threshold is not None:
        require_integer(f"{_SAMPLER}.max_off_policy_threshold", sampler.max_off_policy_threshold, low=1)
    require_choice(f"{_SAMPLER}.max_off_policy_strategy", sampler.max_off_policy_strategy, choices=("wait", "drop"))


def _check_separate(config: DictConfig) -> None:
    """The assertions of verl's `PPOTrainerSeparateAsync`, and its log message that raises."""
    updates, groups = OmegaConf.select(config, SYNC_STEP), config.data.train_batch_size
    require_integer(SYNC_STEP, updates, low=1)
    if groups % updates:
        raise ConfigurationError(
            SYNC_STEP,
            updates,
            f"does not divide data.train_batch_size={groups}, which its local updates share",
            "Set it to a divisor",
        )
    size = OmegaConf.select(config, _MINI_BATCH)
    if size * updates != groups:
        raise ConfigurationError(
            _MINI_BATCH,
            size,
            f"a local update trains on all of its {groups // updates} groups (data.train_batch_size={groups} / "
            f"{SYNC_STEP}={updates}) at once",
            f"Set it to {groups // updates}, or to null",
        )
    rollout_slots(config)
    backend = f"{_ROLLOUT}.checkpoint_engine.backend"
    if OmegaConf.select(config, backend) == "naive":
        raise ConfigurationError(
            backend, "naive", "hands weights over within a process, and the servers are elsewhere", "Set it to null"
        )
    reward = config.reward.reward_model
    if reward.enable and not reward.enable_resource_pool:
        raise ConfigurationError(
            "reward.reward_model.enable_resource_pool",
            False,
            "a reward model on the trainer's devices needs servers that pause, and these do not",
            "Set it to true",
        )
    level = str(OmegaConf.select(config, _LOG_LEVEL) or "INFO").upper()
    if not OmegaConf.select(config, _HYBRID) and level in ("INFO", "DEBUG", "NOTSET"):
        raise ConfigurationError(
            _LOG_LEVEL, level, f"verl 0.9.1 fails to log a message there with {_HYBRID}=false", "Set it to WARN"
        )


def _check_outstanding(config: DictConfig, schedule: str, warmup_key: str, warmup: float) -> None:
    rollout = config.actor_rollout_ref.rollout
    devices = rollout_slots(config) or config.trainer.nnodes * config.trainer.n_gpus_per_node
    span = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    servers = max(1, devices // max(1, span))
    episodes = config.data.train_batch_size * (1 + warmup) * rollout.n
    limit = max(SERVER_CALLS, rollout.max_num_seqs)
    if episodes / servers >= limit:
        raise ConfigurationError(
            warmup_key,
            warmup,
            f"up to {episodes / servers:g} episodes wait for replies of one server, which answers {limit} calls at a "
            "time: the call that stops them for an update would never be answered",
            f"Lower it or data.train_batch_size, or give {schedule} more servers",
        )


def _warn_of_stale_signals(config: DictConfig, schedule: str) -> None:
    weighting = build_weighting(section(config, "credit"))
    readers = {f"credit={weighting.name}": weighting.required_columns}
    readers |= {f"algorithm.adv_estimator={config.algorithm.adv_estimator}": estimator_columns(config)}
    for reader, columns in readers.items():
        if ENTROPY in columns:
            logger.warning(
                "%s: %s reads the entropy of the policy that is trained, and stale episodes were sampled by "
                "an older one. See staleness/age, or use schedule=sync.",
                *(schedule, reader),
            )
