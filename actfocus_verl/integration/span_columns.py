"""The columns `token_roles` and `turn_ids` of rows whose agent loop gives none: verl's own loops or a user's.

They are made on the driver, once per step, from what every loop gives: the response's ids and mask. So they need no
hook in the loop, its worker or its manager.
"""

from __future__ import annotations

from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from actfocus_verl.columns import TOKEN_ROLES, TURN_IDS
from actfocus_verl.config import ACTION_SPAN
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout import ActionSpan, TokenDecoder, span_roles


class SpanColumns:
    """Completes a batch. span: what counts as an action; None: the agent loop's own `token_roles` say."""

    def __init__(self, span: ActionSpan | None, tokenizer: Any) -> None:
        self._span = span
        self._decoder = None if span is None else TokenDecoder(tokenizer)

    def complete(self, batch: KVBatchMeta, data: TensorDict) -> TensorDict:
        """Return `data` with both columns, jagged (B, T) int64, which are then in the queue as well.

        A configured span replaces the loop's own roles. Turn ids are made only where there are none: runs of sampled
        tokens, numbered from 0 within the row.

        Args:
            data: columns of the batch's rows, including those of the two that are in the queue.

        Raises:
            ConfigurationError: neither a span nor the loop says which tokens are actions.
        """
        if self._span is None and TOKEN_ROLES not in data.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
            raise ConfigurationError(
                ACTION_SPAN,
                "column",
                "the agent loop of this run gives no column token_roles, so it is unknown which tokens are actions",
                "Set it to tool_call, answer, a pair of tags or {regex: ...} "
                "(docs/use_with_your_verl_run.md), or use a loop whose output is a TokenColumnsOutput",
            )
        missing = [TURN_IDS] if TURN_IDS not in data.keys() else []  # noqa: SIM118
        if self._span is not None:
            missing.append(TOKEN_ROLES)
        if missing:
            made = self._make(missing, batch)
            tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=made)
            data.update(made)
        return data

    def _make(self, names: list[str], batch: KVBatchMeta) -> TensorDict:
        fields = ["response_mask", *(["responses"] if TOKEN_ROLES in names else [])]
        rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        masks = [mask.bool() for mask in rows["response_mask"].unbind()]
        columns = {}
        if TURN_IDS in names:
            columns[TURN_IDS] = [turn_ids(mask) for mask in masks]
        if TOKEN_ROLES in names:
            columns[TOKEN_ROLES] = [
                torch.from_numpy(span_roles(self._span, self._decoder, ids.tolist(), mask.numpy()))  # type: ignore[arg-type]
                for ids, mask in zip(rows["responses"].unbind(), masks, strict=True)
            ]
        nested = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in columns.items()}
        return TensorDict(nested, batch_size=len(batch.keys))


def turn_ids(sampled: torch.Tensor) -> torch.Tensor:
    """Return the run of sampled tokens that each of T tokens is in, from 0, and -1 outside; int64 (T,).

    Args:
        sampled: (T,), bool.
    """
    begins = sampled & ~torch.cat([sampled.new_zeros(1), sampled[:-1]])
    return torch.where(sampled, begins.cumsum(0) - 1, -1)
