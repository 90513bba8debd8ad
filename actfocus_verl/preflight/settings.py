"""Checks of the configuration itself: names, ranges, boards; `batches` checks sizes that must fit each other."""

from __future__ import annotations

from typing import Any, Final

from omegaconf import DictConfig, ListConfig, OmegaConf

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.columns import ANSWER_SCORES, HINDSIGHT_LOG_PROBS
from actfocus_verl.config import (
    action_span,
    drops_nonfinite,
    estimator_columns,
    has_world,
    is_diagnosed,
    needs_feedback,
    require_estimator,
    require_weighting_columns,
    section,
    world_overrides,
)
from actfocus_verl.credit.early_stop import build_early_stop
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.credit.signals import ENERGY, LOGIT_SIGNALS
from actfocus_verl.environments import SPLITS, make_world, split_size
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.adapters import check_adapters
from actfocus_verl.preflight.batches import check_batches, check_lengths
from actfocus_verl.preflight.derived import MINI_BATCH
from actfocus_verl.preflight.loggers import check_loggers
from actfocus_verl.preflight.not_for_worlds import check_not_for_worlds
from actfocus_verl.preflight.own_data import check_own_data
from actfocus_verl.preflight.rollouts import check_rollouts
from actfocus_verl.preflight.schedule import check_schedule

_INTEGERS: Final = {
    "run.seed": 0,
    "run.rollouts_a_step": 0,
    "run.rollouts_every": 1,
    "env.seed": 0,
    "data.train_batch_size": 1,
    "data.max_prompt_length": 1,
    "data.max_response_length": 1,
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    "actor_rollout_ref.actor.ppo_epochs": 1,
    MINI_BATCH: 1,
    "actor_rollout_ref.rollout.n": 1,
    "actor_rollout_ref.rollout.val_kwargs.n": 1,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.agent.num_workers": 1,
}
"""Keys that must be integers >= this."""

_BOARDS: Final = {"env.train_size": 1, "env.evaluation_size": 1}
"""The same, in a world."""

_OPTIONAL_INTEGERS: Final = {"trainer.total_training_steps": 1, "actor_rollout_ref.rollout.max_model_len": 1}
"""The same, unless null."""

_TEMPERATURE: Final = "actor_rollout_ref.rollout.temperature"
_NUMBERS: Final = {
    _TEMPERATURE: 2.0,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 2.0,
    "algorithm.gamma": 1.0,
    "algorithm.lam": 1.0,
    "actor_rollout_ref.actor.optim.lr": 1.0,
}
"""Keys that must be numbers from 0 to this."""

_RESUME_MODES: Final = ("auto", "disable", "resume_path")
_LAST_BOARDS: Final = 16
"""At least one board of each of a world's difficulty classes."""


def check_config(config: DictConfig) -> None:
    """Raise ConfigurationError, naming key, value and remedy, for invalid settings; warn of wasteful ones.

    `fill_derived` comes first. Nothing is written, and neither Ray nor verl is imported.
    """
    _check_numbers(config)
    if has_world(config):
        check_not_for_worlds(config)
        _check_boards(config)
    else:
        check_own_data(config)
    spec = require_estimator(config)
    if spec is not None and spec.needs_answers:
        _check_answers(config, f"algorithm={spec.name}", first_turn=bool(spec.params.get("first_turn", True)))
    _check_credit(config)
    build_early_stop(section(config, "early_stop"))
    drops_nonfinite(config)
    _check_diagnose(config)
    check_rollouts(config)
    check_adapters(config)
    _check_trainer(config)
    check_loggers(config)
    check_schedule(config)
    check_batches(config)
    check_lengths(config)


def _check_numbers(config: DictConfig) -> None:
    for key, low in (_INTEGERS | (_BOARDS if has_world(config) else {})).items():
        require_integer(key, OmegaConf.select(config, key), low=low)
    for key, low in _OPTIONAL_INTEGERS.items():
        value = OmegaConf.select(config, key)
        if value is not None:
            require_integer(key, value, low=low)
    for key, high in _NUMBERS.items():
        require_number(key, OmegaConf.select(config, key), low=0.0, high=high)
    if config.run.get("tool_timeout") is not None:
        require_number("run.tool_timeout", config.run.tool_timeout, low=0.0, open_low=True)
    if config.actor_rollout_ref.rollout.temperature == 0:
        raise ConfigurationError(
            _TEMPERATURE, 0, "training divides logits by it, and needs diverse samples", "Set it to 1.0"
        )


def _check_boards(config: DictConfig) -> None:
    """The world can be created as configured, and has the boards that the run needs."""
    for key, size_key in (("data.train_files", "env.train_size"), ("data.val_files", "env.evaluation_size")):
        _check_split(config.env, _split_name(key, OmegaConf.select(config, key)), size_key)
    if config.env.train_size < config.data.train_batch_size:
        raise ConfigurationError(
            "env.train_size",
            config.env.train_size,
            f"fewer boards than prompt groups per step (data.train_batch_size={config.data.train_batch_size})",
            f"Set env.train_size to at least {config.data.train_batch_size}",
        )


