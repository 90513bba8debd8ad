"""Weights from trainer to servers over gloo, which needs no accelerator: verl's checkpoint engine `gloo`.

Chosen by `rollout.checkpoint_engine.backend=gloo`, with this module as its `custom_backend_module`; `schedule=
separate_async platform=cpu` sets both. Trainer rank 0 broadcasts to all servers; the other ranks only take part in
gathering each weight.
"""

from __future__ import annotations

import datetime
import pickle
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

BACKEND: Final = "gloo"
TIMEOUT: Final = datetime.timedelta(minutes=10)
"""How long a process waits for the others, who may still be loading weights; then one of them is gone."""
_Bucket = list[tuple[str, torch.Tensor]]


@CheckpointEngineRegistry.register(BACKEND)
class GlooCheckpointEngine(CheckpointEngine):
    """Broadcasts buckets of named tensors in a process group made for each synchronisation.

    Args:
        bucket_size: bytes after which a bucket is sent; a larger tensor is a bucket of its own.
        is_master: whether this is trainer rank 0, which sends.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._bucket_size = bucket_size
        self._is_master = is_master
        self._store: dist.TCPStore | None = None
        self._group: dist.ProcessGroupGloo | None = None

    def prepare(self) -> dict[str, Any] | None:
        """Open the store at which the group meets; returns its address, or None for all but the sender."""
        if not self._is_master:
            return None
        host = ray.util.get_node_ip_address().strip("[]") if ray.is_initialized() else "127.0.0.1"
        self._store = dist.TCPStore(host, 0, is_master=True, timeout=TIMEOUT, wait_for_workers=False)
        return {"host": host, "port": self._store.port}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any] | None]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Rank 0 is the sender, -1 the trainer's other ranks, and the servers' workers follow.

        metadata: what each `prepare` returned, the trainer's first.
        """
        size = 1 + rollout_world_size
        return (
            _arguments([0] + [-1] * (actor_wg_world_size - 1), size, metadata[0]),
            _arguments(list(range(1, size)), size, metadata[0]),
        )

    def init_process_group(self, rank: int, world_size: int, master: dict[str, Any]) -> None:
        """Join the group; a rank of -1 does not."""
        if rank < 0:
            return
        if self._store is None:
            self._store = dist.TCPStore(
                master["host"], master["port"], is_master=False, timeout=TIMEOUT, wait_for_workers=False
            )
        self._group = dist.ProcessGroupGloo(self._store, rank, world_size, TIMEOUT)

    def finalize(self) -> None:
        """Leave the group: the next synchronisation may have other members."""
        self._group = None
        self._store = None

    @torch.no_grad()
    async def send_weights(self, weights: Iterator[tuple[str, torch.Tensor]], global_steps: int | None = None) -> None:
        """Send all weights; ranks outside the group gather theirs and send nothing."""
        bucket: _Bucket = []
        size = 0
        for name, weight in weights:
            if self._group is None:
                continue
            if bucket and size + weight.nbytes > self._bucket_size:
                self._send(bucket)
                bucket, size = [], 0
            bucket.append((name, weight))
            size += weight.nbytes
        if self._group is not None:
            self._send(bucket)
            self._broadcast_object(None)

    @torch.no_grad()
    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Yield (name, weight) in the order sent; each is a tensor of its own."""
        while (layout := self._broadcast_object(None)) is not None:
            for name, shape, dtype in layout:
                weight = torch.empty(shape, dtype=dtype)
                self._broadcast(weight)
                yield name, weight

    def _send(self, bucket: _Bucket) -> None:
        self._broadcast_object([(name, tuple(weight.shape), weight.dtype) for name, weight in bucket])
        for _, weight in bucket:
            self._broadcast(weight.detach().cpu().contiguous())

    def _broadcast(self, tensor: torch.Tensor) -> None:
        """From rank 0, in place on the others."""
        assert self._group is not None, "verl calls init_process_group first"
        if tensor.numel():
            group: Any = self._group  # torch's stubs leave its methods out
            group.broadcast([tensor]).wait()

    def _broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        content = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        length = torch.tensor([content.numel()])
        self._broadcast(length)
        received = content if self._is_master else torch.empty(int(length), dtype=torch.uint8)
        self._broadcast(received)
        return pickle.loads(received.numpy().tobytes())  # of this run's own trainer


def _arguments(ranks: list[int], world_size: int, master: dict[str, Any] | None) -> dict[str, list[Any]]:
    """Arguments of `init_process_group`, one of each per process."""
    count = len(ranks)
    return {"rank": ranks, "world_size": [world_size] * count, "master": [master] * count}
