"""`python -m actfocus_verl.train`: compose, check, and hand over to verl's own runner."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

VERL_CONFIG_VARIABLE = "ACTFOCUS_VERL_CONFIG"


def verl_config_folder() -> Path:
    """Return verl's Hydra folder without importing verl, which would fix its platform before the configuration is read."""
    spec = importlib.util.find_spec("verl")
    return Path(spec.origin).parent / "trainer" / "config"


@hydra.main(config_path="pkg://actfocus_verl_configs", config_name="train", version_base=None)
def run(config: DictConfig) -> None:
    os.environ.update({key: str(value) for key, value in config.platform.env_vars.items()})
    config.run.dir = str(Path(config.run.dir).absolute())
    os.environ["TENSORBOARD_DIR"] = str(Path(config.run.dir) / "tensorboard")
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.utils.config import validate_config
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=TaskRunnerV1)


def main() -> None:
    os.environ.setdefault(VERL_CONFIG_VARIABLE, str(verl_config_folder()))
    run()


if __name__ == "__main__":
    main()
