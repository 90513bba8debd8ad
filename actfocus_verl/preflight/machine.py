"""Whether this machine has what the platform needs, as far as it can be seen without starting Ray."""

from __future__ import annotations

import importlib.util
import logging
from typing import Final

import torch
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.checks import require_choice
from actfocus_verl.config import ray_address
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.platforms.value_model import FLASH_ATTENTION

logger = logging.getLogger(__name__)

GPU: Final = "gpu"
_CPU_DTYPES: Final = ("float32", "bfloat16")
_TOKENS: Final = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
_LOGIT_BYTES: Final = 12
"""Bytes per logit in an update with an entropy term: bfloat16, its float32 softmax, and the gradients of both."""
_ACTOR_ATTENTION: Final = "actor_rollout_ref.model.override_config.attn_implementation"
_CRITIC_ATTENTION: Final = "critic.model.override_config.attn_implementation"


def check_machine(config: DictConfig) -> None:
    """Raise ConfigurationError when `platform=gpu` lacks GPUs or its attention kernels, or a CPU's dtype is unknown.

    GPUs are counted only when Ray will be started on this machine for this machine: a running cluster, named by
    `ray_kwargs.ray_init.address` or RAY_ADDRESS, may have its GPUs elsewhere.
    """
    if config.platform.name != GPU:
        require_choice("platform.dtype", config.platform.get("dtype", "float32"), choices=_CPU_DTYPES)
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
            f"this machine has {present} visible NVIDIA GPUs",
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


def warn_of_logits(config: DictConfig, vocabulary: int) -> None:
    """Log a warning when a micro-batch's logits would take more than half of a GPU, by estimate.

    vocabulary: the model's output rows. Does nothing where no GPU is visible, and for runs whose actor has
    micro-batches by rows or no entropy term.
    """
    actor = config.actor_rollout_ref.actor
    spared = actor.entropy_from_logits_with_chunking and actor.entropy_checkpointing
    if config.platform.name != GPU or not actor.use_dynamic_bsz or not actor.entropy_coeff or spared:
        return
    gpus = range(torch.cuda.device_count())
    memory = min((torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus), default=0)
    needed = actor.ppo_max_token_len_per_gpu * vocabulary * _LOGIT_BYTES
    if memory and needed > memory / 2:
        logger.warning(
            "%s=%d: the logits of that many tokens, their entropy and the gradients of both take about %.0f GB at a "
            "vocabulary of %d, and a GPU has %.0f GB. "
            "Set actor_rollout_ref.actor.entropy_from_logits_with_chunking=true and "
            "actor_rollout_ref.actor.entropy_checkpointing=true, or lower it.",
            *(_TOKENS, actor.ppo_max_token_len_per_gpu, needed / 1e9, vocabulary, memory / 1e9),
        )
