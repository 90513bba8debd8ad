"""A run of the user's own agent: the `agent` section, and what follows from it."""

from __future__ import annotations

import re
import shlex
import shutil
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from actfocus_verl.config import section
from actfocus_verl.credit.estimation import is_ours
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.gateway.settings import AgentSettings
from actfocus_verl.preflight.user_code import require_object

GATEWAY_LOOP: Final = "actfocus_gateway"
TASK_DATASET: Final = ("pkg://actfocus_verl.integration.dataset", "TaskDataset")
_LOOP: Final = "actor_rollout_ref.rollout.agent.default_agent_loop"
_VERLS_DEFAULT: Final = "tool_agent"
_ESTIMATOR: Final = "algorithm.adv_estimator"


def has_agent(config: Any) -> bool:
    """Whether the run trains an agent of the user's."""
    agent = section(config, "agent")
    return agent.get("function") is not None or agent.get("command") is not None


def fill_agent(config: DictConfig) -> None:
    """With an agent, set the loop and the dataset that it needs, where they are those of env=none."""
    if not has_agent(config):
        return
    if OmegaConf.select(config, _LOOP) in (None, _VERLS_DEFAULT):
        OmegaConf.update(config, _LOOP, GATEWAY_LOOP)
    if config.data.custom_cls.path is None:
        config.data.custom_cls.path, config.data.custom_cls.name = TASK_DATASET


def check_agent(config: DictConfig) -> None:
    """Raise ConfigurationError unless the agent exists and the run can train it. Its code is not run."""
    settings = AgentSettings.of(section(config, "agent"))
    loop = OmegaConf.select(config, _LOOP)
    if not has_agent(config):
        if loop == GATEWAY_LOOP:
            problem = f"{_LOOP}={loop} plays an agent, and none is named"
            raise ConfigurationError("agent.function", None, problem, "Set agent=module:function")
        return
    if settings.function is not None and settings.command is not None:
        problem = "agent.function names an agent, too"
        raise ConfigurationError("agent.command", settings.command, problem, "Set one of the two")
    if loop != GATEWAY_LOOP:
        raise ConfigurationError(_LOOP, loop, "does not play agent.function", f"Set it to {GATEWAY_LOOP}")
    name = str(config.algorithm.adv_estimator)
    if is_ours(name):
        problem = "takes each row for an episode, and an agent's conversation may have several"
        raise ConfigurationError(_ESTIMATOR, name, problem, "Use algorithm=grpo or algorithm=ppo")
    if settings.function is not None:
        _check_function(settings.function)
    else:
        _check_command(str(settings.command))


def _check_function(path: str) -> None:
    key = "agent.function"
    if re.fullmatch(r"[\w.]+:\w+", path) is None:
        raise ConfigurationError(key, path, "is not the name of a function", "Write agent=module:function")
    module, _, name = path.partition(":")
    require_object(key, f"pkg://{module}", key, name)


def _check_command(command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError("agent.command", command, f"is not a command ({error})", "Quote it") from error
    if not words or shutil.which(words[0]) is None:
        raise ConfigurationError("agent.command", command, "there is no such program", "Correct agent.command")
