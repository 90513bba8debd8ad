"""A run on none of our worlds (`env=none`): the user's dataset, and an agent loop of verl's or the user's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, ListConfig

from actfocus_verl.config import ACTION_SPAN, NO_WORLD, action_span, require_estimator
from actfocus_verl.errors import ConfigurationError

AGENT_LOOP: Final = "actor_rollout_ref.rollout.agent.default_agent_loop"
"""Rows that hold an `agent_name` choose for themselves."""

_OURS: Final = "actfocus"
_VERLS: Final = ("tool_agent", "single_turn_agent")
"""verl's own loops, which give no columns but the response's ids and mask."""
_FORMATS: Final = (".parquet", ".json", ".jsonl")
_REMOTE: Final = re.compile(r"[a-z0-9]+://")


def check_own_data(config: DictConfig) -> None:
    """Raise ConfigurationError unless there are data files and an agent loop that gives what the methods read."""
    for key in ("train_files", "val_files"):
        _check_files(f"data.{key}", config.data[key], config)
    _check_agent_loop(config, config.actor_rollout_ref.rollout.agent.default_agent_loop)
    if config.get("tiny_policy") and config.model.path is None and config.tiny_policy.env == NO_WORLD:
        raise ConfigurationError(
            "model.path",
            None,
            "the tiny policy is taught by playing a world, and env=none has none",
            "Set model.path, or tiny_policy.env=frozen_lake tiny_policy.preset=clean",
        )


def _check_files(key: str, value: Any, config: DictConfig) -> None:
    files = list(value) if isinstance(value, list | ListConfig) else [value]
    if not files or not all(isinstance(file, str) and file for file in files):
        raise ConfigurationError(
            key, value, "env=none plays no world, so it needs a dataset", f"Set {key} to a .parquet or .jsonl file"
        )
    if config.data.custom_cls.path:  # its class knows what the names mean
        return
    for file in files:
        if not file.endswith(_FORMATS):
            raise ConfigurationError(key, file, "verl reads no such format", f"Use one of {', '.join(_FORMATS)}")
        if not _REMOTE.match(file) and not Path(file).expanduser().is_file():
            raise ConfigurationError(key, file, "there is no such file", f"Correct {key}")


def _check_agent_loop(config: DictConfig, name: Any) -> None:
    if name == _OURS or not name:
        raise ConfigurationError(
            AGENT_LOOP, name, "plays worlds, and env=none has none", f"Use {_VERLS[0]} or a loop of your own"
        )
    if name not in _VERLS:
        return
    if action_span(config) is None:
        raise ConfigurationError(
            ACTION_SPAN,
            "column",
            f"{AGENT_LOOP}={name} gives no column token_roles",
            "Set it to tool_call, answer, a pair of tags or {regex: ...}, or name the loop that gives the column",
        )
    estimator = require_estimator(config)
    missing = [column for column in ("turn_rewards", "anchors") if estimator and column in estimator.columns]
    if estimator is not None and missing:
        raise ConfigurationError(
            "algorithm.adv_estimator",
            estimator.name,
            f"reads {' and '.join(missing)}, and {AGENT_LOOP}={name} gives none",
            "Use algorithm=grpo or algorithm=ppo, or name a loop of your own that gives them",
        )
