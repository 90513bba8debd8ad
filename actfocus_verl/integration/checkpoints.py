"""Engine checkpoints that others can load: they describe the model, not how this run computed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from torch import nn

from actfocus_verl.run_files import STEP_FOLDER, checkpoint_step, saved_steps

ADAPTER_CONFIG: Final = "adapter_config.json"
"""peft's file; beside verl's shards it says how to merge an adapter."""

_ATTENTION: Final = "attn_implementation"


class PortableCheckpointMixin:
    """Saves a configuration without the attention's name, and for a LoRA adapter peft's full configuration.

    And keeps a complete checkpoint at any moment, and no more of them than `max_*_ckpt_to_keep`, resumed or not.

    verl writes `override_config.attn_implementation` into the model's configuration and that into the checkpoint. The
    name may exist in this process only (`packed_sdpa`), or need a package that the reader does not have. Of an adapter
    verl saves rank and alpha only, which lose rsLoRA, DoRA and per-layer ranks.
    """

    module: Any
    rank: int
    checkpoint_manager: Any
    _resumed_from: Path | None = None
    """The checkpoint that was loaded, until the first save."""

    def _build_module(self) -> nn.Module:
        module: nn.Module = super()._build_module()  # type: ignore[misc]
        forget_attention(module.config)
        return module

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """See verl's engine. local_path: the folder of this model's shards."""
        super().load_checkpoint(local_path, *args, **kwargs)  # type: ignore[misc]
        self._resumed_from = Path(local_path)

    def save_checkpoint(
        self,
        local_path: str,
        hdfs_path: str | None = None,
        global_step: int = 0,
        max_ckpt_to_keep: int | None = None,
        **kwargs: Any,
    ) -> None:
        """See verl's engine. local_path: the folder of this model's shards."""
        if max_ckpt_to_keep == 1:
            # verl would remove the last checkpoint before the tracker names this one: killed in between, none is left
            max_ckpt_to_keep = 2
        if max_ckpt_to_keep and self._resumed_from is not None:
            self.checkpoint_manager.previous_saved_paths = kept_before(
                self._resumed_from, Path(local_path), max_ckpt_to_keep
            )
        self._resumed_from = None
        adapters = getattr(self.module, "peft_config", None)
        if adapters and self.rank == 0:  # before fsdp_config.json, which says that rank 0 is done
            next(iter(adapters.values())).save_pretrained(local_path)
        super().save_checkpoint(  # type: ignore[misc]
            local_path, hdfs_path, global_step, max_ckpt_to_keep, **kwargs
        )


def kept_before(resumed_from: Path, saved: Path, count: int) -> list[str]:
    """The last `count` checkpoints up to the one a run resumed from, oldest first, which verl's manager does not know.

    Both paths are of a model's shards, `<checkpoints>/global_step_<step>/<role>`. Those of another folder than `saved`,
    and all but the last `count`, are not this run's to remove.
    """
    last = checkpoint_step(resumed_from.parent)
    if last is None or resumed_from.parent.parent != saved.parent.parent:
        return []
    folders = [saved.parent.parent / f"{STEP_FOLDER}{step}" / saved.name for step in saved_steps(saved.parent.parent)]
    steps = {folder: checkpoint_step(folder.parent) for folder in folders if folder.is_dir()}
    return [str(folder) for folder, step in steps.items() if step is not None and step <= last][-count:]


def forget_attention(config: Any) -> None:
    """Remove the attention's name from what a transformers configuration saves; the model keeps using it."""
    vars(config).pop(_ATTENTION, None)
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            forget_attention(part)
