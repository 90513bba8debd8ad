"""`env=none`: a run on the user's dataset and an agent loop that is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from omegaconf import DictConfig, OmegaConf
from pyarrow import parquet

from actfocus_verl.config import action_span, has_world
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.model import check_model
from actfocus_verl.preflight.own_data import check_own_data
from actfocus_verl.preflight.registered import check_registered
from actfocus_verl.preflight.settings import check_config
from actfocus_verl.rollout.spans import TagPair
from tests.config.conftest import ModelFolder, changed, compose_config
from tests.helpers.tool_policy import REWARD

LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"
SPAN = "credit.action_span"
ESTIMATOR = "algorithm.adv_estimator"
REWARD_PATH, REWARD_NAME = (f"reward.custom_reward_function.{part}" for part in ("path", "name"))


def row(index: int) -> dict[str, Any]:
    """A row as verl's dataset, loops and reward managers read it."""
    return {
        "prompt": [{"role": "user", "content": f"{index} + 1"}],
        "data_source": "sums",
        "reward_model": {"style": "rule", "ground_truth": str(index + 1)},
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2))
    else:
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))


@pytest.fixture(scope="module")
def composition() -> DictConfig:
    return compose_config("env=none", "model.path=organisation/name")


@pytest.fixture(scope="module")
def light_composition(composition: DictConfig) -> DictConfig:
    """The sections that `check_own_data` reads: small enough to be copied for every mistake."""
    light = OmegaConf.masked_copy(composition, ["data", "reward", "credit", "algorithm", "model"])
    light.actor_rollout_ref = {"rollout": composition.actor_rollout_ref.rollout}
    return light


@pytest.fixture
def light(light_composition: DictConfig, tmp_path: Path) -> DictConfig:
    """Likewise `own`, for what is in the files."""
    return on_files(light_composition, tmp_path)


@pytest.fixture
def own(composition: DictConfig, tmp_path: Path) -> DictConfig:
    """A run on two files that are there, and a reward function."""
    return on_files(composition, tmp_path)


