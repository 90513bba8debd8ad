"""TransferQueue's key-value interface in this process: the same calls and the same packing, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transfer_queue
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta


class LocalQueue:
    """Rows by key. Tensor columns come back jagged, Python objects as a NonTensorStack, as from the real storage."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, Any]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this queue behind `transfer_queue`'s functions, for verl's modules and ours."""
        for name in ("kv_batch_get", "kv_batch_put", "kv_clear"):
            monkeypatch.setattr(transfer_queue, name, getattr(self, name))

    def kv_batch_get(
        self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str] | None = None
    ) -> TensorDict:
        rows = [self.rows[key] for key in keys]
        common = set.intersection(*(set(row) for row in rows))
        names = [name for name in select_fields or sorted(common) if name in common]
        return TensorDict({name: _packed([row[name] for row in rows]) for name in names}, batch_size=len(keys))

    def kv_batch_put(
        self,
        keys: Sequence[str],
        partition_id: str,
        fields: TensorDict,
        tags: Sequence[dict[str, Any]] | None = None,
    ) -> KVBatchMeta:
        for position, key in enumerate(keys):
            row = self.rows.setdefault(key, {})
            row.update({name: _unpacked(column, position) for name, column in fields.items()})
            self.tags.setdefault(key, {}).update(tags[position] if tags else {})
        names = sorted(set.intersection(*(set(self.rows[key]) for key in keys)))
        return KVBatchMeta(
            keys=list(keys), tags=[self.tags[key] for key in keys], partition_id=partition_id, fields=names
        )

    def kv_clear(self, keys: Sequence[str], partition_id: str) -> None:
        for key in keys:
            del self.rows[key], self.tags[key]

    def fill(self, rows: dict[str, dict[str, Any]], partition_id: str = "train") -> KVBatchMeta:
        """Store rows as an agent loop does, with the tags it gives them."""
        for key, row in rows.items():
            self.rows[key] = dict(row)
            lengths = {"prompt_len": len(row["prompts"]), "response_len": len(row["responses"])}
            steps = {"global_steps": 0, "min_global_steps": 0, "max_global_steps": 0}
            self.tags[key] = {"status": "success", "seq_len": sum(lengths.values()), **lengths, **steps}
        return KVBatchMeta(keys=list(rows), tags=[self.tags[key] for key in rows], partition_id=partition_id)


def _packed(values: list[Any]) -> Any:
    if not all(isinstance(value, torch.Tensor) for value in values):
        return NonTensorStack(*values)
    if all(value.dim() == 0 for value in values):
        return torch.stack(values)
    return torch.nested.as_nested_tensor(values, layout=torch.jagged)


def _unpacked(column: Any, position: int) -> Any:
    value = column.unbind()[position] if isinstance(column, torch.Tensor) else column[position]
    return getattr(value, "data", value) if not isinstance(value, torch.Tensor) else value
