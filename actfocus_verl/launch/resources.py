"""Whether Ray can place what a run asks for: asked before anything is placed, because verl waits for placement without a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from verl.trainer.ppo.utils import need_critic

from actfocus_verl.errors import ConfigurationError

_WORKER_SLOT_CPUS = 3
"""CPUs verl reserves beside each GPU slot (`ResourcePoolManager.max_colocate_count`)."""
_TRANSIENT_CPUS = 1
"""verl runs a one-CPU helper task while it starts the worker group."""


def demanded(config: Any) -> dict[str, float]:
    """Return the logical CPUs and GPUs that verl's actors reserve for this configuration.

    One CPU each: the task runner, TransferQueue's controller and storage units, agent-loop and reward workers, the request
    router, a server a replica; three beside every GPU slot; two more for what verl starts and ends on the way.
    """
    slots = config.trainer.n_gpus_per_node * config.trainer.nnodes
    rollout = config.actor_rollout_ref.rollout
    replicas = max(1, slots // (rollout.tensor_model_parallel_size * rollout.data_parallel_size))
    actors = (
        1  # task runner
        + 1  # TransferQueue's controller
        + config.transfer_queue.backend.SimpleStorage.num_data_storage_units
        + rollout.agent.num_workers
        + config.reward.num_workers
        + 1  # request router
        + replicas
        + int(need_critic(config))
    )
    return {"CPU": float(actors + _WORKER_SLOT_CPUS * slots + _TRANSIENT_CPUS), "GPU": float(slots)}


def check_resources(config: Any, available: Mapping[str, float] | None = None) -> None:
    """Raise when the cluster is too small, instead of hanging in it.

    Args:
        config: the whole configuration.
        available: resource -> amount; the connected Ray cluster's by default.

    Raises:
        ConfigurationError: names the resource that is short, what is asked, what there is, and the key that changes it.
    """
    available = ray.cluster_resources() if available is None else available
    keys = {"CPU": "ray_kwargs.ray_init.num_cpus", "GPU": "trainer.n_gpus_per_node"}
    for resource, amount in demanded(config).items():
        have = available.get(resource, 0.0)
        if have < amount:
            value = config.ray_kwargs.ray_init.num_cpus if resource == "CPU" else config.trainer.n_gpus_per_node
            raise ConfigurationError(
                keys[resource],
                value,
                f"the run asks Ray for {amount:g} {resource}, the cluster has {have:g}",
                "Set ray_kwargs.ray_init.num_cpus to at least that (the CPUs are logical and may exceed the real ones), or "
                "lower actor_rollout_ref.rollout.agent.num_workers, reward.num_workers and "
                "transfer_queue.backend.SimpleStorage.num_data_storage_units"
                if resource == "CPU"
                else "Lower trainer.n_gpus_per_node or trainer.nnodes, or raise ray_kwargs.ray_init.num_gpus on a CPU machine",
            )
