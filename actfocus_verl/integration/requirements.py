"""Requirements on a configuration for token weights to act in the update as their method defines.

Used by the checks before a run and by the trainer, so that verl's own commands are checked as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from omegaconf import OmegaConf
from verl.workers.engine import EngineRegistry

from actfocus_verl.columns import RELEVANCE
from actfocus_verl.config import estimator_columns
from actfocus_verl.credit.filters import GroupFilter
from actfocus_verl.credit.registry import WeightingSpec
from actfocus_verl.credit.signals import ENERGY, LOGIT_SIGNALS
from actfocus_verl.credit.weighting import UNIFORM
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.engine import FSDP_BACKENDS, EnergyMixin
from actfocus_verl.integration.half_chosen import LOSS
from actfocus_verl.integration.loss import LOSS_MODE, UNWEIGHTED_LOSSES, WEIGHTED_LOSSES

_LOGGER: Final = logging.getLogger(__name__)
_AGGREGATION: Final = "actor_rollout_ref.actor.loss_agg_mode"
_CORRECTION: Final = "algorithm.rollout_correction"

_INSTEAD_OF_EQUATION_6: Final = {
    "seq-mean-token-mean": "an episode's weighted sum is divided by its own number of tokens, so that a token of an "
    "episode of T tokens counts mean(T) / T times as much",
    "seq-mean-token-sum": "the weighted sum is divided by the number of episodes: Eq. 6 times the mean length of the "
    "mini-batch's episodes, which is a larger learning rate where they are longer",
    "seq-mean-token-sum-norm": "the weighted sum is divided by the number of episodes and by actor.loss_scale_factor: "
    "Eq. 6 times a factor; without that key each micro-batch is divided by its own longest response",
    "token-sum": "the weighted sum is not divided: Eq. 6 times the number of the mini-batch's tokens",
}
"""What other values of `loss_agg_mode` than token-mean do instead of dividing by the sum of the weights."""


def require_weights_in_effect(
    config: Any, weighting: WeightingSpec, group_filter: GroupFilter, *, diagnosed: bool
) -> None:
    """Raise ConfigurationError for weights that would have no effect, or whose signals cannot be computed.

    A divisor other than Eq. 6's is logged as a warning.
    """
    require_weighted_loss(config, weighting, group_filter)
    require_correction(config)
    require_signals(config, weighting, diagnosed=diagnosed)
    require_relevance(config, weighting)
    warning = aggregation_warning(config, weighting)
    if warning is not None:
        _LOGGER.warning(warning)


def require_weighted_loss(config: Any, weighting: WeightingSpec, group_filter: GroupFilter) -> None:
    """Raise ConfigurationError when weights other than 1 are chosen and the loss does not multiply tokens by them."""
    loss = str(OmegaConf.select(config, LOSS))
    if loss in WEIGHTED_LOSSES:
        return
    reason = UNWEIGHTED_LOSSES.get(loss, "it is not known to multiply each token's loss by the token's weight")
    for key, name, weighs, neutral in (
        ("credit", weighting.name, weighting.name != UNIFORM, UNIFORM),
        ("filter", group_filter.name, group_filter.definition.scales, "none"),
    ):
        if weighs:
            raise ConfigurationError(
                LOSS,
                loss,
                f"{reason}, and {key}={name} gives tokens different weights",
                f"Set {LOSS}={LOSS_MODE}, or use {key}={neutral}",
            )


def require_correction(config: Any) -> None:
    """Raise ConfigurationError for a rollout correction that verl would silently leave out."""
    correction = OmegaConf.select(config, _CORRECTION) or {}
    asked = [name for name in ("rollout_is", "rollout_rs") if correction.get(name) is not None]
    if not asked:
        return
    key, value = f"{_CORRECTION}.{asked[0]}", correction[asked[0]]
    if correction.get("bypass_mode", False):
        raise ConfigurationError(
            key,
            value,
            f"verl leaves it out with {_CORRECTION}.bypass_mode=true, where the clipped ratio is taken to the rollout",
            f"Set {_CORRECTION}.bypass_mode=false, or {key}=null",
        )
    if not config.actor_rollout_ref.rollout.calculate_log_probs:
        raise ConfigurationError(
            key,
            value,
            "verl leaves it out without the rollout's log-probs",
            f"Set actor_rollout_ref.rollout.calculate_log_probs=true, or {key}=null",
        )


def rejects_tokens(config: Any) -> bool:
    """Whether a rollout correction removes tokens from the response mask (`rollout_rs`)."""
    return OmegaConf.select(config, f"{_CORRECTION}.rollout_rs") is not None


def aggregation_warning(config: Any, weighting: WeightingSpec) -> str | None:
    """Return what the loss is instead of Eq. 6 under this `loss_agg_mode`, in one line; None where it is Eq. 6."""
    mode = str(OmegaConf.select(config, _AGGREGATION))
    instead = _INSTEAD_OF_EQUATION_6.get(mode)
    if instead is None or weighting.name == UNIFORM:
        return None
    return f"{_AGGREGATION}={mode} is not Eq. 6, which divides by the sum of the weights as token-mean does: {instead}"


def logit_signals(columns: Iterable[str], *, diagnosed: bool) -> list[str]:
    """Return the signals of the reference's logits among the columns that methods read, and the diagnostic's."""
    wanted = {*columns, *((ENERGY,) if diagnosed else ())}
    return [name for name in LOGIT_SIGNALS if name in wanted]


def require_signals(config: Any, weighting: WeightingSpec, *, diagnosed: bool) -> None:
    """Raise ConfigurationError when a signal of the reference's logits is needed and its engine returns none.

    On a machine without accelerators verl looks for the engine of an NVIDIA GPU; what the workers have shows in the
    first pass (`no_signals`).
    """
    signals = logit_signals((*weighting.required_columns, *estimator_columns(config)), diagnosed=diagnosed)
    if not signals:
        return
    strategy = str(OmegaConf.select(config, _reference_strategy(config)))
    if strategy not in FSDP_BACKENDS or not issubclass(
        EngineRegistry.get_engine_cls("language_model", strategy), EnergyMixin
    ):
        raise no_signals(config, signals)


def require_relevance(config: Any, weighting: WeightingSpec) -> None:
    """Raise ConfigurationError when the relevance of tokens is needed and the actor's engine cannot compute it.

    FSDP 1 gathers parameters for a backward pass only if that reaches them.
    """
    if RELEVANCE not in (*weighting.required_columns, *estimator_columns(config)):
        return
    for key, supported in (
        ("actor_rollout_ref.actor.strategy", "fsdp2"),
        ("actor_rollout_ref.model.use_fused_kernels", False),
    ):
        value = OmegaConf.select(config, key)
        if value != supported:
            raise ConfigurationError(
                key,
                value,
                "gives no relevance of tokens: the pass needs FSDP2, and logits",
                f"Set {key}={str(supported).lower()}, or use credit=uniform",
            )


def no_signals(config: Any, signals: Sequence[str]) -> ConfigurationError:
    """The error for an engine of the reference pass that does not return these signals."""
    key = _reference_strategy(config)
    return ConfigurationError(
        key,
        OmegaConf.select(config, key),
        f"this engine returns no {' and '.join(signals)} here: only FSDP on NVIDIA and AMD GPUs and on a CPU does",
        f"Set {key}=fsdp2, or use credit=uniform and run.diagnose=false, which need none",
    )


def _reference_strategy(config: Any) -> str:
    """The key of the engine that runs the reference pass: with an adapter the actor, as verl decides it."""
    model = config.actor_rollout_ref.model
    rank = (model.get("lora") or {}).get("rank", 0) or model.get("lora_rank", 0)
    of_actor = rank > 0 or model.get("lora_adapter_path") is not None
    return f"actor_rollout_ref.{'actor' if of_actor else 'ref'}.strategy"
