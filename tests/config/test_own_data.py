"""`env=none`: a run on the user's dataset and an agent loop that is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.config import action_span, has_world
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight import check_config, check_model, check_registered, fill_derived
from actfocus_verl.rollout.spans import TagPair
from tests.config.conftest import ModelFolder, changed, compose_config

LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"
SPAN = "credit.action_span"
ESTIMATOR = "algorithm.adv_estimator"


@pytest.fixture(scope="module")
def composition() -> DictConfig:
    return compose_config("env=none", "model.path=organisation/name")


@pytest.fixture
def own(composition: DictConfig, tmp_path: Path) -> DictConfig:
    """A run on two files that are there."""
    for name in ("train.jsonl", "val.parquet"):
        (tmp_path / name).touch()
    return changed(
        composition, **{"data.train_files": f"{tmp_path}/train.jsonl", "data.val_files": [f"{tmp_path}/val.parquet"]}
    )


def check(config: DictConfig) -> DictConfig:
    fill_derived(config)
    check_config(config)
    return config


def test_it_needs_no_world(own: DictConfig, model_folder: ModelFolder) -> None:
    config = check(changed(own, **{"data.max_response_length": 512}))
    assert not has_world(config)
    assert action_span(config) == TagPair("<tool_call>", "</tool_call>")
    assert config.run.name == "none-grpo-actfocus-seed0"
    config.model.path = str(model_folder(template="{{ messages[-1]['content'] }}<think>"))  # ours would refuse it
    check_model(config)
    check_registered(config)
    OmegaConf.to_container(config, resolve=True)  # as verl does


def test_other_runs_have_a_world_and_read_the_loops_column(default_config: DictConfig) -> None:
    assert has_world(default_config)
    assert action_span(default_config) is None


def test_other_methods_compose(own: DictConfig) -> None:
    config = compose_config("env=none", "algorithm=ppo", "credit=empg", "filter=top_p", "model.path=organisation/name")
    config.data = own.data
    check(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.train_files", None, "=None: env=none plays no world, so it needs a dataset. Set data.train_files to a"),
        ("data.val_files", [], "=[]: env=none plays no world, so it needs a dataset"),
        ("data.train_files", "absent.parquet", "='absent.parquet': there is no such file"),
        ("data.train_files", "rows.csv", "='rows.csv': verl reads no such format. Use one of .parquet, .json, .jsonl"),
        (LOOP, "actfocus", "='actfocus': plays worlds, and env=none has none. Use tool_agent or a loop of your own"),
        (SPAN, "column", f"='column': {LOOP}=tool_agent gives no column token_roles. Set it to tool_call, answer"),
        (SPAN, "tools", "='tools': names no span"),
        (SPAN, ["<a>"], "=['<a>']: is no pair of tags"),
        (SPAN, {"regex": "(a"}, "={'regex': '(a'}: is no regular expression"),
        (ESTIMATOR, "gigpo", f"='gigpo': reads turn_rewards and anchors, and {LOOP}=tool_agent gives none. Use"),
        (
            "model.path",
            None,
            "=None: the tiny policy is taught by playing a world, and env=none has none. Set model.pa",
        ),
    ],
)
def test_a_mistake_is_one_line(own: DictConfig, key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(changed(own, **{key: value}))
    assert str(caught.value).startswith(f"{key}{message}")
    assert "\n" not in str(caught.value)


def test_what_a_loop_of_ones_own_gives_is_known_when_it_has_run(own: DictConfig) -> None:
    check(changed(own, **{LOOP: "mine", SPAN: "column", ESTIMATOR: "gigpo"}))


def test_remote_files_and_a_dataset_class_of_ones_own_are_not_looked_for(own: DictConfig) -> None:
    check(changed(own, **{"data.train_files": "hdfs://host/train.parquet"}))
    check(changed(own, **{"data.custom_cls.path": "mine.py", "data.train_files": "whatever"}))


def test_an_agent_loop_that_nobody_registered(own: DictConfig, model_folder: ModelFolder) -> None:
    config = check(changed(own, **{LOOP: "tool_agnt", "actor_rollout_ref.model.path": str(model_folder())}))
    with pytest.raises(ConfigurationError, match=r"default_agent_loop='tool_agnt': is not registered.*tool_agent"):
        check_registered(config)


@pytest.mark.parametrize(
    ("word", "text", "contents"),
    [
        ("['<act>','</act>']", "go <act>up</act>", ["up"]),
        ("{regex: 'Action: (.*)'}", "Action: up\nso", ["up"]),
        (r"{regex: '(?m)^> (\w+)\|(\d+)$'}", "> up|2\n> no", ["up", "2"]),
    ],
)
def test_spans_as_they_are_written_on_a_command_line(word: str, text: str, contents: list[str]) -> None:
    span = action_span(compose_config(f"credit.action_span={word}"))
    assert span is not None
    assert [text[start:end] for start, end in span.find(text).contents] == contents
