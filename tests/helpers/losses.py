"""verl's actor configuration and loss inputs, small."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig, PolicyLossConfig


def actor_config(
    loss_mode: str = "vanilla", *, policy_loss_settings: dict[str, Any] | None = None, **settings: Any
) -> ActorConfig:
    """verl's actor configuration with the paper's clipping; one a loss, because verl writes batch facts into it."""
    return ActorConfig(
        **{
            "strategy": "fsdp2",
            "rollout_n": 1,
            "use_dynamic_bsz": True,
            "clip_ratio_low": 0.2,
            "clip_ratio_high": 0.28,
            "policy_loss": PolicyLossConfig(loss_mode=loss_mode, **(policy_loss_settings or {})),
        }
        | settings
    )


def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def loss_inputs(
    rows: list[dict[str, torch.Tensor]], *, prompt_tokens: int = 2
) -> tuple[dict[str, torch.Tensor], TensorDict]:
    """What verl hands a loss: the model's outputs over whole sequences, and the batch.

    Args:
        rows: of each sequence the response-aligned columns, (T,) each, `log_probs` among them, `entropy` if wanted.

    Returns:
        The model's outputs, jagged over prompt and response and shifted left as the engine leaves them (position t is
        about token t+1; what lies outside the response is NaN); and the batch with the other columns.
    """
    nothing = torch.full((prompt_tokens - 1,), torch.nan)
    outputs: dict[str, torch.Tensor] = {
        name: jagged([torch.cat([nothing, row[name], nothing[:1]]) for row in rows])
        for name in ("log_probs", "entropy")
        if name in rows[0]
    }
    columns = {name: jagged([row[name] for row in rows]) for name in rows[0] if name not in outputs}
    lengths = [len(row["response_mask"]) for row in rows]
    columns["prompts"] = jagged([torch.zeros(prompt_tokens, dtype=torch.int64) for _ in rows])
    columns["responses"] = jagged([torch.zeros(length, dtype=torch.int64) for length in lengths])
    tokens = int(sum(row["response_mask"].sum() for row in rows))
    facts = {"dp_size": 1, "batch_num_tokens": tokens, "global_batch_size": len(rows)}
    return outputs, tu.get_tensordict(columns, facts)
