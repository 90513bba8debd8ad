"""Sizes that must fit each other: mini-batches, processes, and tokens."""

from __future__ import annotations

import logging
import math
from typing import Final

from omegaconf import DictConfig, OmegaConf

from actfocus_verl.checks import require_integer
from actfocus_verl.config import has_reference, require_deviation
from actfocus_verl.credit.estimation import traits_of
from actfocus_verl.credit.filters import build_filter
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.platforms.value_model import FLASH_ATTENTION
from actfocus_verl.preflight.derived import MINI_BATCH, kept_groups
from actfocus_verl.preflight.schedule import is_separate, rollout_slots

logger = logging.getLogger(__name__)

_ACTOR: Final = "actor_rollout_ref.actor"
_CRITIC: Final = "critic"
_ROLLOUT: Final = "actor_rollout_ref.rollout"
_SERVER_SIZES: Final = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
_FLASH_ATTENTIONS: Final = "flash_attention"
"""Prefix of the names of flash attention's versions; verl's default."""
_CRITIC_MINI_BATCH: Final = "critic.ppo_mini_batch_size"


def check_batches(config: DictConfig) -> None:
    """Mini-batches can be cut as configured; warns when padding rows would fill them."""
    rollout = config.actor_rollout_ref.rollout
    processes = config.trainer.nnodes * config.trainer.n_gpus_per_node
    per_node = config.trainer.n_gpus_per_node
    if is_separate(config):  # servers have devices of their own
        _check_servers(rollout, rollout_slots(config), rollout.n_gpus_per_node)
    if config.actor_rollout_ref.hybrid_engine:
        _check_servers(rollout, processes, per_node)
    _check_sequence_parallel(config)
    _check_filter(config)
    kept = kept_groups(config)
    _check_mini_batch(MINI_BATCH, config, kept=kept, ranks=processes // _sequence_parallel(config, _ACTOR))
    if config.critic.enable:
        require_integer(_CRITIC_MINI_BATCH, config.critic.ppo_mini_batch_size, low=1)
        _check_mini_batch(_CRITIC_MINI_BATCH, config, kept=kept, ranks=processes // _sequence_parallel(config, _CRITIC))
    if rollout.n == 1 and traits_of(str(config.algorithm.adv_estimator)).compares_groups:
        logger.warning(
            "actor_rollout_ref.rollout.n=1: a group of one episode has no baseline for %s to subtract. "
            "Set it to at least 2.",
            config.algorithm.adv_estimator,
        )


def _check_servers(rollout: DictConfig, processes: int, per_node: int) -> None:
    """A server spans as many devices as the product of its sizes; servers share out those of the training processes."""
    sizes = {name: rollout[name] for name in _SERVER_SIZES}
    for name, size in sizes.items():
        require_integer(f"{_ROLLOUT}.{name}", size, low=1)
    span = math.prod(sizes.values())
    key = f"{_ROLLOUT}.{next((name for name, size in sizes.items() if size > 1), _SERVER_SIZES[0])}"
    asked = " x ".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
    if processes % span:
        raise ConfigurationError(
            key,
            sizes[key.rpartition(".")[2]],
            f"a server spans {span} devices ({asked}), which does not divide the {processes} devices that the "
            "servers use",
            "Set it to 1, or to a divisor of that number",
        )
    if span > per_node and span % per_node:
        raise ConfigurationError(
            key,
            sizes[key.rpartition(".")[2]],
            f"a server spans {span} devices ({asked}), which is not a whole number of nodes of {per_node} devices",
            f"Let the product divide {per_node}, or be a multiple of it",
        )


def _check_sequence_parallel(config: DictConfig) -> None:
    """verl adds the exchange between processes to flash attention only: others see their own part of a sequence."""
    attentions = {_ACTOR: "actor_rollout_ref.model", "actor_rollout_ref.ref": "actor_rollout_ref.model"}
    if config.critic.enable:
        attentions[_CRITIC] = "critic.model"
    for part, model in attentions.items():
        key, size = _sequence_parallel_key(config, part)
        attention = OmegaConf.select(config, f"{model}.override_config.attn_implementation", default=_FLASH_ATTENTIONS)
        if size > 1 and not attention.startswith(_FLASH_ATTENTIONS):
            chosen = f"{model}.override_config.attn_implementation"
            raise ConfigurationError(
                key,
                size,
                f"needs flash attention: with {chosen}={attention} each process would attend to its own part of a "
                "sequence only",
                f"Set it to 1, or {chosen}={FLASH_ATTENTION} with flash-attn installed",
            )


def _check_filter(config: DictConfig) -> None:
    group_filter = build_filter(OmegaConf.to_container(config.filter, resolve=True))
    name = group_filter.name
    if group_filter.definition.refills and not config.algorithm.filter_groups.enable:
        raise ConfigurationError(
            "algorithm.filter_groups.enable",
            False,
            f"filter.name={name} leaves dropping and refilling to verl, which this setting switches on",
            f"Use filter={name}, which sets both, or filter=zero_variance, which does not refill",
        )
    require_deviation(config, group_filter)


def _check_mini_batch(key: str, config: DictConfig, *, kept: int, ranks: int) -> None:
    """ranks: data-parallel processes, which share a mini-batch evenly."""
    size, n = OmegaConf.select(config, key), config.actor_rollout_ref.rollout.n
    if size * n % max(ranks, 1):
        raise ConfigurationError(
            key,
            size,
            f"a mini-batch of {size} x actor_rollout_ref.rollout.n={n} = {size * n} rows cannot be shared by {ranks} "
            "data-parallel processes",
            f"Choose it so that the number of rows is a multiple of {ranks}",
        )
    if kept % size:
        logger.warning(
            "%s=%d: a step trains on %d of data.train_batch_size=%d groups, not a multiple of it, so verl adds "
            "padding rows. Set it to a divisor of %d.",
            *(key, size, kept, config.data.train_batch_size, kept),
        )


def check_lengths(config: DictConfig) -> None:
    """The longest episode fits the server's context and every micro-batch."""
    rollout = config.actor_rollout_ref.rollout
    longest = config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_model_len is not None and rollout.max_model_len < longest:
        raise ConfigurationError(
            "actor_rollout_ref.rollout.max_model_len",
            rollout.max_model_len,
            f"an episode may have {config.data.max_prompt_length} + {config.data.max_response_length} = {longest} "
            "tokens (data.max_prompt_length + data.max_response_length)",
            f"Raise it to at least {longest}, or lower those",
        )
    for key, processes in _token_budgets(config).items():
        budget = OmegaConf.select(config, key)
        if budget is not None and budget * processes < longest:
            raise ConfigurationError(
                key,
                budget,
                f"a micro-batch cannot hold one episode of up to {longest} tokens (data.max_prompt_length + "
                "data.max_response_length)",
                f"Raise it to at least {-(-longest // processes)}",
            )


def _token_budgets(config: DictConfig) -> dict[str, int]:
    """Keys that bound a micro-batch's tokens per process, and how many processes share one, in this run."""
    parts, shared = config.actor_rollout_ref, _sequence_parallel(config, _ACTOR)
    budgets = {}
    if parts.actor.use_dynamic_bsz:
        budgets[f"{_ACTOR}.ppo_max_token_len_per_gpu"] = shared
    if parts.rollout.log_prob_use_dynamic_bsz:
        budgets["actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu"] = shared
    if has_reference(config) and parts.ref.log_prob_use_dynamic_bsz:
        budgets["actor_rollout_ref.ref.log_prob_max_token_len_per_gpu"] = shared
    if config.critic.enable and config.critic.use_dynamic_bsz:
        # verl's v1 trainers read this key for both of the critic's passes
        budgets["critic.ppo_infer_max_token_len_per_gpu"] = _sequence_parallel(config, _CRITIC)
    return budgets


def _sequence_parallel(config: DictConfig, section: str) -> int:
    """Processes that share one sequence (Ulysses), 1 by default."""
    return _sequence_parallel_key(config, section)[1]


def _sequence_parallel_key(config: DictConfig, section: str) -> tuple[str, int]:
    """The key that sets it, and its value; the largest of several, as in verl."""
    keys = [f"{section}.{part}ulysses_sequence_parallel_size" for part in ("", "fsdp_config.", "fsdp.")]
    sizes = {key: int(OmegaConf.select(config, key, default=1)) for key in keys}
    key = max(keys, key=sizes.__getitem__)
    return key, sizes[key]
