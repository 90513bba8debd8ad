"""verl's platform interface on a plain CPU."""

from __future__ import annotations

import functools
import os

import psutil
import pytest
import torch
from verl.plugin.platform import PlatformRegistry, get_platform
from verl.utils import distributed
from verl.utils.device import get_device_id, get_device_name, get_nccl_backend, get_torch_device
from verl.workers.rollout.replica import RolloutReplicaRegistry

from actfocus_verl import plugin
from actfocus_verl.platforms import process_group
from actfocus_verl.platforms.cpu import PlatformCPU

pytestmark = pytest.mark.skipif(os.environ["VERL_PLATFORM"] != "cpu", reason="VERL_PLATFORM is not cpu")


def test_verl_runs_on_it() -> None:
    assert PlatformRegistry.get("cpu") is PlatformCPU
    assert type(get_platform()) is PlatformCPU
    assert get_device_name() == "cpu"
    assert get_device_id() == torch.device("cpu")
    assert get_nccl_backend() == "gloo"


def test_it_implements_all_verl_asks_of_a_platform() -> None:
    assert PlatformCPU.__abstractmethods__ == frozenset()


def test_it_is_never_chosen_by_itself() -> None:
    assert not PlatformCPU().is_platform_available(use_smi_check=True)
    assert PlatformCPU().is_available()


def test_ray_slots_are_logical_gpus_and_weights_go_through_shared_memory() -> None:
    platform = PlatformCPU()
    assert platform.ray_resource_name() == "GPU"
    assert not platform.is_ipc_supported()
    assert platform.get_device_capability() == (None, None)
    assert platform.device_count() == 1


@pytest.mark.parametrize(
    "name",
    [
        *("empty_cache", "ipc_collect", "synchronize", "is_available", "current_stream", "set_device", "device_count"),
        *("mem_get_info", "memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"),
        *("reset_peak_memory_stats", "get_rng_state", "set_rng_state", "get_device_name", "Stream", "stream"),
    ],
)
def test_the_device_module_has_what_verl_calls_on_torch_cuda(name: str) -> None:
    assert callable(getattr(get_torch_device(), name))


def test_memory_is_that_of_the_process_in_bytes() -> None:
    peak = get_torch_device().max_memory_allocated()
    assert 0.5 < peak / psutil.Process().memory_info().rss < 10
    available, total = get_torch_device().mem_get_info()
    assert 0 < available <= total == psutil.virtual_memory().total


def test_random_state_round_trips() -> None:
    device = get_torch_device()
    state = device.get_rng_state()
    first = torch.rand(3)
    device.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)


def test_no_flops_table_matches_a_cpu() -> None:
    from verl.utils.flops_counter import get_device_flops

    assert get_device_flops() == float("inf")  # so MFU is 0 instead of a wrong number


def test_process_groups_are_gloo_by_default_and_installing_twice_is_once() -> None:
    current = distributed.initialize_global_process_group_ray
    process_group.install(distributed)
    assert distributed.initialize_global_process_group_ray is current
    assert isinstance(current, functools.partial)
    assert current.keywords == {"backend": "cpu:gloo"}
    assert not isinstance(current.func, functools.partial)


def test_the_vllm_replica_is_the_cpu_one() -> None:
    assert RolloutReplicaRegistry._registry["vllm"] is plugin._load_cpu_replica


def test_registering_again_changes_nothing() -> None:
    before = plugin.registrations()
    plugin.register()
    assert plugin.registrations() == before
