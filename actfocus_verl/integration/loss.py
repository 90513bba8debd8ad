"""The actor's loss with token weights (Eq. 6), on verl's own clipped surrogate.

Eq. 6: L = -(1 / sum_t w_t) * sum_t w_t * min(rho_t A_t, clip(rho_t, 1 - eps_low, 1 + eps_high) A_t)

verl's vanilla loss multiplies its per-token surrogate by `rollout_is_weights` and divides by the mini-batch's token
count. Token weights of mean 1 over those tokens (credit.normalize) make that division the one by sum_t w_t. KL and
entropy terms are added by verl afterwards and see no weights. Weights of exactly 1 change no bit of loss or gradient.

`turn_ratio` is the same surrogate with a turn's ratio in place of a token's and a clip range that may differ by turn.
verl hands a policy loss neither turn ids nor such a range, so `token_weighted_ppo_loss` keeps them for its call.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_vanilla, register_policy_loss
from verl.utils.torch_functional import masked_mean

from actfocus_verl.columns import CLIP_SCALES, TOKEN_WEIGHTS, TURN_IDS
from actfocus_verl.config import TOKEN_WEIGHTED_LOSS, TURN_RATIO_LOSS
from actfocus_verl.credit.turns import Turns
from actfocus_verl.integration.columns import padded_columns, require_columns

if TYPE_CHECKING:
    from verl.workers.config import ActorConfig

LOSS_MODE = TOKEN_WEIGHTED_LOSS
OUR_LOSSES = (LOSS_MODE, TURN_RATIO_LOSS)
WEIGHTED_LOSSES: Final = (
    *OUR_LOSSES,
    *("vanilla", "dppo_tv", "dppo_kl", "gspo", "gpg", "clip_cov", "kl_cov", "dro", "cispo"),
)
"""Losses whose gradient at a token is the token's weight times the unweighted gradient, as a test proves."""
UNWEIGHTED_LOSSES: Final = {
    "geo_mean": "it takes the geometric mean of an episode's weights, one factor for all its tokens",
    "bypass_mode": "it computes its own factors, and ignores others",
    "sapo": "it averages within each episode, whatever loss_agg_mode is, so it never divides by the sum of the weights",
}
"""The other known losses, and what they do with token weights. They get none: their weights must be 1."""
_IMPORTANCE_COLUMN = "rollout_is_weights"
_LARGEST_LOG_RATIO = 10.0


@dataclass(frozen=True)
class TurnColumns:
    """What the turn-level ratio needs of a micro-batch besides what verl passes to a policy loss."""

    turns: Turns
    clip_scales: torch.Tensor | None
    """(B, T): factor of each token's clip range; None: 1."""


_TURNS: ContextVar[TurnColumns | None] = ContextVar("actfocus_verl_turn_columns", default=None)


