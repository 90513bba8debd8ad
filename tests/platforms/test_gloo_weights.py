"""The weight transport over gloo: two processes, and the shape of verl's calls."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path
from typing import Any

import torch
from verl.checkpoint_engine import CheckpointEngineRegistry

from actfocus_verl.platforms.detached_worker import cloned
from actfocus_verl.platforms.gloo_weights import BACKEND, GlooCheckpointEngine

BUCKET = 64
"""Bytes: less than one of the weights, so that there are several buckets, and one of a single weight."""


def weights(version: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    return {
        "embedding": torch.randn(7, 5, generator=generator),
        "transposed": torch.randn(4, 3, generator=generator).t(),
        "half": torch.randn(9, generator=generator).bfloat16(),
        "scalar": torch.tensor(float(version)),
        "empty": torch.empty(0, 3),
        "ids": torch.arange(3),
    }


def receiver(connection: Any, out: Path) -> None:
    """A server's worker: joins and receives twice."""
    torch.set_num_threads(1)
    engine = CheckpointEngineRegistry.new(BACKEND, bucket_size=BUCKET)
    received = []

    async def receive() -> dict[str, torch.Tensor]:
        return {name: tensor async for name, tensor in engine.receive_weights(global_steps=1)}

    for _ in range(2):
        assert engine.prepare() is None
        engine.init_process_group(**connection.recv())
        received.append(asyncio.run(receive()))
        engine.finalize()
    torch.save(received, out)


def test_two_processes_hold_the_same_weights_after_each_synchronisation(tmp_path: Path) -> None:
    mine, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=receiver, args=(theirs, tmp_path / "out.pt"))
    process.start()
    sender = CheckpointEngineRegistry.new(BACKEND, bucket_size=BUCKET, is_master=True)
    for version in (0, 1):
        master = sender.prepare()
        of_trainer, of_servers = GlooCheckpointEngine.build_topology(1, 1, [master, None])
        mine.send({name: values[0] for name, values in of_servers.items()})
        sender.init_process_group(**{name: values[0] for name, values in of_trainer.items()})
        asyncio.run(sender.send_weights(iter(weights(version).items())))
        sender.finalize()
    process.join(120)
    assert process.exitcode == 0
    for version, received in enumerate(torch.load(tmp_path / "out.pt")):
        assert list(received) == list(weights(version))
        for name, weight in weights(version).items():
            assert received[name].dtype == weight.dtype
            assert torch.equal(received[name], weight)


def test_only_the_first_rank_of_the_trainer_sends() -> None:
    master = {"host": "here", "port": 1}
    of_trainer, of_servers = GlooCheckpointEngine.build_topology(3, 2, [master, None, None, None, None])
    assert of_trainer == {"rank": [0, -1, -1], "world_size": [3, 3, 3], "master": [master] * 3}
    assert of_servers == {"rank": [1, 2], "world_size": [3, 3], "master": [master] * 2}
    other = GlooCheckpointEngine(bucket_size=BUCKET)
    other.init_process_group(-1, 3, master)
    gathered = []
    asyncio.run(other.send_weights((gathered.append(name) or (name, weight) for name, weight in weights(0).items())))
    assert gathered == list(weights(0))  # gathering a weight is collective among the trainer's ranks


def test_a_cloned_state_shares_no_memory() -> None:
    live = torch.zeros(3)
    assert live.detach().cpu().data_ptr() == live.data_ptr()  # on a CPU this is no copy
    state, layout = cloned(({"w": (live.detach().cpu(), "spec")}, "global"))
    live.fill_(1.0)
    assert state["w"][0].tolist() == [0.0, 0.0, 0.0]
    assert (state["w"][1], layout) == ("spec", "global")
