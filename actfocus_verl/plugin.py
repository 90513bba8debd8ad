"""verl's entry point (`verl.plugins`): registers what we add, and can check that it is registered.

verl imports this module at the end of its own import, in the driver and in every Ray worker, and swallows what it raises. So
`python -m actfocus_verl.plugin --check`, which `train` runs first, is where a missing registration becomes an error.
"""

from __future__ import annotations

import os

PLATFORM_VARIABLE = "VERL_PLATFORM"


def register() -> None:
    """Register the platform, then everything that hangs on verl's registries. Idempotent."""
    _register_platform()
    from actfocus_verl.integration import agent_loop, engine, loss, trainer  # noqa: F401  (imported to register)


def _register_platform() -> None:
    """Register the CPU platform, and prepare a process that has chosen it."""
    from verl.plugin.platform import PlatformRegistry

    from actfocus_verl.platforms.cpu import PLATFORM_NAME, PlatformCPU

    if PlatformRegistry.get(PLATFORM_NAME) is not PlatformCPU:
        PlatformRegistry.register(PLATFORM_NAME)(PlatformCPU)
    if os.environ.get(PLATFORM_VARIABLE, "").strip().lower() != PLATFORM_NAME:
        return
    from actfocus_verl.platforms import process_group, vllm_metadata

    vllm_metadata.install()
    process_group.install()

    from verl.workers.rollout.replica import RolloutReplicaRegistry

    RolloutReplicaRegistry.register("vllm", _load_cpu_replica)


def _load_cpu_replica() -> type:
    """Import vLLM only in the processes that launch a server."""
    from actfocus_verl.platforms.vllm_cpu import CPUvLLMReplica

    return CPUvLLMReplica


register()
