"""What a run's processes find in their environment: those it starts inherit it, those of a cluster are told."""

from __future__ import annotations

import os

import pytest
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.train import _set_environment
from tests.config.conftest import changed, compose_config

ADDRESS = "ray_kwargs.ray_init.address"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """One without any of these variables, thrown away afterwards."""
    made = {key: value for key, value in os.environ.items() if key not in ("TENSORBOARD_DIR", "OMP_NUM_THREADS")}
    made.pop("RAY_ADDRESS", None)
    monkeypatch.setattr(os, "environ", made)
    return made


@pytest.fixture
def config() -> DictConfig:
    return changed(compose_config("platform=cpu"), **{"run.dir": "/runs/one"})


def test_workers_anywhere_get_what_the_platform_needs(config: DictConfig, environment: dict[str, str]) -> None:
    _set_environment(config)
    sent = OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env.env_vars, resolve=True)
    assert sent["VERL_PLATFORM"] == environment["VERL_PLATFORM"] == "cpu"
    assert sent["TENSORBOARD_DIR"] == environment["TENSORBOARD_DIR"] == "/runs/one/tensorboard"
    assert sent["OMP_NUM_THREADS"] == environment["OMP_NUM_THREADS"]
    assert sent["VLLM_DISABLE_COMPILE_CACHE"] == "0"  # of the configuration, kept
    assert all(isinstance(value, str) for value in sent.values())  # Ray takes nothing else
    assert environment["RAY_worker_niceness"] == "0"
    assert not [key for key in sent if key.startswith("RAY_")]  # read by the raylet, when it starts


def test_what_the_user_set_wins(config: DictConfig, environment: dict[str, str]) -> None:
    environment["TENSORBOARD_DIR"] = "/logs"
    config = changed(config, **{"ray_kwargs.ray_init.runtime_env.env_vars.VLLM_CPU_OMP_THREADS_BIND": "0-3"})
    _set_environment(config)
    sent = config.ray_kwargs.ray_init.runtime_env.env_vars
    assert (sent.TENSORBOARD_DIR, sent.VLLM_CPU_OMP_THREADS_BIND) == ("/logs", "0-3")


def test_a_ray_of_its_own_has_the_configured_size(config: DictConfig) -> None:
    """Also where somebody ran `ray start` on this machine: its size is another, and Ray would refuse ours."""
    _set_environment(config)
    assert config.ray_kwargs.ray_init.address == "local"
    assert (config.ray_kwargs.ray_init.num_cpus, config.ray_kwargs.ray_init.num_gpus) == (16, 1)


def test_a_cluster_knows_its_own_size(config: DictConfig, environment: dict[str, str]) -> None:
    """Ray refuses both numbers when it joins one."""
    named = changed(config, **{ADDRESS: "10.0.0.1:6379"})
    environment["RAY_ADDRESS"] = "10.0.0.2:6379"  # cpu.yaml reads it when the configuration is used
    for joining in (named, config):
        _set_environment(joining)
        assert joining.ray_kwargs.ray_init.num_cpus is joining.ray_kwargs.ray_init.num_gpus is None
    assert (named.ray_kwargs.ray_init.address, config.ray_kwargs.ray_init.address) == ("10.0.0.1:6379", "10.0.0.2:6379")