def on_files(composition: DictConfig, tmp_path: Path) -> DictConfig:
    write_rows(tmp_path / "train.jsonl", [row(i) for i in range(12)])
    write_rows(tmp_path / "val.parquet", [row(i) for i in range(2)])
    (tmp_path / "reward.py").write_text(REWARD)
    return changed(
        composition,
        **{"data.train_files": f"{tmp_path}/train.jsonl", "data.val_files": [f"{tmp_path}/val.parquet"]},
        **{"reward.custom_reward_function.path": f"{tmp_path}/reward.py"},
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
    config.data, config.reward = own.data, own.reward
    check(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.train_files", None, "=None: env=none plays no world, so it needs a dataset. Set data.train_files to a"),
        ("data.val_files", [], "=[]: env=none plays no world, so it needs a dataset"),
        ("data.train_files", "absent.parquet", "='absent.parquet': there is no such file"),
        (
            "data.train_files",
            "rows.csv",
            "='rows.csv': is not a format that verl reads. Use one of .parquet, .json, .jsonl",
        ),
        (LOOP, "actfocus", "='actfocus': plays worlds, and env=none has none. Use tool_agent or your own loop"),
        (SPAN, "column", f"='column': {LOOP}=tool_agent gives no column token_roles. Set it to tool_call, answer"),
        (SPAN, "tools", "='tools': names no span"),
        (SPAN, ["<a>"], "=['<a>']: must be a pair of tags"),
        (SPAN, {"regex": "(a"}, "={'regex': '(a'}: is not a regular expression"),
        (ESTIMATOR, "gigpo", f"='gigpo': reads turn_rewards and anchors, and {LOOP}=tool_agent gives none. Use"),
        (
            "model.path",
            None,
            "=None: the tiny policy is trained on a world, and env=none has none. Set model.pa",
        ),
    ],
)
def test_a_mistake_is_one_line(own: DictConfig, key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(changed(own, **{key: value}))
    assert str(caught.value).startswith(f"{key}{message}")
    assert "\n" not in str(caught.value)


def test_feedback_is_a_worlds(own: DictConfig) -> None:
    own.credit = {"name": "hindsight", "action_span": "tool_call", "lam": 0.5}
    with pytest.raises(ConfigurationError, match=r"^env.name='none': .* and there is none here. Set") as caught:
        check(own)
    assert "\n" not in str(caught.value)
    own.credit.lam = 0
    check(own)


def test_what_a_loop_of_ones_own_gives_is_known_when_it_has_run(own: DictConfig) -> None:
    check(changed(own, **{LOOP: "mine", SPAN: "column", ESTIMATOR: "gigpo"}))


def test_remote_files_and_a_dataset_class_of_ones_own_are_not_looked_for(own: DictConfig) -> None:
    check(changed(own, **{"data.train_files": "hdfs://host/train.parquet"}))
    mine = Path(own.data.train_files).parent / "mine.py"
    mine.write_text("class Rows: ...\n")
    of_mine = {"data.custom_cls.path": str(mine), "data.custom_cls.name": "Rows"}
    check(changed(own, **of_mine, **{"data.train_files": "whatever"}))


SUFFIXES = (".parquet", ".json", ".jsonl")


def with_rows(light: DictConfig, name: str, rows: list[dict[str, Any]]) -> DictConfig:
    """The run on a file of these rows."""
    path = Path(light.data.train_files).parent / name
    write_rows(path, rows)
    return changed(light, **{"data.train_files": str(path)})


def failure(config: DictConfig) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_own_data(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(*names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row(i).items() if name not in names} for i in range(12)]


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestRows:
    def test_right_ones_pass(self, light: DictConfig, suffix: str) -> None:
        check_own_data(with_rows(light, f"rows{suffix}", without()))

    def test_none(self, light: DictConfig, suffix: str) -> None:
        config = with_rows(light, f"rows{suffix}", without())
        path = Path(config.data.train_files)
        if suffix == ".parquet":
            parquet.write_table(parquet.read_table(path).slice(0, 0), path)
        else:
            write_rows(path, [])
        assert failure(config) == f"data.train_files='{path}': the file has no rows. Correct data.train_files"

    def test_another_format_inside(self, light: DictConfig, suffix: str) -> None:
        config = with_rows(light, f"rows{suffix}", without())
        Path(config.data.train_files).write_text("prompt,answer\n1 + 1,2\n")
        assert "the file holds invalid " in failure(config)

    def test_no_prompt(self, light: DictConfig, suffix: str) -> None:
        config = with_rows(light, f"rows{suffix}", without("prompt"))
        assert failure(config) == (
            f"data.prompt_key='prompt': data.train_files={config.data.train_files} has no such column. Set it to the "
            "column with the conversation, one of: data_source, reward_model"
        )

    def test_the_prompt_under_another_name(self, light: DictConfig, suffix: str) -> None:
        config = changed(with_rows(light, f"rows{suffix}", without()), **{"data.prompt_key": "messages"})
        assert "of: prompt, data_source, reward_model" in failure(config)

    @pytest.mark.parametrize("prompt", ["1 + 1", None, {"role": "user"}, []])
    def test_a_prompt_that_is_no_conversation(self, light: DictConfig, suffix: str, prompt: Any) -> None:
        config = with_rows(light, f"rows{suffix}", [row(i) | {"prompt": prompt} for i in range(12)])
        assert failure(config) == (
            f"data.prompt_key='prompt': data.train_files={config.data.train_files} has a {type(prompt).__name__} "
            'there, not a list of messages. Write it as [{"role": "user", "content": "..."}]'
        )

    @pytest.mark.parametrize(
        ("rows", "what"),
        [
            (without("reward_model"), "column reward_model with a ground_truth"),
            (
                [row(i) | {"reward_model": {"style": "rule"}} for i in range(12)],
                "column reward_model with a ground_truth",
            ),
            (without("data_source"), "column data_source"),
        ],
    )
    def test_nothing_to_reward_by(self, light: DictConfig, suffix: str, rows: list[dict[str, Any]], what: str) -> None:
        """verl's managers read these columns before they call any reward function."""
        config = with_rows(light, f"rows{suffix}", rows)
        assert failure(config).startswith(
            f"data.train_files='{config.data.train_files}': the file has no {what}, which verl's "
            "reward manager naive reads. Add the columns data_source (text) and reward_model"
        )
        elsewhere = ({LOOP: "mine"}, {"reward.reward_model.enable": True})  # it may come from there
        for values in elsewhere:
            check_own_data(changed(config, **values))
        check_own_data(with_rows(light, f"loops{suffix}", [each | {"agent_name": "mine"} for each in rows]))

    def test_nobody_scores_this_source(self, light: DictConfig, suffix: str) -> None:
        config = changed(with_rows(light, f"rows{suffix}", without()), **{REWARD_PATH: None})
        assert failure(config).startswith(
            f"{REWARD_PATH}=None: verl has no reward function for data_source='sums' of data.train_files="
        )
        for source in ("openai/gsm8k", "aime2024"):
            scored = [row(i) | {"data_source": source} for i in range(12)]
            scored_config = with_rows(light, f"scored{suffix}", scored)
            scored_config.data.val_files = scored_config.data.train_files
            check_own_data(changed(scored_config, **{REWARD_PATH: None}))

    def test_fewer_than_a_step(self, light: DictConfig, suffix: str) -> None:
        config = with_rows(light, f"rows{suffix}", without()[:11])
        if suffix == ".json":  # an array, whose elements are not counted
            check_own_data(config)
            return
        assert failure(config) == (
            f"data.train_files='{config.data.train_files}': the file has 11 rows, fewer than the prompts per step "
            "(data.train_batch_size=12). Set data.train_batch_size to at most 11"
        )


def test_a_big_file_costs_nothing(light: DictConfig) -> None:
    """Of JSON lines no more are read than a step has prompts: what follows here is no JSON at all."""
    path = Path(light.data.train_files)
    path.write_text(path.read_text() + "x" * 1000)
    check_own_data(light)


def test_every_file_is_looked_into(light: DictConfig) -> None:
    files = [light.data.train_files, str(Path(light.data.train_files).with_name("other.jsonl"))]
    write_rows(Path(files[1]), without("prompt"))
    assert f"data.train_files={files[1]} has no such column" in failure(changed(light, **{"data.train_files": files}))


TOOLS = "actor_rollout_ref.rollout.multi_turn"
LOOPS = "actor_rollout_ref.rollout.agent.agent_loop_config_path"


@pytest.mark.parametrize(
    "key", [f"{TOOLS}.function_tool_path", f"{TOOLS}.tool_config_path", LOOPS, REWARD_PATH, "data.custom_cls.path"]
)
def test_code_that_is_not_there(light: DictConfig, key: str) -> None:
    assert failure(changed(light, **{key: "nowhere.py"})).startswith(f"{key}='nowhere.py': there is no such file")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "def compute_score(): ...",
            "score",
            f"{REWARD_NAME}='score': is not defined in {REWARD_PATH}=PATH. Use one of: ",
        ),
        ("x = 1 +\n", "compute_score", f"{REWARD_PATH}='PATH': is not a Python file (line 1: invalid syntax)"),
        ("raise SystemExit('was run')\nasync def compute_score(): ...", "compute_score", None),
        ("from rewards import mine as compute_score", "compute_score", None),
        ("from rewards import *", "compute_score", None),
        ("try:\n  import fast\nexcept ImportError:\n  compute_score = None", "compute_score", None),
        ("if True:\n  class compute_score: ...", "compute_score", None),
        ("class A:\n  def compute_score(): ...", "compute_score", f"{REWARD_NAME}='compute_score': "),
    ],
)
def test_a_function_is_looked_for_and_not_run(light: DictConfig, text: str, name: str, message: str | None) -> None:
    path = Path(light.data.train_files).with_name("mine.py")
    path.write_text(text)
    for written in (str(path), f"file://{path}"):
        config = changed(light, **{REWARD_PATH: written, REWARD_NAME: name})
        if message is None:
            check_own_data(config)
        else:
            assert failure(config).startswith(message.replace("PATH", written))


