"""`env=none`: a run on the user's dataset and an agent loop that is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from actfocus_verl.config import action_span, has_world
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight import check_model, check_registered
from actfocus_verl.rollout.spans import TagPair
from tests.config.conftest import ModelFolder, compose_config, composed

LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name in ("train.jsonl", "val.parquet"):
        (tmp_path / name).touch()
    return [
        *("env=none", "model.path=organisation/name"),
        *(f"data.train_files={tmp_path}/train.jsonl", f"data.val_files=[{tmp_path}/val.parquet]"),
    ]


def failure(*overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        composed(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_needs_no_world(files: list[str], model_folder: ModelFolder) -> None:
    config = composed(*files, "data.max_response_length=512")
    assert not has_world(config)
    assert action_span(config) == TagPair("<tool_call>", "</tool_call>")
    assert config.run.name == "none-grpo-actfocus-seed0"
    config.model.path = str(model_folder(template="{{ messages[-1]['content'] }}<think>"))  # ours would refuse it
    check_model(config)
    check_registered(config)
    OmegaConf.to_container(config, resolve=True)  # as verl does


def test_other_runs_have_a_world_and_read_the_loops_column() -> None:
    config = compose_config()
    assert has_world(config)
    assert action_span(config) is None


def test_other_methods_compose(files: list[str]) -> None:
    composed(*files, "algorithm=ppo", "credit=empg", "filter=top_p")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "data.train_files=null",
            "data.train_files=None: env=none plays no world, so it needs a dataset. Set data.train",
        ),
        ("data.val_files=[]", "data.val_files=[]: env=none plays no world, so it needs a dataset"),
        ("data.train_files=absent.parquet", "data.train_files='absent.parquet': there is no such file"),
        (
            f"{LOOP}=actfocus",
            f"{LOOP}='actfocus': plays worlds, and env=none has none. Use tool_agent or a loop of your",
        ),
        ("credit.action_span=column", f"credit.action_span='column': {LOOP}=tool_agent gives no column token_roles"),
        ("credit.action_span=tools", "credit.action_span='tools': names no span"),
        (
            "algorithm=gigpo",
            f"algorithm.adv_estimator='gigpo': reads turn_rewards and anchors, and {LOOP}=tool_agent gives none. Use",
        ),
        ("algorithm=turn_ppo", f"algorithm.adv_estimator='turn_ppo': reads turn_rewards, and {LOOP}=tool_agent gives"),
        (
            "model.path=null",
            "model.path=None: the tiny policy is taught by playing a world, and env=none has none. Set model.path, or "
            "tiny_policy.env=frozen_lake tiny_policy.preset=clean",
        ),
    ],
)
def test_a_mistake_is_one_line(files: list[str], overrides: str, message: str) -> None:
    assert failure(*files, overrides).startswith(message)


def test_what_a_loop_of_ones_own_gives_is_known_when_it_has_run(files: list[str]) -> None:
    composed(*files, f"{LOOP}=mine", "credit.action_span=column", "algorithm=gigpo")


def test_remote_files_and_a_dataset_class_of_ones_own_are_not_looked_for(files: list[str]) -> None:
    composed(*files, "data.train_files=hdfs://host/train.parquet")
    composed(*files, "data.custom_cls.path=mine.py", "data.train_files=whatever")


def test_an_agent_loop_that_nobody_registered(files: list[str], model_folder: ModelFolder) -> None:
    config = composed(*files, f"{LOOP}=tool_agnt")
    config.model.path = str(model_folder())
    with pytest.raises(ConfigurationError, match=r"default_agent_loop='tool_agnt': is not registered.*tool_agent"):
        check_registered(config)
