"""A command of verl's own with the lines that docs/use_with_your_verl_run.md adds: what it composes. No Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from actfocus_verl.config import action_span
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.trainer import TokenCreditTrainerSync
from actfocus_verl.rollout.spans import TOOL_CALLS
from actfocus_verl.train import verl_config_folder
from tests.helpers.tool_policy import ADDED


def verls_command(*overrides: str) -> DictConfig:
    """What `python -m verl.trainer.main_ppo <overrides>` composes."""
    searchpath = [word for word in overrides if word.startswith("hydra.")]
    with initialize_config_dir(str(verl_config_folder()), version_base=None):
        return compose("ppo_trainer", overrides=[*searchpath, *(word for word in overrides if word not in searchpath)])


def test_the_lines_to_add_to_verls_command_compose() -> None:
    config = verls_command(*ADDED)
    assert config.credit.alpha == 0.1
    assert (config.actor_rollout_ref.actor.use_kl_loss, config.actor_rollout_ref.actor.kl_loss_coef) == (True, 0.0)
    assert action_span(config) == TOOL_CALLS["hermes"]
    trainer = TokenCreditTrainerSync(config)
    assert trainer.weighting.name == "actfocus"
    assert trainer.group_filter.name == "none"
    assert trainer.trainer_mode == "sync"
    assert trainer.run_log.folder is None  # no run section: nothing is written
    trainer.run_log.continue_from(0)
    trainer.run_log.metrics({"a": 1}, step=1)
    trainer.run_log.evaluations(["sums"], ["u"], {"reward": [1.0]}, step=1)


def test_the_page_has_these_lines() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "use_with_your_verl_run.md").read_text(encoding="utf-8")
    block = page.partition("```bash\n")[2].partition("```")[0]
    words = [line.strip(" \\'") for line in block.splitlines()]
    assert tuple(words[1:]) == ADDED
    assert {f"`{name}`" for name in TOOL_CALLS} <= set(page.replace(",", " ").split())


def test_our_other_groups_compose_with_verls_command_and_its_own_values_win() -> None:
    mine = ("actor_rollout_ref.actor.kl_loss_coef=0.02", *ADDED, "+filter=reward_variance", "+algorithm=gigpo")
    config = verls_command(*mine)
    trainer = TokenCreditTrainerSync(config)
    assert config.actor_rollout_ref.actor.kl_loss_coef == 0.02
    assert trainer.group_filter.name == "reward_variance"
    assert trainer.estimator is not None
    assert trainer.estimator.name == "gigpo"


def test_without_our_groups_the_keys_do() -> None:
    config = verls_command("+credit={name: entropy_quantile, fraction: 0.5}", *ADDED[3:])
    trainer = TokenCreditTrainerSync(config)
    assert (trainer.weighting.name, trainer.action_span) == ("entropy_quantile", None)


def test_verls_command_without_a_credit_is_told_so() -> None:
    with pytest.raises(ConfigurationError, match=r"credit.name=None: is missing. Choose one of actfocus, action_only"):
        TokenCreditTrainerSync(verls_command(*ADDED[3:]))
