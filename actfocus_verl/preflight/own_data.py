"""A run on none of our worlds (`env=none`): the user's dataset, and an agent loop of verl's or the user's."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any, Final

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from actfocus_verl.columns import OWN_LOOP, given_by
from actfocus_verl.config import ACTION_SPAN, NO_WORLD, action_span, require_estimator, section
from actfocus_verl.credit.registry import build_weighting
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.data_files import Sample, is_remote, read_sample
from actfocus_verl.preflight.user_agent import GATEWAY_LOOP, TASK_DATASET, check_agent
from actfocus_verl.preflight.user_code import require_file, require_object

AGENT_LOOP: Final = "actor_rollout_ref.rollout.agent.default_agent_loop"
"""Rows may choose their own loop in `agent_name`."""

_OURS: Final = "actfocus"
_VERLS: Final = ("tool_agent", "single_turn_agent")
"""verl's own loops, which give no columns except the response's ids and mask."""
_FORMATS: Final = (".parquet", ".json", ".jsonl")
_LOOP_FILE: Final = "actor_rollout_ref.rollout.agent.agent_loop_config_path"
_TOOLS: Final = "actor_rollout_ref.rollout.multi_turn"
_PROMPT: Final = "data.prompt_key"
_REWARD: Final = "reward.custom_reward_function"
_MANAGER: Final = "reward.reward_manager"


def check_own_data(config: DictConfig) -> None:
    """Raise ConfigurationError unless there are data files and an agent loop that gives what the methods read.

    The files are checked as far as verl's own dataset, loops and reward managers will read them; the user's code must
    exist, and is not run.
    """
    _check_code(config)
    check_agent(config)
    for key in ("train_files", "val_files"):
        _check_files(f"data.{key}", config.data[key], config)
    _check_agent_loop(config, config.actor_rollout_ref.rollout.agent.default_agent_loop)
    if config.get("tiny_policy") and config.model.path is None and config.tiny_policy.env == NO_WORLD:
        raise ConfigurationError(
            "model.path",
            None,
            "the tiny policy is trained on a world, and env=none has none",
            "Set model.path, or tiny_policy.env=frozen_lake tiny_policy.preset=clean",
        )


def _check_files(key: str, value: Any, config: DictConfig) -> None:
    files = list(value) if isinstance(value, list | ListConfig) else [value]
    if not files or not all(isinstance(file, str) and file for file in files):
        raise ConfigurationError(
            key, value, "env=none plays no world, so it needs a dataset", f"Set {key} to a .parquet or .jsonl file"
        )
    is_ours = (config.data.custom_cls.path, config.data.custom_cls.name) == TASK_DATASET
    if config.data.custom_cls.path and not is_ours:  # its class knows what the names mean
        return
    for file in files:
        if not file.endswith(_FORMATS):
            raise ConfigurationError(key, file, "is not a format that verl reads", f"Use one of {', '.join(_FORMATS)}")
        if is_remote(file):
            continue
        if not Path(file).expanduser().is_file():
            raise ConfigurationError(key, file, "there is no such file", f"Correct {key}")
        sample = read_sample(key, file, rows=config.data.train_batch_size)
        if sample is not None:
            if not is_ours:
                _check_rows(key, file, sample, config)
            if len(files) == 1 and key == "data.train_files":
                _check_number(key, file, sample, config)


def _check_number(key: str, file: str, sample: Sample, config: DictConfig) -> None:
    """verl drops a last batch that is not full."""
    groups = config.data.get("gen_batch_size") or config.data.train_batch_size
    if sample.rows is not None and sample.rows < groups:
        problem = f"the file has {sample.rows} rows, fewer than the prompts per step (data.train_batch_size={groups})"
        raise ConfigurationError(key, file, problem, f"Set data.train_batch_size to at most {sample.rows}")


def _check_rows(key: str, file: str, sample: Sample, config: DictConfig) -> None:
    """The first row has a conversation, and the columns that verl's reward managers read."""
    name = config.data.prompt_key
    if name not in sample.columns:
        columns = ", ".join(sample.columns)
        raise ConfigurationError(
            _PROMPT,
            name,
            f"{key}={file} has no such column",
            f"Set it to the column with the conversation, one of: {columns}",
        )
    prompt = sample.row[name]
    if not (isinstance(prompt, list) and prompt and all(isinstance(turn, dict) and "role" in turn for turn in prompt)):
        raise ConfigurationError(
            _PROMPT,
            name,
            f"{key}={file} has a {type(prompt).__name__} there, not a list of messages",
            'Write it as [{"role": "user", "content": "..."}]',
        )
    if not _is_rewarded_by_row(config, sample):
        return
    ground_truth = sample.row.get("reward_model")
    problem = f"the file has no {{}}, which verl's reward manager {config.reward.reward_manager.name} reads"
    remedy = 'Add the columns data_source (text) and reward_model, as {"style": "rule", "ground_truth": ...}'
    if not isinstance(ground_truth, dict) or "ground_truth" not in ground_truth:
        raise ConfigurationError(key, file, problem.format("column reward_model with a ground_truth"), remedy)
    if sample.row.get("data_source") is None:
        raise ConfigurationError(key, file, problem.format("column data_source"), remedy)
    source = str(sample.row["data_source"])
    if OmegaConf.select(config, f"{_REWARD}.path") is None and not source.startswith(_scored_by_verl()):
        raise ConfigurationError(
            f"{_REWARD}.path",
            None,
            f"verl has no reward function for data_source={source!r} of {key}={file}",
            f"Set {_REWARD}.path to a Python file with compute_score(data_source, solution_str, ground_truth, "
            "extra_info=None)",
        )


