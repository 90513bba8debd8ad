"""verl's settings that would do nothing in a world are refused, and left alone where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.not_for_worlds import NOT_FOR_WORLDS, check_not_for_worlds
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import changed

CHANGES: dict[str, Any] = {
    "actor_rollout_ref.rollout.multi_turn.tool_config_path": "tools.yaml",
    "actor_rollout_ref.rollout.multi_turn.function_tool_path": "tools.py",
    "actor_rollout_ref.rollout.multi_turn.max_assistant_turns": 3,
    "actor_rollout_ref.rollout.multi_turn.max_user_turns": 3,
    "actor_rollout_ref.rollout.multi_turn.use_inference_chat_template": True,
    "data.truncation": "left",
    "data.tokenizer": "organisation/name",
}


@pytest.mark.parametrize("key", sorted(NOT_FOR_WORLDS))
def test_a_setting_without_effect_is_one_line(default_config: DictConfig, key: str) -> None:
    config = changed(default_config, **{key: CHANGES[key]})
    fill_derived(config)
    with pytest.raises(ConfigurationError) as caught:
        check_config(config)
    assert str(caught.value).startswith(f"{key}={CHANGES[key]!r}: ")
    assert "Leave it out" in caught.value.remedy
    assert "\n" not in str(caught.value)


def test_the_neutral_values_are_verls_own(default_config: DictConfig) -> None:
    check_not_for_worlds(default_config)
    for key, refused in NOT_FOR_WORLDS.items():
        assert OmegaConf.select(default_config, key, throw_on_missing=True) == refused.neutral
        assert OmegaConf.select(default_config, key.rpartition(".")[0])._get_node(key.rpartition(".")[2]) is not None
