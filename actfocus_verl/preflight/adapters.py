"""LoRA: settings that verl accepts and ignores."""

from __future__ import annotations

from typing import Final

from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError

_MODEL: Final = "actor_rollout_ref.model"
_SAVED: Final = "actor_rollout_ref.actor.checkpoint.save_contents"
_FSDP: Final = ("fsdp", "fsdp2")


def check_adapters(config: DictConfig) -> None:
    """Raise ConfigurationError where verl's FSDP engine would train another model, or save an unusable one."""
    if config.actor_rollout_ref.actor.strategy not in _FSDP:
        return
    rank = OmegaConf.select(config, f"{_MODEL}.lora_rank") or 0
    if rank == 0:
        for name, meaning in (("lora_adapter_path", "the adapter"), ("lora.rank", "Megatron's key")):
            value = OmegaConf.select(config, f"{_MODEL}.{name}")
            if value:
                problem = f"{meaning} is ignored by FSDP while {_MODEL}.lora_rank=0, and all weights are trained"
                raise ConfigurationError(f"{_MODEL}.{name}", value, problem, f"Set {_MODEL}.lora_rank above 0")
    elif "hf_model" in (OmegaConf.select(config, _SAVED) or ()):
        problem = f"with {_MODEL}.lora_rank={rank} verl writes the hf_model under weight names that no loader knows"
        remedy = "Leave hf_model out, and export a checkpoint: python -m actfocus_verl.export"
        raise ConfigurationError(_SAVED, "hf_model", problem, remedy)
