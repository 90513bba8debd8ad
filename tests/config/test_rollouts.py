"""rollout=forked and algorithm=carl: what they set together, and every mistake in one line."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig

from actfocus_verl.environments.base import World
from actfocus_verl.environments.frozen_lake import FrozenLake
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.dataset import BoardDataset
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import changed, compose_config, composed


@pytest.fixture(scope="module")
def carl() -> DictConfig:
    return compose_config("algorithm=carl")


def check(config: DictConfig) -> None:
    fill_derived(config)
    check_config(config)


def test_carl_comes_with_forked_rollouts(carl: DictConfig) -> None:
    check(carl.copy())
    assert (carl.rollout.name, carl.rollout.roots, carl.rollout.wave) == ("forked", 1, 1)
    assert carl.data.boards.train_loop == "actfocus_forked"
    assert (carl.algorithm.adv_estimator, carl.algorithm.gamma, carl.critic.enable) == ("carl", 1.0, False)
    plain = compose_config()
    assert (plain.rollout.name, plain.data.boards.train_loop) == ("independent", "actfocus")


def test_only_training_boards_are_forked(carl: DictConfig) -> None:
    data = changed(carl, **{"env.train_size": 4}).data
    assert BoardDataset("train", data)[0]["agent_name"] == "actfocus_forked"
    assert BoardDataset("evaluation", data)[0]["agent_name"] == "actfocus"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"algorithm.gamma": 0.9}, "algorithm.gamma=0.9: carl compares returns of episodes that diverge"),
        (
            {"filter.name": "reward_variance"},
            "filter.name='reward_variance': carl selects trained tokens by where",
        ),
        (
            {"algorithm.use_kl_in_reward": True},
            "algorithm.use_kl_in_reward=True: carl does not support a per-token penalty",
        ),
        ({"estimator": {"step_weight": 1.0}}, "estimator.step_weight=1.0: is not a parameter of the estimator carl"),
        (
            {"algorithm.adv_estimator": "grpo"},
            "rollout.name='forked': algorithm.adv_estimator=grpo assumes independent",
        ),
        ({"algorithm.adv_estimator": "grpo"}, "Use algorithm=carl, or rollout=independent"),
        ({"rollout.name": "tree"}, "rollout.name='tree': is not a known value. Choose one of: independent, forked"),
        ({"rollout.roots": 8}, "rollout.roots=8: must be an integer between 1 and 7"),
        ({"rollout.roots": 0}, "rollout.roots=0: must be an integer between 1 and 7"),
        ({"rollout.wave": 0}, "rollout.wave=0: must be an integer >= 1"),
        ({"actor_rollout_ref.rollout.n": 1}, "actor_rollout_ref.rollout.n=1: leaves no episode for a fork"),
        (
            {"actor_rollout_ref.rollout.calculate_log_probs": False},
            "actor_rollout_ref.rollout.calculate_log_probs=False: rollout=forked chooses states by the log-probs",
        ),
        ({"data.val_files": "train"}, "data.val_files='train': rollout=forked would fork its episodes, too"),
        ({"data.val_files": ["train"]}, "rollout=forked would fork its episodes, too. Use evaluation"),
    ],
)
def test_a_mistake_is_one_line(carl: DictConfig, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(changed(carl, **values))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_world_whose_randomness_cannot_part_is_refused(carl: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrozenLake, "reseed", World.reseed)
    with pytest.raises(ConfigurationError, match=r"rollout.name='forked': world frozen_lake does not say how its"):
        check(carl.copy())


def test_independent_episodes_are_a_waste(caplog: pytest.LogCaptureFixture) -> None:
    composed("algorithm=carl", "rollout=independent")
    assert "algorithm carl trains first turns only" in caplog.text
    caplog.clear()
    composed("algorithm=carl")
    assert caplog.text == ""