@register_policy_loss(LOSS_MODE)
def token_weighted_policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's clipped surrogate times a per-token weight; all tensors (B, T).

    The weights arrive as `rollout_is_weights`, the one per-token factor verl passes to a policy loss. Raises ValueError
    when none arrive: then the trainer is not ours and the loss would silently be unweighted.
    """
    if rollout_is_weights is None:
        raise _not_our_trainer(LOSS_MODE, "no token weights")
    return compute_policy_loss_vanilla(
        old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights
    )


@register_policy_loss(TURN_RATIO_LOSS)
def turn_ratio_policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """A2TGPO's surrogate times a per-token weight; all tensors (B, T).

        rho_t = sg(exp(mean over t's turn of log pi - log pi_old)) * pi(t) / sg(pi(t)), its log at most 10
        -w_t * min(rho_t A_t, clip(rho_t, 1 - c_t eps_low, 1 + c_t eps_high) A_t)

    sg: stop-gradient; only the token's own log-probability has a gradient, as in GSPO (arXiv 2507.18071). c: the column
    `clip_scales`, 1 without one. Raises ValueError when the trainer is not ours.
    """
    columns = _TURNS.get()
    if columns is None or rollout_is_weights is None:
        raise _not_our_trainer(TURN_RATIO_LOSS, "neither token weights nor turns")
    assert config is not None, "verl passes the actor's configuration"
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    log_ratio = log_prob.detach() - old_log_prob
    of_turn = columns.turns.to_tokens(columns.turns.mean(log_ratio))
    ratio = (log_prob - log_prob.detach() + of_turn).clamp(max=_LARGEST_LOG_RATIO).exp()
    scale = 1.0 if columns.clip_scales is None else columns.clip_scales
    clipped = ratio.clamp(1 - scale * low, 1 + scale * high)
    losses, clipped_losses = -advantages * ratio, -advantages * clipped
    surrogate = torch.maximum(losses, clipped_losses) * rollout_is_weights
    loss = agg_loss(
        loss_mat=torch.where(response_mask.bool(), surrogate, 0.0),
        loss_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        **config.global_batch_info,
    )
    metrics = {
        "actor/pg_clipfrac": masked_mean((clipped_losses > losses).float(), response_mask).item(),
        "actor/ppo_kl": masked_mean(-log_ratio, response_mask).item(),
        "actor/pg_clipfrac_lower": 0.0,
    }
    if columns.clip_scales is not None:
        metrics["actor/clip_scale"] = masked_mean(columns.clip_scales, response_mask).item()
    return loss, metrics


def _not_our_trainer(loss_mode: str, missing: str) -> ValueError:
    return ValueError(
        f"actor_rollout_ref.actor.policy_loss.loss_mode='{loss_mode}': {missing} reached the actor. "
        "Set trainer.v1.trainer_mode=actfocus_sync, or loss_mode=vanilla."
    )


def token_weighted_ppo_loss(
    config: ActorConfig, model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's `ppo_loss` with the column `token_weights` multiplied into the surrogate.

    For `actor_rollout_wg.set_loss_fn(partial(token_weighted_ppo_loss, config=actor_config))`. verl's own importance
    weights of a rollout correction, when present, are kept as a factor. A loss that is not in `WEIGHTED_LOSSES` is
    verl's own: `requirements.require_weighted_loss` has seen to it that all weights are 1.
    """
    from verl.workers.utils.losses import ppo_loss  # it imports the module that makes verl import this one

    if config.policy_loss.loss_mode not in WEIGHTED_LOSSES:
        return ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
    data = data.copy()  # shallow: the caller's micro-batch keeps its columns
    data[_IMPORTANCE_COLUMN] = _per_token_factor(data)
    if config.policy_loss.loss_mode != TURN_RATIO_LOSS:
        return ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
    token = _TURNS.set(_turn_columns(data))
    try:
        return ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
    finally:
        _TURNS.reset(token)


def _turn_columns(data: TensorDict) -> TurnColumns:
    """Return the turns of a micro-batch and, where an estimator gives them, its clip scales.

    Raises ConfigurationError when the agent loop gives no turns.
    """
    mode = "actor_rollout_ref.actor.policy_loss.loss_mode"
    require_columns(data, [TURN_IDS], mode, TURN_RATIO_LOSS, otherwise=f"loss_mode={LOSS_MODE}")
    columns = padded_columns(data.select(TURN_IDS, "response_mask", CLIP_SCALES, strict=False))
    turns = Turns.of(columns[TURN_IDS], columns["response_mask"].bool())
    return TurnColumns(turns, columns.get(CLIP_SCALES))


def _per_token_factor(data: TensorDict) -> torch.Tensor:
    """Return token weights times importance weights, jagged (B, T), and 0 on masked tokens: NaN there has no effect.

    Row by row, because torch does not multiply jagged tensors that were built separately.
    """
    factors = data[TOKEN_WEIGHTS].unbind()
    if _IMPORTANCE_COLUMN in data:
        importance = data[_IMPORTANCE_COLUMN].unbind()
        factors = [factor * row for factor, row in zip(factors, importance, strict=True)]
    masks = data["response_mask"].unbind()
    masked = [torch.where(mask.bool(), factor, 0.0) for factor, mask in zip(factors, masks, strict=True)]
    return torch.nested.as_nested_tensor(masked, layout=torch.jagged)
