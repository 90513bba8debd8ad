"""Settings of LoRA that verl takes and does not follow: refused, each in one line."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.adapters import check_adapters
from tests.config.conftest import changed

MODEL = "actor_rollout_ref.model"
SAVED = "actor_rollout_ref.actor.checkpoint.save_contents"
HF_MODEL = ["model", "optimizer", "extra", "hf_model"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {f"{MODEL}.lora_adapter_path": "some/adapter"},
            rf"{MODEL}.lora_adapter_path='some/adapter': the adapter is ignored by FSDP while {MODEL}.lora_rank=0",
        ),
        ({f"{MODEL}.lora.rank": 8}, rf"{MODEL}.lora.rank=8: Megatron's key is ignored by FSDP"),
        ({f"{MODEL}.lora_rank": 8, SAVED: HF_MODEL}, rf"{SAVED}='hf_model': with {MODEL}.lora_rank=8 verl writes"),
    ],
)
def test_what_verl_would_not_follow(default_config: DictConfig, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_adapters(changed(default_config, **values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {SAVED: HF_MODEL},
        {f"{MODEL}.lora_rank": 8},
        {f"{MODEL}.lora_rank": 8, f"{MODEL}.lora_adapter_path": "some/adapter"},
        {f"{MODEL}.lora.rank": 8, "actor_rollout_ref.actor.strategy": "megatron"},
    ],
)
def test_what_it_follows(default_config: DictConfig, values: dict[str, Any]) -> None:
    check_adapters(changed(default_config, **values))
