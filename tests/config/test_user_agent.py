"""`env=none agent=module:function`: what is filled in, and what is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.derived import fill_derived
from actfocus_verl.preflight.overrides import expand_agent
from actfocus_verl.preflight.settings import check_config
from tests.config.conftest import changed, compose_config

LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"
OURS = "tests.helpers.gateway_agent:play"


@pytest.fixture(scope="module")
def composition() -> DictConfig:
    words = expand_agent(["env=none", "model.path=organisation/name", f"agent={OURS}", "agent.unfinished=mask"])
    assert words[2] == f"agent.function={OURS}"
    return compose_config(*words)


@pytest.fixture
def config(composition: DictConfig, tmp_path: Path) -> DictConfig:
    """A run on files with columns of the user's own."""
    for name in ("train", "val"):
        lines = (json.dumps({"question": f"{i} + 1", "answer": i + 1}) for i in range(12))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = {f"data.{name}_files": f"{tmp_path}/{name}.jsonl" for name in ("train", "val")}
    return changed(composition, **files)


def test_an_agent_brings_its_loop_and_its_dataset(config: DictConfig) -> None:
    fill_derived(config)
    check_config(config)
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == "actfocus_gateway"
    assert config.data.custom_cls.name == "TaskDataset"
    assert config.agent.unfinished == "mask"


def test_the_module_is_not_imported(config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine_only"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "agents.py").write_text("async def play(task, **endpoint): ...")
    monkeypatch.syspath_prepend(tmp_path)
    own = changed(config, **{"agent.function": "mine_only.agents:play"})
    fill_derived(own)
    check_config(own)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("agent.function", "tests.helpers.gateway_agent:missing", "agent.function='missing': is not defined in"),
        ("agent.function", "no_such_module:play", "there is no such module"),
        ("agent.function", "play", "agent.function='play': is not the name of a function. Write agent=module:function"),
        ("agent.command", "python agent.py", "agent.command='python agent.py': agent.function names an agent, too"),
        ("agent.timeout", -1, "agent.timeout=-1: must be a finite number > 0"),
        ("agent.unfinished", "drop", "agent.unfinished='drop': is not a known value"),
        ("algorithm.adv_estimator", "gigpo", "algorithm.adv_estimator='gigpo': takes each row for an episode"),
        (LOOP, "single_turn_agent", "does not play agent.function. Set it to actfocus_gateway"),
        ("credit.action_span", "column", "gives no column token_roles"),
        ("data.train_files", None, "env=none plays no world, so it needs a dataset"),
    ],
)
def test_what_is_refused(config: DictConfig, key: str, value: object, message: str) -> None:
    fill_derived(config)
    with pytest.raises(ConfigurationError) as error:
        check_config(changed(config, **{key: value}))
    assert message in str(error.value)


def test_a_command(config: DictConfig) -> None:
    own = changed(config, **{"agent.function": None, "agent.command": "python3 agent.py --fast"})
    fill_derived(own)
    check_config(own)
    with pytest.raises(ConfigurationError, match="there is no such program"):
        check_config(changed(own, **{"agent.command": "nowhere/agent"}))


def test_the_loop_without_an_agent(config: DictConfig) -> None:
    fill_derived(config)
    with pytest.raises(ConfigurationError, match=r"agent\.function=None: .* plays an agent, and none is named"):
        check_config(changed(config, **{"agent.function": None, LOOP: "actfocus_gateway"}))
