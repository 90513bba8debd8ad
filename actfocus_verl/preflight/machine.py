"""Whether this machine has what the platform needs, as far as it can be seen without starting Ray."""

from __future__ import annotations

import importlib.util
import os

import torch
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError

GPU: str = "gpu"
FLASH_ATTENTION: str = "flash_attention_2"
_RAY_ADDRESS = "RAY_ADDRESS"


def check_machine(config: DictConfig) -> None:
    """Raise ConfigurationError when `platform=gpu` has fewer GPUs than asked for, or its attention kernels are missing.

    GPUs are counted only when Ray will be started on this machine for this machine: a cluster that runs already may
    have its GPUs elsewhere.
    """
    if config.platform.name != GPU:
        return
    if config.trainer.nnodes == 1 and not os.environ.get(_RAY_ADDRESS):
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
    key = "actor_rollout_ref.model.override_config"
    attention = OmegaConf.select(config, f"{key}.attn_implementation", default=FLASH_ATTENTION)
    if attention == FLASH_ATTENTION and importlib.util.find_spec("flash_attn") is None:
        raise ConfigurationError(
            f"{key}.attn_implementation",
            attention,
            "the package flash-attn is not installed",
            f"Install flash-attn, or set +{key}.attn_implementation=sdpa (slower; the critic of PPO needs flash-attn)",
        )
