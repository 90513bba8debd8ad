"""Which mini-batch of the actor's update each row of a training batch will be in."""

from __future__ import annotations

from typing import Any

import torch

from actfocus_verl.errors import ConfigurationError


def mini_batch_ids(rows: int, config: Any, actor_worker_group: Any) -> torch.Tensor:
    """Return the mini-batch index of each row, int64 (rows,), as verl's workers will cut them.

    verl gives each data-parallel rank a contiguous chunk and cuts it in order; mini-batch m is the union of all ranks'
    m-th pieces. With shuffling the workers make the cut, which cannot be known here.

    Raises:
        ConfigurationError: `actor.shuffle` is on.
    """
    actor = config.actor_rollout_ref.actor
    if actor.shuffle:
        raise ConfigurationError(
            "credit.normalize",
            "mini_batch",
            "actor.shuffle=True cuts mini-batches inside the workers",
            "Set actor_rollout_ref.actor.shuffle=False, or credit.normalize=batch.",
        )
    ranks = max(actor_worker_group._dispatch_info["actor"]) + 1
    return cut(rows, actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n, ranks)


def cut(rows: int, mini_batch_rows: int, ranks: int) -> torch.Tensor:
    """Return mini-batch indices for `rows` rows cut into mini-batches of `mini_batch_rows` over `ranks` ranks."""
    position_in_rank = torch.arange(rows) % (rows // ranks)
    return position_in_rank // (mini_batch_rows // ranks)
