"""What verl's FSDP engines need to build their modules on a CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from actfocus_verl.platforms import packed_attention

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


class CPUValueBuildMixin(CPUBuildMixin):
    """A critic whose attention is the configured one: verl hard-codes flash_attention_2, which has no CPU kernel."""

    def _build_module(self) -> nn.Module:
        from transformers import AutoModelForTokenClassification
        from verl.utils.torch_dtypes import PrecisionType

        hf_config = self.model_config.hf_config
        hf_config.num_labels = 1
        hf_config.classifier_dropout = 0.0
        dtype = PrecisionType.to_dtype(self.engine_config.model_dtype)
        module = AutoModelForTokenClassification.from_pretrained(
            self.model_config.local_path,
            config=hf_config,
            dtype=dtype,
            trust_remote_code=self.model_config.trust_remote_code,
        ).to(dtype)
        module.config.architectures = [type(module).__name__]  # a checkpoint says what it is, not what it was made from
        if self.model_config.enable_gradient_checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return module
