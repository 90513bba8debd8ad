"""The actor's loss with token weights (Eq. 6), on verl's own clipped surrogate.

Eq. 6: L = -(1 / sum_t w_t) * sum_t w_t * min(rho_t A_t, clip(rho_t, 1 - eps_low, 1 + eps_high) A_t)

verl's vanilla loss multiplies its per-token surrogate by `rollout_is_weights` and divides by the mini-batch's token
count. Token weights of mean 1 over those tokens (credit.normalize) make that division the one by sum_t w_t. KL and
entropy terms are added by verl afterwards and see no weights. Weights of exactly 1 change no bit of loss or gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, register_policy_loss
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss

LOSS_MODE = "token_weighted"
WEIGHTS_COLUMN = "token_weights"
_IMPORTANCE_COLUMN = "rollout_is_weights"


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
    """verl's clipped surrogate times a weight a token; all tensors (B, T).

    The weights arrive as `rollout_is_weights`, the one per-token factor verl hands to a policy loss. Raises ValueError
    when none arrive: then the trainer is not ours and the loss would silently be unweighted.
    """
    if rollout_is_weights is None:
        raise ValueError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode='{LOSS_MODE}': no token weights reached the actor. "
            "Set trainer.v1.trainer_mode=actfocus_sync, or loss_mode=vanilla."
        )
    return compute_policy_loss_vanilla(
        old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights
    )


def token_weighted_ppo_loss(
    config: ActorConfig, model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Any]]:
    """verl's `ppo_loss` with the column `token_weights` multiplied into the surrogate.

    For `actor_rollout_wg.set_loss_fn(partial(token_weighted_ppo_loss, config=actor_config))`. verl's own importance
    weights of a rollout correction, when present, are kept as a factor.
    """
    data = data.copy()  # shallow: the caller's micro-batch keeps its columns
    data[_IMPORTANCE_COLUMN] = _per_token_factor(data)
    return ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)


def _per_token_factor(data: TensorDict) -> torch.Tensor:
    """Return token weights times importance weights, jagged (B, T), and 0 on masked tokens: NaN there reaches nothing.

    Row by row, because torch multiplies no two jagged tensors that were built apart, whatever their lengths.
    """
    factors = data[WEIGHTS_COLUMN].unbind()
    if _IMPORTANCE_COLUMN in data:
        importance = data[_IMPORTANCE_COLUMN].unbind()
        factors = [factor * row for factor, row in zip(factors, importance, strict=True)]
    masks = data["response_mask"].unbind()
    masked = [torch.where(mask.bool(), factor, 0.0) for factor, mask in zip(factors, masks, strict=True)]
    return torch.nested.as_nested_tensor(masked, layout=torch.jagged)