def test_a_function_in_a_package(light: DictConfig) -> None:
    package = "pkg://verl.utils.reward_score.gsm8k"
    check_own_data(changed(light, **{REWARD_PATH: package}))
    assert f"is not defined in {REWARD_PATH}={package}. Use one of: compute_score" in failure(
        changed(light, **{REWARD_PATH: package, REWARD_NAME: "score"})
    )
    for absent in ("pkg://nowhere", "pkg://nowhere.at.all"):
        assert failure(changed(light, **{REWARD_PATH: absent})).startswith(f"{REWARD_PATH}='{absent}': ")


def test_a_file_of_loops_names_the_loop(light: DictConfig) -> None:
    path = Path(light.data.train_files).with_name("loops.yaml")
    path.write_text("- name: mine\n  _target_: my_loops.Mine\n")
    config = changed(light, **{LOOPS: str(path)})
    check_own_data(config)
    check_own_data(changed(config, **{LOOP: "mine"}))
    assert failure(changed(config, **{LOOP: "other"})) == (
        f"{LOOP}='other': is not a loop of {LOOPS}={path}. Choose one of: mine, tool_agent, single_turn_agent"
    )
    path.write_text("mine: my_loops.Mine\n")
    assert "is not a YAML list of loops" in failure(changed(config, **{LOOP: "mine"}))


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
