"""An experiment's configuration before it runs: its size, and a digest of all of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actfocus_verl.errors import ConfigurationError, one_line
from actfocus_verl.files import json_text
from actfocus_verl.preflight.derived import boards
from actfocus_verl.reproduction.matrix import Experiment
from actfocus_verl.train import VERL_CONFIG_VARIABLE, verl_config_folder


@dataclass(frozen=True)
class Composition:
    """An experiment's resolved configuration, as seed 0 would run it."""

    config: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Digest of the whole configuration: equal for all seeds of a cell, different when any setting differs."""
        content = json_text(self.config, sort_keys=True, default=str)
        return blake2b(content.encode(), digest_size=12).hexdigest()

    @property
    def world(self) -> str:
        return str(self.config["env"]["name"])

    @property
    def algorithm(self) -> str:
        return str(self.config["algorithm_name"])

    @property
    def steps(self) -> int:
        return int(self.config["trainer"]["total_training_steps"])

    @property
    def episodes_a_step(self) -> int:
        """Episodes played per step, before a filter drops any."""
        return int(self.config["data"]["train_batch_size"] * self.config["actor_rollout_ref"]["rollout"]["n"])

    @property
    def evaluations(self) -> int:
        """Number of evaluations: before training if configured, every `test_freq` steps, and after the last one."""
        trainer, steps = self.config["trainer"], self.steps
        frequency = trainer["test_freq"]
        first = 1 if trainer["val_before_train"] else 0
        return first if frequency <= 0 else first + -(-steps // frequency)

    @property
    def evaluation_episodes(self) -> int:
        """Episodes of one evaluation."""
        env, rollout = self.config["env"], self.config["actor_rollout_ref"]["rollout"]
        size = env["evaluation_size"] or boards(env, "evaluation")
        return int(size * rollout["val_kwargs"]["n"])


@cache
def compose_experiment(experiment: Experiment) -> Composition:
    """Compose the cell's settings as `python -m actfocus_verl.train` would.

    Raises:
        ConfigurationError: Hydra rejects the experiment's file or its overrides.
    """
    os.environ.setdefault(VERL_CONFIG_VARIABLE, str(verl_config_folder()))
    try:
        with initialize_config_module("actfocus_verl_configs", version_base=None):
            config = compose("train", overrides=list(experiment.settings))
        container: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException) as error:
        problem = f"cannot be composed ({one_line(error)})"
        raise ConfigurationError(
            "experiment", experiment.name, problem, "Correct the file, or its overrides"
        ) from error
    return Composition(container)
