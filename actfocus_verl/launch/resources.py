"""Whether Ray can place what a run asks for: asked before anything is placed, because verl waits for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import ray
from omegaconf import OmegaConf

from actfocus_verl.errors import ConfigurationError

_WORKER_SLOT_CPUS = 3
"""CPUs verl reserves beside each GPU slot (`ResourcePoolManager.max_colocate_count`)."""
_PLACEMENT_CPUS = 1
"""Every other actor (task runner, agent loops, reward workers, servers) names no CPU: Ray then wants one free while it
places the actor, and gives it back."""
_KEYS: Final = {"CPU": "ray_kwargs.ray_init.num_cpus", "GPU": "trainer.n_gpus_per_node"}
_REMEDIES: Final = {
    "CPU": "Set ray_kwargs.ray_init.num_cpus to at least that (the CPUs are logical and may exceed the real ones), or "
    "lower transfer_queue.backend.SimpleStorage.num_data_storage_units",
    "GPU": "Lower trainer.n_gpus_per_node or trainer.nnodes, or raise ray_kwargs.ray_init.num_gpus on a CPU machine",
}


def demanded(config: Any) -> dict[str, float]:
    """Return the logical CPUs and GPUs that a run of this configuration reserves.

    CPUs held for the whole run: one for TransferQueue's controller and for each of its storage units, and three beside
    every GPU slot, which actor, critic, reference and server share. One more has to be free.
    """
    slots = config.trainer.n_gpus_per_node * config.trainer.nnodes
    queue = 1 + config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    return {"CPU": float(queue + _WORKER_SLOT_CPUS * slots + _PLACEMENT_CPUS), "GPU": float(slots)}


def check_resources(config: Any, available: Mapping[str, float] | None = None) -> None:
    """Raise when the cluster is too small, instead of hanging in it.

    Args:
        config: the whole configuration.
        available: resource -> amount; the connected Ray cluster's by default.

    Raises:
        ConfigurationError: names the resource that is short, what is asked, what there is, and the key that changes it.
    """
    available = ray.cluster_resources() if available is None else available
    for resource, amount in demanded(config).items():
        have = available.get(resource, 0.0)
        if have < amount:
            raise ConfigurationError(
                _KEYS[resource],
                OmegaConf.select(config, _KEYS[resource]),
                f"the run asks Ray for {amount:g} {resource}, the cluster has {have:g}",
                _REMEDIES[resource],
            )
