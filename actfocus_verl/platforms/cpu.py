"""verl's platform interface for a plain CPU (`VERL_PLATFORM=cpu`).

verl asks its platform for a device, a collective backend and a Ray resource. A CPU has one device, speaks gloo, and
owns no accelerator, so Ray's `GPU` resource is used as a number of *logical* slots: `ray_init.num_gpus=N` means N
training processes.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform import PlatformBase

PLATFORM_NAME = "cpu"


class CPUDeviceModule(ModuleType):
    """`torch.cpu` plus the memory calls verl makes on `torch.cuda`.

    Memory figures are the process's peak resident set in bytes: the closest thing a CPU process has to
    `torch.cuda.max_memory_allocated`.
    """

    def __init__(self) -> None:
        super().__init__("torch.cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def get_device_name(self, device: Any = None) -> str:
        # verl looks this up in a table of peak FLOPS. No entry is right for every processor; none must match: MFU is 0.
        return "cpu"

    def empty_cache(self) -> None:
        """Nothing is cached: the allocator is malloc."""

    def ipc_collect(self) -> None:
        """No device handles are shared between processes."""

    def max_memory_allocated(self, device: Any = None) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    memory_allocated = max_memory_reserved = memory_reserved = max_memory_allocated

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """The kernel keeps one peak per process and cannot reset it."""

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """(available, total) bytes of main memory."""
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class PlatformCPU(PlatformBase):
    """One CPU device per process; gloo; `GPU` as logical Ray slots."""

    def __init__(self) -> None:
        self._device_module = CPUDeviceModule()

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "generic"

    @property
    def device_module(self) -> ModuleType:
        return self._device_module

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Never chosen by auto-detection: a GPU machine whose driver is missing must not silently train on its CPU.
        return False

    def current_device(self) -> Any:
        # verl passes this to `Tensor.to`; an index would mean an accelerator.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: Any) -> None:
        """There is only one."""

    def synchronize(self, device_index: Any = None) -> None:
        """CPU work is synchronous."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """malloc has no expandable segments."""

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        # False makes verl's weight sync use POSIX shared memory.
        return False

    def cudart(self) -> Any:
        return None
