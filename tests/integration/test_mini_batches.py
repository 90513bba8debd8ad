"""Mini-batch indices agree with the way verl's dispatch and workers cut a batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils as tu

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.mini_batches import cut, mini_batch_ids


def simulated(rows: int, mini_batch_rows: int, ranks: int) -> list[int]:
    """verl's own functions: the dispatch chunks the keys, each worker iterates over its rows."""
    batch = KVBatchMeta(keys=[str(row) for row in range(rows)], tags=[{}] * rows)
    indices = [-1] * rows
    for chunk in batch.chunk(ranks):
        data = tu.get_tensordict({"row": torch.tensor([int(key) for key in chunk.keys])})
        iterator = tu.make_iterator(
            data, mini_batch_rows // ranks, epochs=1, seed=42, dataloader_kwargs={"shuffle": False}
        )
        for index, mini_batch in enumerate(iterator):
            for row in mini_batch["row"].tolist():
                indices[row] = index
    return indices


@pytest.mark.parametrize(
    ("rows", "mini_batch_rows", "ranks"),
    [(8, 8, 1), (8, 4, 1), (8, 2, 2), (8, 8, 4), (24, 6, 3), (96, 32, 4), (16, 4, 4)],
)
def test_cut_agrees_with_verl(rows: int, mini_batch_rows: int, ranks: int) -> None:
    assert cut(rows, mini_batch_rows, ranks).tolist() == simulated(rows, mini_batch_rows, ranks)


def test_cut_by_hand() -> None:
    # two ranks have rows 0-3 and 4-7, and take two rows each a mini-batch
    assert cut(8, 4, 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def actor(shuffle: bool) -> tuple[object, object]:
    actor = {"ppo_mini_batch_size": 2, "shuffle": shuffle}
    config = OmegaConf.create({"actor_rollout_ref": {"actor": actor, "rollout": {"n": 2}}})
    return config, SimpleNamespace(_dispatch_info={"actor": [0, 1]})


def test_sizes_come_from_the_configuration_and_the_workers() -> None:
    assert mini_batch_ids(8, *actor(shuffle=False)).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_shuffled_mini_batches_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"actor.shuffle=True.*Set .*shuffle=False, or credit.normalize=batch"):
        mini_batch_ids(8, *actor(shuffle=True))
