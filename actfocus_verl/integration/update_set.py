"""Tokens dropped from the update, by an estimator or a rollout correction.

They leave the loss with its denominators, KL and entropy terms.
"""

from __future__ import annotations

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from actfocus_verl.integration.columns import padded_columns, write_columns

_MASKS = ("response_mask", "loss_mask")
"""verl's loss reads the first one and counts its tokens by the second."""


def keep_only(batch: KVBatchMeta, update_set: torch.Tensor | None) -> tuple[KVBatchMeta, int]:
    """Make both masks 0 outside `update_set`, (B, T), bool; return the batch and the tokens that are left.

    None keeps the response mask: a rollout correction rejects tokens there and leaves the other mask alone,
    by which the loss would be divided by more tokens than it sums over.

    With none left nothing is written: the caller skips the update, which would divide by zero.
    """
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])
    mask = padded_columns(data)["response_mask"]
    kept = mask if update_set is None else torch.where(update_set, mask, torch.zeros_like(mask))
    count = int((kept != 0).sum())
    if count == 0:
        return batch, 0
    return write_columns(batch, dict.fromkeys(_MASKS, kept), data["response_mask"]), count
