"""Readers of the configuration beyond verl's keys, shared by several rooms.

The checks made before a run starts are in `actfocus_verl.preflight`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from actfocus_verl.checks import require_flag
from actfocus_verl.columns import (
    ANSWER_SCORES,
    CLIP_SCALES,
    COLUMNS,
    COUNTER,
    CRITIC,
    ENTROPY,
    ESTIMATOR,
    HINDSIGHT_LOG_PROBS,
    INFLUENCE,
    MEASUREMENT,
    REFERENCE,
    WEIGHTING,
    Giver,
    given_by,
)
from actfocus_verl.credit.estimation import EstimatorSpec, build_estimator
from actfocus_verl.credit.filters import GroupFilter
from actfocus_verl.credit.registry import WeightingSpec, build_weighting
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout.spans import KEY as ACTION_SPAN
from actfocus_verl.rollout.spans import ActionSpan, build_action_span
from actfocus_verl.rollout.templates import OPTIONS_KEY as TEMPLATE_OPTIONS

NO_WORLD = "none"
"""`env.name` of a run on the user's own data."""

TOKEN_WEIGHTED_LOSS = "token_weighted"
"""The `loss_mode` that raises when no token weights arrive."""

TURN_RATIO_LOSS = "turn_ratio"
"""The `loss_mode` of the policy loss with turn-level ratios and a clip range that an estimator may scale."""

DROP_NONFINITE = "run.drop_nonfinite"

_NOT_OF_THE_WORLD = ("name", "preset", "seed", "train_size", "evaluation_size")

_ADD_A_REFERENCE = (
    "Set actor_rollout_ref.actor.use_kl_loss=true actor_rollout_ref.actor.kl_loss_coef=0: a reference without "
    "a KL force, at the cost of one forward pass per step and its weights in memory (none with LoRA)"
)


