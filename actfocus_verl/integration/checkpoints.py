"""Engine checkpoints that others can load: they describe the model, not how this run computed it."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

ADAPTER_CONFIG: Final = "adapter_config.json"
"""peft's file; beside verl's shards it says how to merge an adapter."""

_ATTENTION: Final = "attn_implementation"


class PortableCheckpointMixin:
    """Saves a configuration without the attention's name, and for a LoRA adapter peft's full configuration.

    verl writes `override_config.attn_implementation` into the model's configuration and that into the checkpoint. The
    name may exist in this process only (`packed_sdpa`), or need a package that the reader does not have. Of an adapter
    verl saves rank and alpha only, which lose rsLoRA, DoRA and per-layer ranks.
    """

    module: Any
    rank: int

    def _build_module(self) -> nn.Module:
        module: nn.Module = super()._build_module()  # type: ignore[misc]
        forget_attention(module.config)
        return module

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """See verl's engine. local_path: the folder of this model's shards."""
        adapters = getattr(self.module, "peft_config", None)
        if adapters and self.rank == 0:  # before fsdp_config.json, which says that rank 0 is done
            next(iter(adapters.values())).save_pretrained(local_path)
        super().save_checkpoint(local_path, *args, **kwargs)  # type: ignore[misc]


def forget_attention(config: Any) -> None:
    """Remove the attention's name from what a transformers configuration saves; the model keeps using it."""
    vars(config).pop(_ATTENTION, None)
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            forget_attention(part)
