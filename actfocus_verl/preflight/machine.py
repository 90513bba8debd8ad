"""Whether this machine has what the platform needs, as far as it can be seen without starting Ray."""

from __future__ import annotations

import importlib.util
from typing import Final

import torch
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.config import ray_address
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.platforms.value_model import FLASH_ATTENTION

GPU: Final = "gpu"
_ACTOR_ATTENTION: Final = "actor_rollout_ref.model.override_config.attn_implementation"
_CRITIC_ATTENTION: Final = "critic.model.override_config.attn_implementation"


def check_machine(config: DictConfig) -> None:
    """Raise ConfigurationError when `platform=gpu` has fewer GPUs than asked for, or its attention kernels are missing.

    GPUs are counted only when Ray will be started on this machine for this machine: a cluster that runs already, named
    by `ray_kwargs.ray_init.address` or RAY_ADDRESS, may have its GPUs elsewhere.
    """
    if config.platform.name != GPU:
        return
    if config.trainer.nnodes == 1 and ray_address(config) is None:
        _require_gpus(config.trainer.n_gpus_per_node)
    _require_flash_attention(config)


def _require_gpus(wanted: int) -> None:
    present = torch.cuda.device_count()
    if present < wanted:
        raise ConfigurationError(
            "trainer.n_gpus_per_node",
            wanted,
            f"this machine shows {present} NVIDIA GPUs",
            f"Set trainer.n_gpus_per_node={present}" if present else "Use platform=cpu, or a machine with GPUs",
        )


def _require_flash_attention(config: DictConfig) -> None:
    keys = [_ACTOR_ATTENTION, *([_CRITIC_ATTENTION] if config.critic.enable else [])]
    for key in keys:
        attention = OmegaConf.select(config, key, default=FLASH_ATTENTION)
        if attention == FLASH_ATTENTION and importlib.util.find_spec("flash_attn") is None:
            others = " ".join(f"+{each}=sdpa" for each in keys)
            raise ConfigurationError(
                key,
                attention,
                "the package flash-attn is not installed",
                f"Install flash-attn, or set {others} (slower, and takes more memory)",
            )