def _is_rewarded_by_row(config: DictConfig, sample: Sample) -> bool:
    """Whether the reward is certainly computed by verl's own manager from columns of the row.

    It may not be if the row names its own loop, or if the run uses another loop or manager, or a reward model.
    """
    return (
        config.actor_rollout_ref.rollout.agent.default_agent_loop in _VERLS
        and "agent_name" not in sample.columns
        and config.reward.reward_manager.source == "register"
        and not config.reward.reward_model.enable
    )


@functools.cache
def _scored_by_verl() -> tuple[str, ...]:
    """Prefixes of data sources with a verl reward function: the string constants of verl's dispatching module."""
    text = (_verl_folder() / "utils" / "reward_score" / "__init__.py").read_text()
    constants = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return tuple(value for value in constants if isinstance(value, str) and value and "\n" not in value)


def _verl_folder() -> Path:
    """Where verl is, without importing it, which would fix its platform too early."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None  # else nothing would have been composed
    assert spec.origin is not None
    return Path(spec.origin).parent


def _check_code(config: DictConfig) -> None:
    """Check that files and names of the user's code exist."""
    for key in (f"{_TOOLS}.function_tool_path", f"{_TOOLS}.tool_config_path"):
        require_file(key, OmegaConf.select(config, key))
    require_file(_LOOP_FILE, OmegaConf.select(config, _LOOP_FILE), beside=_verl_folder().parent)
    objects = [(f"{_REWARD}.path", f"{_REWARD}.name"), ("data.custom_cls.path", "data.custom_cls.name")]
    if config.reward.reward_manager.source == "importlib":
        objects.append((f"{_MANAGER}.module.path", f"{_MANAGER}.name"))
    for path, name in objects:
        require_object(path, OmegaConf.select(config, path), name, OmegaConf.select(config, name))


def _check_agent_loop(config: DictConfig, name: Any) -> None:
    if name == _OURS or not name:
        raise ConfigurationError(
            AGENT_LOOP, name, "plays worlds, and env=none has none", f"Use {_VERLS[0]} or your own loop"
        )
    _require_in_loop_file(config, name)
    if name not in (*_VERLS, GATEWAY_LOOP):
        return
    if action_span(config) is None:
        raise ConfigurationError(
            ACTION_SPAN,
            "column",
            f"{AGENT_LOOP}={name} gives no column token_roles",
            "Set it to tool_call, answer, a pair of tags or {regex: ...}, or name the loop that gives the column",
        )
    estimator, weighting = require_estimator(config), build_weighting(section(config, "credit"))
    methods = [("credit.name", weighting.name, weighting.required_columns, "credit=uniform")]
    if estimator is not None:
        without = "algorithm=grpo or algorithm=ppo"
        methods.insert(0, ("algorithm.adv_estimator", estimator.name, estimator.required_columns, without))
    for key, method, columns, otherwise in methods:
        missing = given_by(OWN_LOOP, columns)
        if missing:
            raise ConfigurationError(
                key,
                method,
                f"reads {' and '.join(missing)}, and {AGENT_LOOP}={name} gives none",
                f"Use {otherwise}, or name your own loop that gives them",
            )


def _require_in_loop_file(config: DictConfig, name: str) -> None:
    path = OmegaConf.select(config, _LOOP_FILE)
    if path is None or name in (*_VERLS, GATEWAY_LOOP):
        return
    file = Path(path) if Path(path).is_file() else _verl_folder().parent / path
    try:
        entries = yaml.safe_load(file.read_text())
        names = [str(entry["name"]) for entry in entries]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigurationError(
            _LOOP_FILE,
            path,
            "is not a YAML list of loops",
            "Write entries of name: ... and _target_: package.module.Class",
        ) from error
    if name not in names:
        raise ConfigurationError(
            AGENT_LOOP,
            name,
            f"is not a loop of {_LOOP_FILE}={path}",
            f"Choose one of: {', '.join([*names, *_VERLS])}",
        )
