"""What the configuration means beyond verl's keys: the readings of it that several rooms share.

The checks made before a run starts are in `actfocus_verl.preflight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actfocus_verl.credit.checks import check_flag
from actfocus_verl.credit.estimators import EstimatorSpec, build_estimator
from actfocus_verl.credit.registry import WeightingSpec
from actfocus_verl.errors import ConfigurationError

_NOT_OF_THE_WORLD = ("name", "preset", "seed", "train_size", "evaluation_size")

_GIVEN_BY_THE_REFERENCE = {
    "energy": "energy",
    "reference_entropy": "entropy",
    "gauge_free_energy": "gauge-free energy",
    "ref_log_prob": "log-probs",
}
"""Columns that only a reference pass writes, and what to call them."""

_ADD_A_REFERENCE = (
    "Set actor_rollout_ref.actor.use_kl_loss=true actor_rollout_ref.actor.kl_loss_coef=0: a reference without "
    "a KL force, at the cost of one forward pass a step and its weights in memory (none with LoRA)"
)


def world_overrides(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the world's own keys of the `env` section that are set; null means the preset's value."""
    return {key: env[key] for key in env if key not in _NOT_OF_THE_WORLD and env[key] is not None}


def has_reference(config: Any) -> bool:
    """Whether verl runs a frozen reference: it does when a KL term is on, whatever its coefficient."""
    return bool(config.algorithm.get("use_kl_in_reward", False) or config.actor_rollout_ref.actor.use_kl_loss)


def require_reference(config: Any, weighting: WeightingSpec) -> None:
    """Raise ConfigurationError when the weighting reads a column of the reference pass and there is no such pass."""
    wanted = [name for column, name in _GIVEN_BY_THE_REFERENCE.items() if column in weighting.required_columns]
    if wanted and not has_reference(config):
        raise ConfigurationError(
            "credit.name",
            weighting.name,
            f"needs the {' and '.join(wanted)} of a frozen reference, and no reference is configured",
            _ADD_A_REFERENCE,
        )


def is_diagnosed(config: Any) -> bool:
    """Whether every step logs the diagnostic of credit.diagnostics, which needs the reference's energy.

    Raises ConfigurationError when `run.diagnose` is no bool, or there is no reference.
    """
    wanted = config.run.get("diagnose", False)
    check_flag("run.diagnose", wanted)
    if wanted and not has_reference(config):
        problem = "needs the energy of a frozen reference, and no reference is configured"
        raise ConfigurationError("run.diagnose", wanted, problem, _ADD_A_REFERENCE)
    return bool(wanted)


def require_entropy(config: Any, weighting: WeightingSpec) -> None:
    """Raise ConfigurationError when the weighting reads the policy's entropy and no pass computes it."""
    correction = config.algorithm.get("rollout_correction") or {}
    if "entropy" in weighting.required_columns and correction.get("bypass_mode", False):
        raise ConfigurationError(
            "credit.name",
            weighting.name,
            "reads the policy's entropy, and algorithm.rollout_correction.bypass_mode=true leaves out the pass that "
            "computes it",
            "Set algorithm.rollout_correction.bypass_mode=false",
        )


def require_estimator(config: Any) -> EstimatorSpec | None:
    """Return our advantage estimator with its parameters, None for one of verl's.

    Raises ConfigurationError for a parameter it does not have, a critic it lacks, or a KL penalty it has no place for.
    """
    key, name = "algorithm.adv_estimator", str(config.algorithm.adv_estimator)
    spec = build_estimator(name, dict(config.get("estimator") or {}))
    if spec is None:
        return None
    if spec.needs_values and not config.critic.enable:
        raise ConfigurationError(key, name, "reads a critic's values, and there is no critic", "Set critic.enable=true")
    if not spec.spreads_kl and config.algorithm.get("use_kl_in_reward", False):
        raise ConfigurationError(
            "algorithm.use_kl_in_reward",
            True,
            f"{name} has no place for a penalty of single tokens",
            "Set it to false; actor_rollout_ref.actor.use_kl_loss=true is the KL term of the loss",
        )
    return spec
