"""What verl's FSDP engines need to build their modules on a CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from actfocus_verl.platforms import packed_attention
from actfocus_verl.platforms.value_model import ConfiguredAttentionMixin

packed_attention.register()  # the engines' modules may name it as their attention


class CPUBuildMixin:
    """FSDP2 on a CPU: no offload to pinned memory, because there is nowhere to offload from."""

    engine_config: Any
    model_config: Any

    def _build_fsdp_module(self, module: nn.Module) -> nn.Module:
        # verl wraps every forward-only engine in CPUOffloadPolicy(pin_memory=True), and pinning needs an accelerator.
        # The flag is used for nothing else while the module is built.
        original = self.engine_config
        self.engine_config = dataclasses.replace(original, forward_only=False)
        try:
            return super()._build_fsdp_module(module)  # type: ignore[misc]
        finally:
            self.engine_config = original


class CPUValueBuildMixin(ConfiguredAttentionMixin, CPUBuildMixin):
    """A critic on a CPU, for which flash attention has no kernel."""
