"""A critic with the configured attention, where verl would build every value model with flash_attention_2."""

from __future__ import annotations

from typing import Any

from torch import nn

FLASH_ATTENTION = "flash_attention_2"


class ConfiguredAttentionMixin:
    """Builds the value model with `model.override_config.attn_implementation`; with verl's own code when that is flash.

    Sequence parallelism needs verl's own way, because it patches flash attention; preflight rejects it for others.
    """

    engine_config: Any
    model_config: Any

    def _build_module(self) -> nn.Module:
        hf_config = self.model_config.hf_config
        if hf_config._attn_implementation == FLASH_ATTENTION:
            return super()._build_module()  # type: ignore[misc]
        from transformers import AutoModelForTokenClassification
        from verl.utils.torch_dtypes import PrecisionType

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
