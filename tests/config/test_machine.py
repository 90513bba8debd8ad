"""What the platform needs of the machine."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.machine import check_machine, warn_of_logits
from tests.config.conftest import changed, compose_config


@pytest.fixture(scope="module")
def gpu_config() -> DictConfig:
    return compose_config("platform=gpu")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two GPUs and flash-attn, whatever this one has."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return monkeypatch


def failure(config: DictConfig) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_machine(config)
    return str(caught.value)


def test_a_cpu_needs_nothing(default_config: DictConfig, machine: pytest.MonkeyPatch) -> None:
    machine.setattr("torch.cuda.device_count", lambda: 0)
    check_machine(default_config)


def test_enough_gpus_pass(gpu_config: DictConfig) -> None:
    check_machine(changed(gpu_config, **{"trainer.n_gpus_per_node": 2}))


def test_too_few_gpus(gpu_config: DictConfig, machine: pytest.MonkeyPatch) -> None:
    assert failure(gpu_config) == (
        "trainer.n_gpus_per_node=4: this machine has 2 visible NVIDIA GPUs. Set trainer.n_gpus_per_node=2"
    )
    machine.setattr("torch.cuda.device_count", lambda: 0)
    assert failure(gpu_config).endswith(
        "this machine has 0 visible NVIDIA GPUs. Use platform=cpu, or a machine with GPUs"
    )


ADDRESS = "ray_kwargs.ray_init.address"


def test_a_clusters_gpus_are_elsewhere(gpu_config: DictConfig, machine: pytest.MonkeyPatch) -> None:
    check_machine(changed(gpu_config, **{"trainer.nnodes": 2}))
    for address in ("auto", "10.0.0.1:6379", "ray://10.0.0.1:10001"):
        check_machine(changed(gpu_config, **{ADDRESS: address}))
    machine.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_machine(gpu_config)


def test_a_ray_of_its_own_has_this_machines(gpu_config: DictConfig, machine: pytest.MonkeyPatch) -> None:
    machine.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # which a named address wins over, as in ray.init
    assert "this machine has 2 visible NVIDIA GPUs" in failure(changed(gpu_config, **{ADDRESS: "local"}))
    machine.setenv("RAY_ADDRESS", "")
    assert "this machine has 2 visible NVIDIA GPUs" in failure(gpu_config)


def test_missing_attention_kernels(gpu_config: DictConfig, machine: pytest.MonkeyPatch) -> None:
    machine.setattr("torch.cuda.device_count", lambda: 4)
    machine.setattr("importlib.util.find_spec", lambda name: None)
    key = "actor_rollout_ref.model.override_config.attn_implementation"
    assert failure(gpu_config).startswith(
        f"{key}='flash_attention_2': the package flash-attn is not installed. Install"
    )
    check_machine(changed(gpu_config, **{key: "sdpa"}))


def test_missing_attention_kernels_of_the_critic(machine: pytest.MonkeyPatch) -> None:
    """It takes its own key: verl does not hand the actor's on."""
    machine.setattr("torch.cuda.device_count", lambda: 4)
    machine.setattr("importlib.util.find_spec", lambda name: None)
    actor, critic = (
        f"{model}.override_config.attn_implementation" for model in ("actor_rollout_ref.model", "critic.model")
    )
    config = changed(compose_config("platform=gpu", "algorithm=ppo"), **{actor: "sdpa"})
    assert failure(config) == (
        f"{critic}='flash_attention_2': the package flash-attn is not installed. Install flash-attn, or set "
        f"+{actor}=sdpa +{critic}=sdpa (slower, and takes more memory)"
    )
    check_machine(changed(config, **{critic: "sdpa"}))


QWEN = 151_936
"""Output rows of Qwen2.5-0.5B, 1.5B and 3B."""


@pytest.mark.parametrize(
    ("gigabytes", "values", "warned"),
    [
        # 16,384 x 151,936 x 12 bytes = 29.9 GB
        (80, {}, False),
        (40, {}, True),
        (40, {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 8192}, False),
        (24, {"actor_rollout_ref.actor.entropy_coeff": 0}, False),
        (24, {f"actor_rollout_ref.actor.{key}": True for key in ("entropy_from_logits_with_chunking",)}, True),
        (
            24,
            {
                f"actor_rollout_ref.actor.{key}": True
                for key in ("entropy_from_logits_with_chunking", "entropy_checkpointing")
            },
            False,
        ),
    ],
)
def test_logits_that_fill_a_gpu_are_warned_about(
    gpu_config: DictConfig,
    machine: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gigabytes: int,
    values: dict[str, object],
    warned: bool,
) -> None:
    gpu = SimpleNamespace(total_memory=gigabytes * 10**9)
    machine.setattr("torch.cuda.get_device_properties", lambda index: gpu)
    with caplog.at_level(logging.WARNING):
        warn_of_logits(changed(gpu_config, **values), QWEN)
    assert ("take about 30 GB at a vocabulary of 151936, and a GPU has" in caplog.text) == warned


def test_a_machine_without_gpus_says_nothing_about_theirs(
    gpu_config: DictConfig, machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.setattr("torch.cuda.device_count", lambda: 0)
    warn_of_logits(gpu_config, QWEN)
    assert caplog.text == ""
