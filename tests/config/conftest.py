"""Configurations composed as the command composes them, and a model folder without a model in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.settings import check_config
from actfocus_verl.train import VERL_CONFIG_VARIABLE, verl_config_folder
from tests.helpers.tokenizer import build_tokenizer

# verl reads it once, when it is imported.
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault(VERL_CONFIG_VARIABLE, str(verl_config_folder()))


def compose_config(*overrides: str) -> DictConfig:
    """The configuration `python -m actfocus_verl.train <overrides>` would see."""
    return _composed(overrides).copy()


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_module("actfocus_verl_configs", version_base=None):
        return compose("train", overrides=list(overrides))


def composed(*overrides: str) -> DictConfig:
    """The configuration of a command line, completed and checked as far as it is before the machine is looked at."""
    config = compose_config(*overrides)
    fill_derived(config)
    check_config(config)
    return config


def changed(config: DictConfig, **values: Any) -> DictConfig:
    """A copy with dotted keys set: `changed(config, **{"credit.alpha": 2})`."""
    copy = config.copy()
    with open_dict(copy):
        for key, value in values.items():
            OmegaConf.update(copy, key, value)
    return copy


@pytest.fixture(scope="session")
def default_config() -> DictConfig:
    """Tests change copies of it."""
    return compose_config()


@pytest.fixture(scope="session")
def ppo_config() -> DictConfig:
    return compose_config("algorithm=ppo", "filter=reward_variance")


ModelFolder = Callable[..., Path]


@pytest.fixture
def model_folder(tmp_path: Path) -> ModelFolder:
    """Makes a folder that looks like a model: tokenizer, config.json, an empty file of weights."""

    def make(*, template: str | None = "qwen", **network: Any) -> Path:
        folder = tmp_path / "model"
        options: dict[str, Any] = {} if template == "qwen" else {"template": template}
        tokenizer = build_tokenizer(**options)
        tokenizer.save_pretrained(folder)
        settings = {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
        }
        (folder / "config.json").write_text(json.dumps(settings | network))
        (folder / "model.safetensors").touch()
        return folder

    return make
