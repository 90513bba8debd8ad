"""Whether Ray can place what a run requests: checked before anything is placed, because verl would wait forever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray
from omegaconf import OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.cluster import living_nodes

_WORKER_SLOT_CPUS = 3
"""CPUs verl reserves beside each GPU slot (`ResourcePoolManager.max_colocate_count`)."""
_SERVER_SLOT_CPUS = 2
"""The same in the pool of a server with devices of its own."""
_SEPARATE_MODES: Final = ("separate_async", "actfocus_separate_async")
_PLACEMENT_CPUS = 1
"""Every other actor (task runner, agent loops, reward workers, servers) requests no CPU: Ray then needs one free CPU
while it places the actor, and releases it."""
_KEYS: Final = {"CPU": "ray_kwargs.ray_init.num_cpus", "GPU": "trainer.n_gpus_per_node"}
_STORAGE: Final = "lower transfer_queue.backend.SimpleStorage.num_data_storage_units"
_OWN: Final = {
    "CPU": "Set ray_kwargs.ray_init.num_cpus to at least that (the CPUs are logical and may exceed the real ones), or "
    f"{_STORAGE}",
    "GPU": "Lower trainer.n_gpus_per_node or trainer.nnodes, or raise ray_kwargs.ray_init.num_gpus on a CPU machine",
}
_JOINED: Final = {
    "CPU": "Start its nodes with more (ray start --num-cpus: they are logical and may exceed the real ones), or "
    f"{_STORAGE}",
    "GPU": "Lower trainer.n_gpus_per_node or trainer.nnodes, or start Ray on more nodes (ray start --address=...)",
}
_NO_CLUSTER: Final = (
    "Start Ray on every node (ray start --head on one, ray start --address=<its address> on the others) and set the "
    "environment variable RAY_ADDRESS or ray_kwargs.ray_init.address to that address, or lower trainer.nnodes"
)


def demanded(config: Any) -> dict[str, float]:
    """Return the logical CPUs and GPUs that a run of this configuration reserves.

    CPUs held for the whole run: one for TransferQueue's controller and for each of its storage units, and three beside
    every GPU slot, which actor, critic, reference and server share. One more has to be free. A reward model with a pool
    of its own has its own slots, and so have servers beside the trainer, with two CPUs each.
    """
    slots = config.trainer.n_gpus_per_node * config.trainer.nnodes + _reward_slots(config)
    queue = 1 + config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    servers = _server_slots(config)
    cpus = queue + _WORKER_SLOT_CPUS * slots + _SERVER_SLOT_CPUS * servers + _PLACEMENT_CPUS
    return {"CPU": float(cpus), "GPU": float(slots + servers)}


def _server_slots(config: Any) -> int:
    """Slots of servers beside the trainer (`schedule=separate_async`)."""
    if OmegaConf.select(config, "trainer.v1.trainer_mode", default="") not in _SEPARATE_MODES:
        return 0
    rollout = config.actor_rollout_ref.rollout
    return int(rollout.nnodes * rollout.n_gpus_per_node)


def _reward_slots(config: Any) -> int:
    model = config.reward.reward_model
    return int(model.n_gpus_per_node * model.nnodes) if model.enable_resource_pool else 0


def check_resources(
    config: Any,
    available: Mapping[str, float] | None = None,
    nodes: Sequence[Mapping[str, Any]] | None = None,
    *,
    joined: bool = False,
) -> None:
    """Raise when the cluster is too small, instead of hanging.

    Args:
        config: the whole configuration.
        available: resource -> amount; the connected Ray cluster's by default.
        nodes: entries of `ray.nodes()`; by default those that are alive.
        joined: whether the cluster ran before this run, so that its nodes' sizes are not settings of the run.

    Raises:
        ConfigurationError: names the resource, the amount needed, the amount available, and the key to change.
    """
    available = ray.cluster_resources() if available is None else available
    for resource, amount in demanded(config).items():
        have = available.get(resource, 0.0)
        if have < amount:
            raise ConfigurationError(
                _KEYS[resource],
                OmegaConf.select(config, _KEYS[resource]),
                f"the run needs {amount:g} {resource}{_pool(config)}, the cluster has {have:g}",
                _remedy(config, resource, joined=joined),
            )
    _check_nodes(config, living_nodes() if nodes is None else nodes)


def _pool(config: Any) -> str:
    slots = _reward_slots(config)
    return f" ({slots} of the GPU slots are reward.reward_model's own pool)" if slots else ""


def _remedy(config: Any, resource: str, *, joined: bool) -> str:
    if joined:
        return _JOINED[resource]
    return _NO_CLUSTER if config.trainer.nnodes > 1 else _OWN[resource]


def _check_nodes(config: Any, nodes: Sequence[Mapping[str, Any]]) -> None:
    """verl places the processes of a node together (STRICT_PACK), so a sufficient total is not enough."""
    size, wanted = config.trainer.n_gpus_per_node, config.trainer.nnodes
    amounts = [node["Resources"] for node in nodes]
    places = sum(
        int(min(each.get("GPU", 0.0) // size, each.get("CPU", 0.0) // (_WORKER_SLOT_CPUS * size))) for each in amounts
    )
    if places < wanted:
        found = ", ".join(f"{each.get('GPU', 0.0):g} GPU and {each.get('CPU', 0.0):g} CPU" for each in amounts)
        raise ConfigurationError(
            "trainer.n_gpus_per_node",
            size,
            f"the run needs {wanted} nodes (trainer.nnodes) with {size} GPU and {_WORKER_SLOT_CPUS * size} CPU "
            f"each, and the cluster's nodes have {found}",
            "Set trainer.n_gpus_per_node to the GPUs of one node, and trainer.nnodes to the number of such nodes",
        )