def _split_name(key: str, value: Any) -> str:
    name = value[0] if isinstance(value, list | ListConfig) and len(value) == 1 else value
    if name not in SPLITS:
        raise ConfigurationError(key, value, "is not a split: a row is a board, not a file", f"Use {', '.join(SPLITS)}")
    return str(name)


def _check_split(env: Any, split: str, size_key: str) -> None:
    overrides, wanted = world_overrides(env), OmegaConf.select(env, size_key.removeprefix("env."))
    make_world(env.name, preset=env.preset, split=split, **overrides)
    present = split_size(env.name, preset=env.preset, split=split)
    if present is not None and wanted > present:
        raise ConfigurationError(
            size_key,
            wanted,
            f"board index out of range: split {split!r} of {env.name}/{env.preset} has {present} boards",
            f"Set {size_key} to at most {present}",
        )
    if not overrides:
        return  # as many boards as split_size says are a promise of the preset
    for index in range(max(wanted - _LAST_BOARDS, 0), wanted):
        try:
            make_world(env.name, preset=env.preset, split=split, index=index, **overrides)
        except ConfigurationError as error:
            raise ConfigurationError(
                size_key, wanted, f"board {index}: {error.problem}", f"Lower {size_key}, or change the board's settings"
            ) from error


def _check_answers(config: DictConfig, reader: str, *, first_turn: bool) -> None:
    """The world knows the answer to probe for, and episodes can be long enough for a turn to have a gain."""
    env, world = config.env, None
    if has_world(config):
        split = _split_name("data.train_files", config.data.train_files)
        world = make_world(env.name, preset=env.preset, split=split, **world_overrides(env))
    if world is None or world.known_answer() is None:
        raise ConfigurationError(
            "env.name",
            env.name,
            f"{reader} probes the policy for an answer, and there is none here (World.known_answer)",
            "Set algorithm=grpo credit=uniform, or another world",
        )
    shortest, without = (2, "the last turn has") if first_turn else (3, "the first turn and the last have")
    if world.limits.max_turns < shortest:
        raise ConfigurationError(
            "env.max_turns",
            world.limits.max_turns,
            f"{without} no information gain, so {reader} would learn nothing from the answer",
            f"Set it to at least {shortest}, or algorithm=grpo",
        )


def _check_credit(config: DictConfig) -> None:
    weighting = build_weighting(section(config, "credit"))
    action_span(config)
    require_weighting_columns(config, weighting)
    if ANSWER_SCORES in weighting.required_columns:
        _check_answers(config, f"credit.name={weighting.name}", first_turn=True)
    if needs_feedback(config) and not has_world(config):
        raise ConfigurationError(
            "env.name",
            config.env.name,
            f"{HINDSIGHT_LOG_PROBS} are log-probs with feedback from a world in the prompt, and there is none here",
            "Set algorithm=grpo credit=uniform, or a world",
        )
    readers = {f"credit.name={weighting.name}": weighting.required_columns}
    readers |= {f"algorithm.adv_estimator={config.algorithm.adv_estimator}": estimator_columns(config)}
    for reader, columns in readers.items():
        of_logits = [name for name in LOGIT_SIGNALS if name in columns]
        if config.actor_rollout_ref.model.use_fused_kernels and of_logits:
            raise ConfigurationError(
                "actor_rollout_ref.model.use_fused_kernels",
                True,
                f"fused kernels never form the logits whose {' and '.join(of_logits)} {reader} needs",
                "Set it to false, or use credit=uniform",
            )
    if weighting.normalize == "mini_batch" and config.actor_rollout_ref.actor.shuffle:
        raise ConfigurationError(
            "credit.normalize",
            "mini_batch",
            "actor.shuffle=True cuts mini-batches inside the workers",
            "Set actor_rollout_ref.actor.shuffle=False, or credit.normalize=batch",
        )


def _check_diagnose(config: DictConfig) -> None:
    if not is_diagnosed(config):
        return
    if config.actor_rollout_ref.model.use_fused_kernels:
        raise ConfigurationError(
            "actor_rollout_ref.model.use_fused_kernels",
            True,
            f"fused kernels never form the logits whose {ENERGY} run.diagnose needs",
            "Set it to false, or run.diagnose=false",
        )
    if config.actor_rollout_ref.rollout.n < 2:
        raise ConfigurationError(
            "run.diagnose",
            True,
            "correlates energy with the spread of returns in a prompt group, and groups have one episode each",
            "Set actor_rollout_ref.rollout.n to at least 2, or run.diagnose=false",
        )


def _check_trainer(config: DictConfig) -> None:
    trainer = config.trainer
    if not trainer.use_v1:
        raise ConfigurationError(
            "trainer.use_v1", trainer.use_v1, "token weights live in verl's v1 trainers", "Set it to true"
        )
    require_choice("trainer.resume_mode", trainer.resume_mode, choices=_RESUME_MODES)
    if OmegaConf.select(config, "distillation.enabled"):
        raise ConfigurationError(
            "distillation.enabled", True, "distillation replaces the loss that token weights enter", "Set it to false"
        )