def world_overrides(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the world's own keys of the `env` section that are set; null means the preset's value."""
    return {key: env[key] for key in env if key not in _NOT_OF_THE_WORLD and env[key] is not None}


def section(config: Any, key: str) -> dict[str, Any]:
    """Return a section as a dictionary; empty when it is absent, as in a command of verl's own, or null."""
    found = OmegaConf.select(config, key)
    return {} if found is None else OmegaConf.to_container(found, resolve=True)  # type: ignore[return-value]


def template_options(data: Any) -> dict[str, Any]:
    """Return the chat template's options from verl's `data` section, such as Qwen3's `enable_thinking`."""
    found = OmegaConf.select(data, "apply_chat_template_kwargs")
    if found is not None and not OmegaConf.is_dict(found):
        raise ConfigurationError(
            TEMPLATE_OPTIONS, found, "must be a mapping", f"Write +{TEMPLATE_OPTIONS}.enable_thinking=false"
        )
    return section(data, "apply_chat_template_kwargs")


def has_world(config: Any) -> bool:
    """Whether episodes are played in a world, not by the user's own data and agent loop."""
    env = OmegaConf.select(config, "env")
    return env is not None and env.get("name") != NO_WORLD


def ray_address(config: Any) -> str | None:
    """Return the address of the running Ray cluster that a run is told to join, as `ray.init` reads it.

    None: none is named, so Ray starts one on this machine, or joins what `ray start` started here.
    """
    address = OmegaConf.select(config, "ray_kwargs.ray_init.address")
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    return None if address in (None, "", "local") else str(address)


def action_span(config: Any) -> ActionSpan | None:
    """Return the configured span of actions, None for the agent loop's own column; ConfigurationError for neither."""
    value = OmegaConf.select(config, ACTION_SPAN)
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    return build_action_span(value, tool_format=str(config.actor_rollout_ref.rollout.multi_turn.format))


def has_reference(config: Any) -> bool:
    """Whether verl runs a frozen reference: it does when a KL term is on, even with coefficient 0."""
    return bool(config.algorithm.get("use_kl_in_reward", False) or config.actor_rollout_ref.actor.use_kl_loss)


def estimator_columns(config: Any) -> tuple[str, ...]:
    """Return the columns that the run's advantage estimator declares; none for one of verl's."""
    spec = build_estimator(str((config.get("algorithm") or {}).get("adv_estimator")), section(config, "estimator"))
    return () if spec is None else spec.required_columns


def needs_answers(config: Any) -> bool:
    """Whether the estimator or the weighting needs probes for the world's known answer."""
    credit = section(config, "credit")
    of_weighting = build_weighting(credit).required_columns if credit else ()
    return ANSWER_SCORES in (*estimator_columns(config), *of_weighting)


def needs_feedback(config: Any) -> bool:
    """Whether the estimator or the weighting needs replies scored with feedback in their prompt."""
    credit = section(config, "credit")
    of_weighting = build_weighting(credit).required_columns if credit else ()
    return HINDSIGHT_LOG_PROBS in (*estimator_columns(config), *of_weighting)


def has_critic(config: Any) -> bool:
    """Whether verl trains a critic: null leaves it to the estimator, and only verl's GAE needs one."""
    enabled = config.critic.enable
    return bool(enabled) if enabled is not None else config.algorithm.adv_estimator == "gae"


def require_given(config: Any, key: str, name: str, columns: Sequence[str], *, later: Sequence[Giver]) -> None:
    """Raise ConfigurationError when the method `key=name` reads a column that no part of this run gives.

    Args:
        columns: those it declares.
        later: parts of a step that run after it.
    """
    possible = [column.name for column in COLUMNS.values() if column.given_by not in later]
    unknown = [column for column in columns if column not in possible]
    if unknown:
        problem = f"reads the column {' and '.join(unknown)}, which is not available at that point of a step"
        raise ConfigurationError(key, name, problem, f"Known columns: {', '.join(possible)}")
    of_reference = given_by(REFERENCE, columns)
    if of_reference and not has_reference(config):
        problem = f"needs the {' and '.join(of_reference)} of a frozen reference, and no reference is configured"
        raise ConfigurationError(key, name, problem, _ADD_A_REFERENCE)
    if given_by(CRITIC, columns) and not has_critic(config):
        raise ConfigurationError(key, name, "reads a critic's values, and there is no critic", "Set critic.enable=true")
    correction = config.algorithm.get("rollout_correction") or {}
    of_pass = {ENTROPY: "entropy", INFLUENCE: "entropy", HINDSIGHT_LOG_PROBS: "log-probs"}
    read = next((what for column, what in of_pass.items() if column in columns), None)
    if read is not None and correction.get("bypass_mode", False):
        raise ConfigurationError(
            key,
            name,
            f"reads the policy's {read}, and algorithm.rollout_correction.bypass_mode=true skips the pass that "
            f"computes {'it' if read == 'entropy' else 'them'}",
            "Set algorithm.rollout_correction.bypass_mode=false",
        )


def require_weighting_columns(config: Any, weighting: WeightingSpec) -> None:
    """Raise ConfigurationError when the weighting reads a column that no part of this run gives."""
    key, name, columns = "credit.name", weighting.name, weighting.required_columns
    require_given(config, key, name, columns, later=(WEIGHTING,))
    if INFLUENCE in columns and config.actor_rollout_ref.rollout.n == 1:
        raise ConfigurationError(
            key,
            name,
            "actor_rollout_ref.rollout.n=1: it compares the answers to a prompt, and there is only one",
            "Set actor_rollout_ref.rollout.n to at least 2, or use credit=uniform",
        )
    if CLIP_SCALES in columns:
        algorithm = str(config.algorithm.adv_estimator)
        spec = build_estimator(algorithm, section(config, "estimator"))
        if spec is None or not spec.scales_clip_ranges:
            problem = f"reads {CLIP_SCALES}, and algorithm.adv_estimator={algorithm} gives none"
            raise ConfigurationError(key, name, problem, "Use algorithm=a2tgpo, or another weighting")


def is_diagnosed(config: Any) -> bool:
    """Whether every step logs the diagnostic of credit.diagnostics, which needs the reference's energy.

    Raises ConfigurationError when `run.diagnose` is not a bool, or there is no reference.
    """
    wanted = OmegaConf.select(config, "run.diagnose", default=False)
    require_flag("run.diagnose", wanted)
    if wanted and not has_reference(config):
        problem = "needs the energy of a frozen reference, and no reference is configured"
        raise ConfigurationError("run.diagnose", wanted, problem, _ADD_A_REFERENCE)
    return bool(wanted)


def drops_nonfinite(config: Any) -> bool:
    """Whether prompt groups with a non-finite reward are dropped, instead of ending the run."""
    wanted = OmegaConf.select(config, DROP_NONFINITE, default=False)
    require_flag(DROP_NONFINITE, wanted)
    return bool(wanted)


def require_deviation(config: Any, group_filter: GroupFilter) -> None:
    """Raise ConfigurationError when the filter compares returns within groups and groups have one episode."""
    if config.actor_rollout_ref.rollout.n == 1 and group_filter.needs_deviation:
        raise ConfigurationError(
            "filter.name",
            group_filter.name,
            "actor_rollout_ref.rollout.n=1: a group of one has no deviation of returns, which this filter needs",
            "Set actor_rollout_ref.rollout.n to at least 2, or filter=none",
        )


def require_estimator(config: Any) -> EstimatorSpec | None:
    """Return our advantage estimator with its parameters, None for one of verl's.

    Raises ConfigurationError for an unknown parameter, a missing critic, an unsupported KL penalty in the reward, or
    clip ranges that the loss does not support.
    """
    key, name = "algorithm.adv_estimator", str(config.algorithm.adv_estimator)
    spec = build_estimator(name, section(config, "estimator"))
    if spec is None:
        return None
    require_given(config, key, name, spec.required_columns, later=(MEASUREMENT, COUNTER, ESTIMATOR, WEIGHTING))
    if not spec.definition.spreads_kl and config.algorithm.get("use_kl_in_reward", False):
        raise ConfigurationError(
            "algorithm.use_kl_in_reward",
            True,
            f"{name} does not support a per-token penalty",
            "Set it to false; actor_rollout_ref.actor.use_kl_loss=true is the KL term of the loss",
        )
    loss_mode = str(config.actor_rollout_ref.actor.policy_loss.loss_mode)
    if spec.scales_clip_ranges and loss_mode != TURN_RATIO_LOSS:
        raise ConfigurationError(
            "actor_rollout_ref.actor.policy_loss.loss_mode",
            loss_mode,
            f"has one clip range for all turns, and {name} scales clip ranges per turn",
            f"Set it to {TURN_RATIO_LOSS}, or set the estimator's parameters so that it scales none",
        )
    if spec.definition.by_tree:
        _require_whole_trees(config, name)
    return spec


def _require_whole_trees(config: Any, name: str) -> None:
    if config.algorithm.gamma != 1.0:
        raise ConfigurationError(
            "algorithm.gamma",
            config.algorithm.gamma,
            f"{name} compares returns of episodes that diverge at different turns, which a discount would distort",
            "Set it to 1.0",
        )
    chosen = section(config, "filter").get("name", "none")
    if chosen != "none":
        raise ConfigurationError(
            "filter.name",
            chosen,
            f"{name} selects trained tokens by where the tree branches, and forked episodes are not a representative "
            "sample of a group's returns, which a filter would use",
            "Use filter=none",
        )
